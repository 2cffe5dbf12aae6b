"""The public names: what they are, when they are loaded, and that their examples run."""

import ast
import contextlib
import doctest
import importlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import recjax
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.text.bpe import train_bpe
from recjax.text.prompts import WORDS, question
from recjax.text.tasks import TASKS
from recjax.training.run import Run

PUBLIC = {"InputError", "Interpreter", "TrainingStopped", "data", "evaluate", "load_llm", "models",
          "open_run", "prepare", "train"}  # fmt: skip


def test_the_names_are_listed_and_there():
    assert set(recjax.__all__) == PUBLIC and set(dir(recjax)) == {*PUBLIC, "__version__"}
    for module in (recjax, recjax.data, recjax.models):
        assert set(module.__all__) <= set(dir(module))
        assert all(getattr(module, name) is not None for name in module.__all__)
        with pytest.raises(
            AttributeError, match=rf"module '{module.__name__}' has no attribute 'x'"
        ):
            module.x  # noqa: B018
    # A submodule of the same name is not in the way.
    for name in ("evaluate", "prepare", "train", "open_run"):
        assert callable(getattr(recjax, name))


def test_importing_loads_nothing_heavy():
    code = """
import sys
import recjax
assert not {"numpy", "jax", "ml_collections"} & set(sys.modules)
recjax.data.leave_one_out
assert "numpy" in sys.modules and "jax" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


EXAMPLES = [
    "recjax", "recjax.data", "recjax.models", "recjax.api.prepare", "recjax.api.train",
    "recjax.api.evaluate", "recjax.training.workdir.open_run",
    "recjax.training.recommender.RecommenderRun.recommend", "recjax.recommend.split_keys",
    "recjax.errors.printable", "recjax.llm_folders.load_llm", "recjax.interpreter.api.Interpreter",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With what the examples open: a tiny language model, as a run of one would leave it, and the
    run of the first example."""
    folder = tmp_path_factory.mktemp("examples")
    texts = [question(p, WORDS["book"]) for task in TASKS.values() for p in task.prompts]
    tokenizer = train_bpe([*texts, "A film", "Another film"], 400)
    config = Config(
        vocab_size=tokenizer.size, dim=16, mlp_dim=16, layers=1, heads=2, kv_heads=1, head_dim=8,
        max_length=256,
    )  # fmt: skip
    params = params_of(Llama(config, rngs=nnx.Rngs(0)))
    write_language_model(folder / "runs" / "llm" / "hf", language_model(config, params))
    tokenizer.save(folder / "runs" / "llm" / "hf")
    with contextlib.chdir(folder):
        assert run_examples("recjax") == 0
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run_examples(name) == 0, capsys.readouterr().out


def test_an_open_run_is_found_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    run = recjax.open_run("runs/sample")
    monkeypatch.chdir(tmp_path)
    shapes = {path: a.shape for path, a in run.restore(run.best_step()).items()}
    assert shapes == {path: a.shape for path, a in run.model.shapes.items()}


@pytest.mark.parametrize("package", [recjax, recjax.data, recjax.models])
def test_type_checkers_see_the_public_names(package):
    tree = ast.parse(Path(package.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = {alias.asname: node.module for node in block.body for alias in node.names}
    public = {name: module or package.__name__ for name, module in package._PUBLIC.items()}
    assert found == public


def run_examples(name):
    """How many of the examples in a public docstring fail."""
    parts, rest = name.split("."), []
    while True:
        try:
            found = importlib.import_module(".".join(parts))
            break
        except ModuleNotFoundError:
            rest.insert(0, parts.pop())
    globs = {"recjax": recjax} if not rest else dict(vars(found))
    for part in rest:
        found = getattr(found, part)
    tests = doctest.DocTestFinder(recurse=False).find(found, name, globs=globs)
    assert tests and tests[0].examples, "no example in it"
    return doctest.DocTestRunner().run(tests[0]).failed


def test_configs_are_files_or_dicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = {
        "data": {"source": "simulated", "store": "store", "options": {"users": 30}},
        "model": {"name": "sasrec"},
    }
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(arg=None):\n    return ConfigDict({section!r})\n"
    )
    from ml_collections import ConfigDict

    paths = {
        str(recjax.prepare(config, changes={"data.store": f"store{n}"}).path)
        for n, config in enumerate(
            (section, ConfigDict(section), "config.py", tmp_path / "config.py:anything")
        )
    }
    assert paths == {f"store{n}" for n in range(4)}
    assert "store" not in [p.name for p in tmp_path.iterdir()]
    # Paths and NumPy's numbers are what a file has in their place.
    mine = {**section, "model": {"name": "sasrec", "dim": np.int64(8)}, "seed": np.int64(1)}
    mine["data"] = {**section["data"], "store": tmp_path / "paths"}
    changes = {"data.options.users": np.int64(20), "evaluation.cutoffs": np.array([1, 2])}
    found = recjax.prepare(mine, changes={**changes, "data.store": tmp_path / "paths"})
    assert found.path == tmp_path / "paths" and found.n_users == 20
    for config, changes, message in (
        ([1], None, r"config: expected a file or a dict of sections, got \[1\]"),
        (None, None, "config: expected a file or a dict of sections, got None"),
        (section, [("seed", 1)], "changes: expected a dict of dotted keys"),
        (section, {3: 1}, "changes: expected a dict of dotted keys"),
    ):
        with pytest.raises(InputError, match=message):
            recjax.prepare(config, changes=changes)
    with pytest.raises(InputError, match="expected a path, got None"):
        recjax.open_run(None)
    for wrong, message in (
        ({"protocols": "full"}, "protocols: expected a list of names, got 'full'"),
        ({"step": "4"}, "step: expected a whole number, got '4'"),
    ):
        with pytest.raises(InputError, match=message):
            recjax.evaluate("nowhere", **wrong)
    with pytest.raises(InputError, match=r"config.data has no 'stroe'; did you mean 'store'\?"):
        recjax.prepare(section, changes={"data.stroe": "x"})
    with pytest.raises(InputError, match="'config.data.sorce'; did you mean 'source'?"):
        recjax.train({**section, "data": {"sorce": "x"}}, "run")
    with pytest.raises(InputError, match="reads its recommender's data"):
        recjax.prepare({"system": "interpreter", "recommender": "a", "llm": "b"})
    with pytest.raises(InputError, match="missing; expected a workdir"):
        recjax.train(None, "nowhere")
    with pytest.raises(InputError, match="split: expected 'validation' or 'test', got 'tset'"):
        recjax.evaluate("nowhere", split="tset")
    assert not (tmp_path / "run").exists() and not (tmp_path / "nowhere").exists()


def test_a_training_that_a_signal_stops_ends_the_program(tmp_path, monkeypatch):
    """Otherwise a script takes half of a training for the whole."""
    config = {
        "data": {"source": "simulated", "store": f"{tmp_path}/store", "options": {"users": 60}},
        "model": {"name": "gru4rec", "dim": 8, "max_length": 12},
    }

    def interrupted(run, stop, claim):
        signal.raise_signal(signal.SIGINT)
        return {"step": 3, "finished": False}

    monkeypatch.setattr(Run, "_trained", interrupted)
    with pytest.raises(SystemExit) as stopped:
        recjax.train(config, tmp_path / "run")
    assert (
        str(stopped.value) == f"{tmp_path}/run: stopped by SIGINT at step 3; train again to resume"
    )
    assert isinstance(stopped.value, recjax.TrainingStopped) and stopped.value.step == 3
