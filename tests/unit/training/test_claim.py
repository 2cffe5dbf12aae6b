"""A run's folder: one process writes it, and no run goes before its successor stands."""

import json
import multiprocessing

import pytest

from recjax.errors import InputError
from recjax.training import loop
from recjax.training.claim import Claim

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({
        "data": {"source": "simulated", "store": arg or STORE,
                 "options": {"users": 20, "mean_length": 8.0, "max_length": 12}},
        "model": {"name": "sasrec", "dim": 4, "layers": 1, "max_length": 8},
        "train": {"batch_size": 8, "epochs": 2.0, "steps_per_call": 1},
    })
"""


@pytest.fixture
def train(recjax, tmp_path, monkeypatch):
    """`train(*flags) -> (status, JSON, stderr)` of the run in `W`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG.replace("STORE", "'store'"))
    return lambda *flags: recjax("train", "--config=config.py", "--workdir=W", "--json", *flags)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_replaced_when_its_successor_stands(train, recjax, tmp_path, monkeypatch):
    status, _, err = train("--config.train.mesh=(3,1,1)")
    assert status == 2 and not (tmp_path / "W").exists(), err
    assert train()[0] == 0
    good = tree(tmp_path / "W")
    # The config cannot be followed: the old run stands, and nothing beside it.
    (tmp_path / "other.csv").write_text("user,item\n")
    for flags in (
        ["--config.train.mesh=(3,1,1)"],
        ["--config.train.metric=validation/full/none"],
        ["--config.data.options.users=30"],
        ["--config.data.source=table", "--config.data.path=no.csv", "--config.data.options={}"],
    ):
        status, _, err = train("--overwrite", *flags)
        assert status == 2, (flags, err)
        assert tree(tmp_path / "W") == good, flags
        assert {p.name for p in tmp_path.iterdir()} == {"W", "store", "config.py", "other.csv"}
    # It fails before its first checkpoint.
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_judge", lambda *args: 1 / 0)
        assert train("--overwrite", "--config.seed=1")[0] == 1
    assert train("--overwrite", "--config.optim.learning_rate=1e30")[0] == 1
    assert tree(tmp_path / "W") == good
    # And with a config that can be followed.
    status, out, err = train("--overwrite", "--config.seed=1", "--config.train.keep_checkpoints=1")
    assert status == 0 and out["finished"], err
    assert json.loads((tmp_path / "W" / "config.json").read_text())["config"]["seed"] == 1
    assert recjax("evaluate", "--workdir=W", "--json")[1] == {
        key: value for key, value in out.items() if "/" in key
    }
    assert {p.name for p in tmp_path.iterdir()} == {"W", "store", "config.py", "other.csv"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["thesis.tex"], "not a workdir of `recjax train`"),
        (["config.json", "model.safetensors"], "not a workdir of `recjax train`"),
        (["manifest.json", "items.npy"], "(not a workdir|holds manifest.json, but no run)"),
    ],
)
def test_other_folders_are_left_alone(tmp_path, names, message, overwrite):
    for name in names:
        (tmp_path / name).write_text("{}")
    if names == ["thesis.tex"] and not overwrite:  # a run may stand beside it, as may its log
        Claim(tmp_path).release()
    else:
        with pytest.raises(InputError, match=message):
            Claim(tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == dict.fromkeys(names, b"{}")


def test_what_was_made_for_nothing_goes(tmp_path):
    claim = Claim(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / ".lock").exists()
    claim.abandon()
    assert list(tmp_path.iterdir()) == []


def _claim(workdir, pipe):
    claim = Claim(workdir)
    pipe.send("ready")
    pipe.recv()
    claim.release()


def test_a_second_run_ends_with_one_line(train, tmp_path):
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_claim, args=(tmp_path / "W", theirs)
    )
    process.start()
    try:
        assert ours.poll(30) and ours.recv() == "ready"
        for flags in ([], ["--overwrite"]):
            status, _, err = train(*flags)
            assert status == 2
            assert f"recjax: W: in use by process {process.pid} on " in err
            assert len(err.splitlines()) == 1
        assert [p.name for p in (tmp_path / "W").iterdir()] == [".lock"]
    finally:
        process.kill()
        process.join()
    assert train("--config.train.epochs=1")[0] == 0  # a dead process holds nothing
