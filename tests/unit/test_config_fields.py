"""Every field of a config is read somewhere: an option that nothing reads is a silent bug."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "recjax"
NAMES = ("Config", "Options")


def config_classes(tree):
    """Dataclasses named Config, Options, SomethingConfig."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(NAMES):
            fields = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign)]
            yield node, fields


def reads(tree, outside=None):
    """Attribute names that are read, as in `config.name`; those in `__post_init__` do not count
    (a check is no use), nor does what builds the class."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            skipped |= set(map(id, ast.walk(node)))
    return {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and id(n) not in skipped
    }


def unread(own, others):
    """Fields of one module's configs that neither it nor the other modules read."""
    tree = ast.parse(own)
    everywhere = reads(tree).union(*(reads(ast.parse(text)) for text in others))
    return [
        f"{node.name}.{field}"
        for node, fields in config_classes(tree)
        for field in fields
        if field not in everywhere
    ]


SOURCES = {p: p.read_text() for p in sorted(PACKAGE.rglob("*.py"))}
WITH_CONFIG = [
    p for p, text in SOURCES.items() if any(True for _ in config_classes(ast.parse(text)))
]


@pytest.mark.parametrize("path", WITH_CONFIG, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_field_is_read(path):
    """A model's or reader's own config is read in its module; the others anywhere."""
    local = path.parent.name in ("models", "sources") and path.name != "recommender.py"
    others = [text for p, text in SOURCES.items() if p != path]
    if local:
        # `dim` and `max_length` belong to the recommender contract and are read by its users.
        others = [SOURCES[PACKAGE / "models" / "recommender.py"]]
    found = unread(SOURCES[path], others)
    if path.name == "tfds.py":  # reads its features by name
        found = [f for f in found if f.split(".")[1] not in ("user", "item", "title")]
    assert found == []


def test_the_rule_sees_a_dead_field():
    source = """
class Config:
    used: int = 1
    dead: int = 2
    checked: int = 3
    def __post_init__(self):
        assert self.checked
def f(config):
    config.dead = 1
    return config.used
"""
    assert unread(source, []) == ["Config.dead", "Config.checked"]
