"""Above `models` and `convert` nothing asks for a model, a family or a task by its name."""

import ast
from pathlib import Path

import pytest

import recjax
from recjax.models.language import FAMILIES
from recjax.models.recommender import NAMES
from recjax.text.tasks import TASKS

PACKAGE = Path(recjax.__file__).parent
NAMED = {*NAMES, *FAMILIES, *TASKS}
BELOW = ("models", "convert")


def compared(source):
    """Names of models, families and tasks that code compares something with."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                for leaf in ast.walk(side):
                    if isinstance(leaf, ast.Constant) and leaf.value in NAMED:
                        yield leaf.value
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            yield from {node.value.value} & NAMED


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = name == 'caser'", ["caser"]),
        ("if task in ('residual', 'y'): pass", ["residual"]),
        ("match kind:\n    case 'llama': pass", ["llama"]),
        ("x = table['sasrec']", []),
    ],
)
def test_the_rule_sees_names(source, found):
    assert list(compared(source)) == found


def test_nothing_above_models_asks_for_a_name():
    modules = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in BELOW]
    found = {str(p.relative_to(PACKAGE)): list(compared(p.read_text())) for p in modules}
    assert len(modules) > 80 and {p: names for p, names in found.items() if names} == {}
