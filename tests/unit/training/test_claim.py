"""A run's folder: one process writes it, and no run goes before its successor stands."""

import errno
import json
import multiprocessing
import os
import pkgutil
import signal

import orbax.checkpoint as ocp
import pytest

from recjax.errors import InputError
from recjax.training.claim import Claim
from recjax.training.criteria import Progress
from recjax.training.metrics import MetricWriter, read_metrics

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


def test_a_run_is_replaced_when_its_successor_stands(train, recjax, tmp_path):
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


def test_signals_at_any_moment(train, tmp_path, monkeypatch):
    """Before the first step, while it compiles, in a validation, in a save, in the test."""
    moments = [
        ("recjax.data.sources.simulated.simulate", signal.SIGTERM, 0, "rerun the command"),
        ("recjax.training.trainable.state_of", signal.SIGINT, 130, "at step 0; rerun"),
        # The first call's losses are read while the second one runs.
        ("recjax.training.loop._checked", signal.SIGTERM, 0, "at step 2; rerun"),
        (
            "recjax.training.criteria.Progress.judge",
            signal.SIGINT,
            130,
            "at step 2; rerun the command",
        ),
        ("recjax.training.checkpoint.write_checksums", signal.SIGTERM, 0, "at step"),
    ]
    for place, number, expected, message in moments:
        with monkeypatch.context() as patch:
            real = pkgutil.resolve_name(place)

            def act(*args, real=real, number=number, **kwargs):
                os.kill(os.getpid(), number)
                return real(*args, **kwargs)

            patch.setattr(place, act)
            status, out, err = train()
        assert status == expected, (place, err)
        lines = [line for line in err.splitlines() if line.startswith("recjax: ")]
        assert len(lines) == 1 and err.splitlines()[-1] == lines[0], (place, err)
        assert f"recjax: stopped by {number.name}" in lines[0] and message in lines[0], lines
        assert out is None or not out["finished"]
    status, out, err = train()
    assert status == 0 and out["finished"], err
    steps = [line["step"] for line in read_metrics(tmp_path / "W" / "metrics.jsonl")]
    assert steps == sorted(set(steps[:-1])) + steps[-1:]


def test_a_disk_that_is_full_for_a_while(train, tmp_path, monkeypatch):
    """The best step finds no room: the next one takes its place, and the lines are complete."""
    real, saves = ocp.CheckpointManager.save, []

    def save(self, step, *args, **kwargs):
        saves.append(step)
        if len(saves) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, step, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    monkeypatch.setattr(MetricWriter, "_append", _full_once(MetricWriter._append))
    validations(monkeypatch, 0.9, 0.5)
    status, out, err = train()
    assert status == 0 and out["finished"], err
    lines = [line for line in err.splitlines() if line.startswith("recjax: ")]
    assert len(lines) == 2 and all("the disk is full" in line for line in lines), lines
    assert out["step"] == saves[1] == 4
    assert [line["step"] for line in read_metrics(tmp_path / "W" / "metrics.jsonl")] == [2, 4, 4]


def validations(monkeypatch, *values):
    """The metric has these values, one a validation."""
    values, judge = iter(values), Progress.judge

    def judged(self, found, step, *, metric, **options):
        return judge(self, {**found, metric: next(values)}, step, metric=metric, **options)

    monkeypatch.setattr(Progress, "judge", judged)


def test_the_best_step_is_damaged(train, recjax, tmp_path, monkeypatch):
    """And the one before it went when it came."""
    validations(monkeypatch, 0.5, 0.4, 0.9, 0.3)
    assert train("--config.train.epochs=3")[1]["step"] == 6
    steps = tmp_path / "W" / "checkpoints"
    assert {p.name for p in steps.iterdir()} == {"4", "6"}
    file = max((steps / "6" / "state").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    status, _, err = recjax("evaluate", "--workdir=W")
    assert status == 0 and "6: damaged (state/" in err and "step 4 is used" in err
    assert "checkpoint: step 4" in err
    status, out, err = train("--config.train.epochs=3")
    assert status == 0 and out["step"] == 6 and "step 4 is used" in err
    assert {p.name for p in steps.iterdir()} == {"4", "6"}


def _full_once(real):
    calls = []

    def append(self):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self)

    return append


def test_the_advice_after_divergence_can_be_followed(train):
    """A resume refuses another learning rate; what the message says does not."""
    status, _, err = train("--config.optim.learning_rate=1e30")
    assert status == 1 and "with a lower config.optim.learning_rate" in err
    status, _, err = train("--config.optim.learning_rate=1e-3")
    assert status == 2 and "optim.learning_rate differ" in err
    assert train("--config.optim.learning_rate=1e-3", "--overwrite")[0] == 0


def test_places_that_cannot_be_written(train, tmp_path):
    (tmp_path / "W").write_text("mine")
    status, _, err = train()
    assert status == 2 and err == "recjax: cannot write W: is a file\n"
    (tmp_path / "W").unlink()
    (tmp_path / "W").mkdir()
    if os.geteuid() == 0:
        return  # who may write everywhere
    (tmp_path / "W").chmod(0o500)
    status, _, err = train()
    assert status == 2 and err == "recjax: cannot write W/.lock: Permission denied\n"
