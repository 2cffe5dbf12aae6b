"""Imports point down only (design.md, section 1), and nothing loads torch or TensorFlow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "recjax"
# From the bottom up: a module may import its own layer and those below it. `data` and `text` have
# no jax.
LAYERS = (
    ("lazy", "systems"),
    ("errors", "typing", "ranges", "config", "paths", "arguments", "own_parts"),
    ("array_files", "json_files", "memory", "locks"),
    ("signals", "sharded"),
    ("replace", "out_files"),
    ("data",),
    ("text",),
    ("nn",),
    ("models",),
    ("generate", "convert"),
    ("evaluation", "testing"),
    ("training",),
    ("decoding", "llm_inputs"),
    ("frozen",),
    ("llm", "compare"),
    ("llm_folders",),
    ("prompting", "text_vectors"),
    ("scoring",),
    ("list_files",),
    ("recommend", "api"),
    ("interpreter", "guided", "recsysllm", "report"),
    ("flags",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SYSTEMS = {"interpreter", "guided", "recsysllm"}
# The one module of `report` that systems import: they write sections, `report` shows them. It
# stands on the lowest modules alone.
SECTIONS = "report.sections"
# evaluation and generate take callables, never models; recjax.typing imports jax.
FORBIDDEN = {
    "data": {"typing", "sharded"},
    "text": {"typing", "sharded"},
    "evaluation": {"models", "nn", "training"},
    "generate": {"models", "nn", "training"},
    "report": SYSTEMS,
    **{system: SYSTEMS - {system} for system in SYSTEMS},
}
# What is imported by a name that a table holds: systems and families of language models, when a
# config asks for one (the only way up), and the public names of a package; and a module of a
# user's own, which a config names.
BY_NAME = ("models/language.py", "lazy.py", "own_parts.py")
# Contracts build models, their training state, and language models as one object.
ALSO = {"testing": {"training", "llm"}}
NEVER = {"torch", "tensorflow", "pandas"}
# Where it is installed, torch reads its own .pt files, for no one else may unpickle them, and
# computes the logits that `recjax convert --check` compares ours with.
WITH_TORCH = ("convert/files.py", "convert/check.py")
LAZY = {"transformers", "tensorflow_datasets", "pyarrow", "matplotlib", "tensorboardX"}
LAZY |= {"tokenizers", "sentencepiece", "scipy"}
OF_DATA = {"numpy", "recjax"} | set(sys.stdlib_module_names)
LAZILY = {
    "data": {"tensorflow_datasets", "pyarrow", "scipy"},
    "text": {"tokenizers", "sentencepiece", "jinja2"},
}


def imports(node, lazy=False):
    """`(module, inside a function, or for type checkers)` of every import below a node, dynamic
    ones too."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the layer"
        yield node.module, lazy
        if node.module == "recjax":
            yield from ((f"recjax.{alias.name}", lazy) for alias in node.names)
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        if name in ("import_module", "__import__"):
            what = node.args[0]
            if isinstance(what, ast.JoinedStr):  # f"recjax.models.{name}"
                what = what.values[0]
            yield (what.value if isinstance(what, ast.Constant) else "?"), lazy
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    lazy = lazy or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from imports(child, lazy)


def violations(path, source):
    """What a module of the package may not import but does."""
    place = path.relative_to(PACKAGE)
    part = place.parts[0].removesuffix(".py")
    if part == "__init__":
        found = (name for name, lazy in imports(ast.parse(source)) if not lazy)
        return [
            f"recjax/__init__.py imports {name}"
            for name in found
            if name not in ("typing", "recjax.lazy", "recjax.lazy.find")
        ]
    out = []
    for name, lazy in imports(ast.parse(source)):
        root, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if name == "torch" and lazy and place.as_posix() in WITH_TORCH:
            continue
        if root == "?" and lazy and place.as_posix() in BY_NAME:
            continue
        if root in NEVER or root == "?":
            out.append(f"imports {root}")
        elif root in LAZY and not lazy:
            out.append(f"imports {root} at module level")
        elif part in LAZILY and root not in OF_DATA | (LAZILY[part] if lazy else set()):
            out.append(f"{part} imports {root}")
        elif place.as_posix() == "report/sections.py" and not (
            name in ("recjax.errors", "recjax.json_files", "recjax.replace")
            or root in sys.stdlib_module_names
        ):
            out.append(f"{SECTIONS} imports {name}")
        elif part in SYSTEMS and other == "report" and rest != SECTIONS:
            out.append(f"{part} imports {rest}")
        elif root == "recjax" and other:
            up = LEVEL[other] > LEVEL[part] and other not in ALSO.get(part, ())
            if up or other in FORBIDDEN.get(part, ()):
                out.append(f"{part} imports {other}")
    return out


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("where", "source", "found"),
    [
        ("data/x.py", "import jax", "data imports jax"),
        ("data/x.py", "def f():\n    import jax", "data imports jax"),
        ("data/x.py", "from recjax.typing import Array", "data imports typing"),
        ("data/x.py", "from recjax.nn import masks", "data imports nn"),
        ("data/x.py", "import pyarrow", "imports pyarrow at module level"),
        (
            "data/x.py",
            "try:\n    import pyarrow.parquet\nexcept ImportError:\n    pass",
            "imports pyarrow at module level",
        ),
        ("data/x.py", "def f():\n    from recjax.text import chat", "data imports text"),
        ("data/x.py", "def f():\n    import tokenizers", "data imports tokenizers"),
        ("text/x.py", "import jax", "text imports jax"),
        ("text/x.py", "import tokenizers", "imports tokenizers at module level"),
        ("text/x.py", "def f():\n    import transformers", "text imports transformers"),
        ("data/x.py", "def f():\n    import pandas", "imports pandas"),
        ("nn/x.py", "import recjax.models.sasrec", "nn imports models"),
        ("models/x.py", "from recjax.training import loop", "models imports training"),
        ("models/x.py", "from recjax import training", "models imports training"),
        ("evaluation/x.py", "import recjax.models.sasrec", "evaluation imports models"),
        ("generate/x.py", "from recjax.models import llama", "generate imports models"),
        ("training/x.py", "from recjax import cli", "training imports cli"),
        ("training/x.py", "import transformers", "imports transformers at module level"),
        ("guided/x.py", "from recjax import interpreter", "guided imports interpreter"),
        ("guided/x.py", "from recjax.report import page", "guided imports report"),
        ("guided/x.py", "from recjax.report.page import f", "guided imports report.page"),
        ("report/x.py", "def f():\n    import recjax.guided.x", "report imports guided"),
        ("report/sections.py", "import numpy", "report.sections imports numpy"),
        (
            "report/sections.py",
            "from recjax.report.html import f",
            "report.sections imports recjax.report.html",
        ),
        ("cli.py", "def f():\n    import torch.nn", "imports torch"),
        ("cli.py", "f = lambda: __import__('tensorflow')", "imports tensorflow"),
        ("convert/files.py", "import torch", "imports torch"),
        ("convert/files.py", "def f():\n    import torch.nn", "imports torch"),
        ("convert/x.py", "def f():\n    import torch", "imports torch"),
        ("convert/check.py", "import torch", "imports torch"),
        ("nn/x.py", "import_module(f'recjax.models.{name}')", "nn imports models"),
        ("nn/x.py", "import_module(name)", "imports ?"),
        ("lazy.py", "import_module(name)", "imports ?"),
        ("training/x.py", "def f():\n    import_module(name)", "imports ?"),
        ("__init__.py", "import jax", "recjax/__init__.py imports jax"),
    ],
)
def test_the_rule_sees_violations(where, source, found):
    assert violations(PACKAGE / where, source) == [found]


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("data/x.py", "import numpy as np\nfrom recjax.config import nearest"),
        ("data/x.py", "def f():\n    import pyarrow.parquet"),
        ("text/x.py", "def f():\n    import tokenizers\n    from sentencepiece import X"),
        ("convert/files.py", "def f():\n    import torch"),
        ("convert/check.py", "def f():\n    import torch\n    import transformers"),
        ("models/x.py", "def f():\n    import transformers"),
        ("training/x.py", "from recjax.data.splits import Spans\nimport recjax.models.sasrec"),
        ("lazy.py", "def f():\n    import_module(name)"),
        ("testing/x.py", "from recjax.training.state import define"),
        ("guided/x.py", "from recjax import training"),
        ("guided/x.py", "from recjax.report.sections import Table"),
        ("report/x.py", "from recjax.training import workdir"),
        ("report/sections.py", "import json\nfrom recjax.errors import InputError"),
        ("__init__.py", "def f():\n    from recjax.llm_folders import load_llm"),
    ],
)
def test_the_rule_allows(where, source):
    assert violations(PACKAGE / where, source) == []


def names(modules):
    """Dotted names of module files."""
    parts = (p.relative_to(PACKAGE.parent).with_suffix("").parts for p in modules)
    return [".".join(p).removesuffix(".__init__") for p in parts]


def python(code, *path):
    """Runs code in a fresh process, with folders at the front of its path."""
    path = os.pathsep.join([*map(str, path), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_data_text_and_what_is_made_of_them_load_without_jax():
    rooms = PACKAGE / "data", PACKAGE / "text"
    modules = names(p for p in MODULES if p.parent in rooms or p.parent.parent in rooms)
    modules += ["recjax.recsysllm.blanks", "recjax.recsysllm.entities", "recjax.guided.aspects"]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
heavy = {{"jax", "flax", "pandas", "pyarrow", "tensorflow_datasets", "tokenizers"}}
heavy &= set(sys.modules)
sys.exit(f"loaded: {{heavy}}" if heavy else 0)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


RUN = """
from pathlib import Path
Path("config.py").write_text('''
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({
        "data": {"source": "simulated", "store": "store",
                 "options": {"users": 20, "mean_length": 8.0, "max_length": 12}},
        "model": {"name": "sasrec", "dim": 4, "layers": 1, "max_length": 8},
        "train": {"batch_size": 8, "epochs": 1.0, "steps_per_call": 1},
    })
''')
from recjax.cli import main
assert main(["train", "--config=config.py", "--workdir=run"]) == 0
assert main(["evaluate", "--workdir=run"]) == 0
"""


@pytest.fixture
def decoys(tmp_path, monkeypatch):
    """Folders `torch` and `tensorflow`: importing either leaves a mark, wherever it is caught."""
    monkeypatch.chdir(tmp_path)
    for name in ("torch", "tensorflow"):
        (tmp_path / "decoys" / name).mkdir(parents=True)
        (tmp_path / "decoys" / name / "__init__.py").write_text(
            f"import traceback\nwith open({str(tmp_path / 'marks')!r}, 'a') as marks:\n"
            f"    marks.write({name!r} + ''.join(traceback.format_stack(limit=12)))\n"
            "raise ImportError\n"
        )
    return tmp_path / "decoys"


def marks(decoys):
    file = decoys.parent / "marks"
    return file.read_text() if file.exists() else ""


def test_the_decoys_see_an_import(decoys):
    done = python("try:\n    import torch\nexcept ImportError:\n    pass", decoys)
    assert done.returncode == 0 and marks(decoys).startswith("torch")


def test_no_module_loads_torch_or_tensorflow(decoys):
    code = "import importlib, tensorflow_datasets\n"
    code += f"for name in {names(MODULES)!r}:\n    importlib.import_module(name)"
    done = python(code, decoys)
    assert done.returncode == 0, done.stderr
    assert marks(decoys) == ""


def test_no_run_loads_torch_or_tensorflow(decoys):
    """Prepared, trained and evaluated by the command."""
    done = python(RUN, decoys)
    assert done.returncode == 0, done.stderr
    assert marks(decoys) == ""
