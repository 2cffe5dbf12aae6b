"""Imports point down only (design.md, section 1), and nothing loads torch or TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "recjax"
# From the bottom up: a module may import its own layer and those below it.
LAYERS = (
    ("errors", "typing", "config"),
    ("data",),
    ("nn",),
    ("models",),
    ("generate", "convert"),
    ("evaluation", "testing"),
    ("training",),
    ("interpreter", "guided", "recsysllm", "report"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SYSTEMS = {"interpreter", "guided", "recsysllm"}
# evaluation and generate take callables, never models; testing builds models and their state.
FORBIDDEN = {
    "evaluation": {"models", "nn", "training"},
    "generate": {"models", "nn", "training"},
    **{system: SYSTEMS - {system} for system in SYSTEMS},
}
ALSO = {"testing": {"training"}}
NUMPY_ONLY = {"numpy", "recjax"} | set(sys.stdlib_module_names)


def imports(tree, *, top_level_only=False):
    """Absolute names of imported modules."""
    if top_level_only:
        nodes = [
            n
            for stmt in tree.body
            for n in ([stmt] if isinstance(stmt, ast.Import | ast.ImportFrom) else [])
        ]
    else:
        nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            base = node.module
            yield base
            if base == "recjax":
                yield from (f"recjax.{alias.name}" for alias in node.names)


def violations(path, source):
    tree = ast.parse(source)
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    out = []
    if part == "__init__":
        return out
    for name in imports(tree):
        root, _, rest = name.partition(".")
        if root in ("torch", "tensorflow"):
            out.append(f"imports {root}")
        if root == "recjax" and rest:
            other = rest.partition(".")[0]
            if other in ALSO.get(part, ()):
                continue
            if LEVEL[other] > LEVEL[part] or other in FORBIDDEN.get(part, ()):
                out.append(f"{part} imports {other}")
    for name in imports(tree, top_level_only=True):
        root = name.partition(".")[0]
        if root == "transformers" or (part == "data" and root not in NUMPY_ONLY):
            out.append(f"imports {root} at module level")
    return out


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("data/x.py", "import jax"),
        ("models/x.py", "from recjax.training import loop"),
        ("evaluation/x.py", "import recjax.models.sasrec"),
        ("cli.py", "def f():\n    import torch"),
        ("guided/x.py", "from recjax import interpreter"),
        ("training/x.py", "import transformers"),
    ],
)
def test_the_rule_sees_violations(where, source):
    assert violations(PACKAGE / where, source)


def test_nothing_loads_torch_or_tensorflow():
    modules = [
        ".".join(["recjax", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        )
        for p in MODULES
    ]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
import tensorflow_datasets
loaded = {{m.partition(".")[0] for m in sys.modules}} & {{"torch", "tensorflow"}}
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
