"""The command's contract: exit status, one line on errors, JSON on stdout."""

import re
import subprocess
import sys

import pytest

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.data = {"source": "simulated", "store": STORE,
                   "options": {"users": 60, "mean_length": 10.0, "max_length": 30}}
    config.model = {"name": arg or "sasrec", "dim": 8, "max_length": 12, "layers": 1}
    config.objective = {"name": "softmax"}
    config.train = {"batch_size": 16, "epochs": 4.0, "steps_per_call": 4}
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("STORE", repr(str(tmp_path / "store"))))
    return path


def one_line(err):
    lines = [line for line in err.splitlines() if line.startswith("recjax: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    return lines[0]


def test_prepare_train_evaluate(recjax, config, tmp_path, monkeypatch):
    monkeypatch.setattr("recjax.evaluation.protocols._REPEATED", -1.0)  # told though nobody repeats
    told = "0% of the test targets are in the user's own history"
    rules = "--config.train.rules={'items': ('tensor',)}"
    status, out, err = recjax("prepare", f"--config={config}", "--json", rules)
    assert status == 0 and out["counts"]["users"] == 60
    assert "config.train.rules: {} -> {'items': ('tensor',)}\n" in err
    assert "users                 60" in err
    work = tmp_path / "work"
    train = ("train", f"--config={config}", f"--workdir={work}", "--json")
    status, trained, err = recjax(*train, "--config.train.epochs=2", "--config.seed", "5")
    assert status == 0 and trained["finished"]
    assert "config.seed: 0 -> 5" in err and "config.train.epochs: 4.0 -> 2.0" in err
    assert "test/full" in err and str(work) in err and told in err
    status, evaluated, err = recjax("evaluate", f"--workdir={work}", "--json")
    assert status == 0 and told in err
    assert evaluated == {k: v for k, v in trained.items() if "/" in k}
    for name in ("config.json", "manifest.json", "metrics.jsonl", "checkpoints"):
        assert (work / name).exists()
    status, other, _ = recjax(
        "evaluate", f"--workdir={work}", "--split=validation", "--protocols=uni100", "--json"
    )
    assert status == 0 and set(other) == {
        f"validation/uni100/{m}@{k}"
        for m in ("hr", "recall", "ndcg", "mrr")
        for k in (1, 5, 10, 20)
    } | {"validation/uni100/mrr"}
    # The same command again notices that all is done.
    again = recjax(*train, "--config.train.epochs=2", "--config.seed=5")[1]
    assert again == trained


def test_evaluate_without_json_prints_nothing_on_stdout(recjax, config, tmp_path):
    work = f"--workdir={tmp_path / 'w'}"
    assert recjax("train", f"--config={config}", work, "--config.train.epochs=1")[:2] == (0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config=CONFIG"], "the following arguments are required: --workdir"),
        (["fly"], "argument COMMAND: invalid choice: 'fly'; known: convert, "),
        (
            ["trian", "--workdir=W"],
            "argument COMMAND: invalid choice: 'trian'; did you mean 'train'?",
        ),
        (["train", "--wordkir=W"], "unknown flag '--wordkir'; did you mean '--workdir'?"),
        (["train", "--train.epochs=3"], "a config's key is written --config.train.epochs=3; see"),
        (["recommend", "--user=7"], "'--user'; did you mean '--users'?; see `recjax recommend -"),
        (["evaluate", "--workdir=W", "--split=tset"], "'tset'; did you mean 'test'?"),
        (["evaluate", "--workdir=W", "1,", "1)"], "unknown argument '1,'; a value with blanks"),
        (["prepare", "--config=nowhere.py"], "--config: no file nowhere.py"),
        (
            ["prepare", "--config=CONFIG", "--confg.seed=1"],
            "'--confg.seed'; a config's key is written --config.seed",
        ),
        (["prepare", "--config=CONFIG", "--config.seed"], "argument '--config.seed' has no value"),
        (
            ["prepare", "--config=CONFIG", "--config.data.sorce=x"],
            "unknown config key 'data.sorce': config.data has no 'sorce'; did you mean 'source'?",
        ),
        (
            ["prepare", "--config=CONFIG", "--config.model.dims=9"],
            "config.model has no 'dims'; did you mean 'dim'?",
        ),
        (
            ["train", "--config=CONFIG:sasrek", "--workdir=W"],
            "config.model.name: no recommender 'sasrek'; did you mean 'sasrec'?",
        ),
        (
            ["train", "--config=CONFIG:BSARec", "--workdir=W"],
            "no recommender 'BSARec'; it is 'filtered' with preset 'bsarec-beauty'",
        ),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--config.train.metric=validation/full/hr"],
            "config.train.metric: no metric 'validation/full/hr' among what config.evaluation",
        ),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--config.train.mesh=(3,1,1)"],
            "config.train.mesh (3, 1, 1) does not fit 1 devices",
        ),
        (["train", "--config=CONFIG", "--workdir=gs://a/b"], "--workdir=gs://a/b: expected a path"),
        (["train", "--workdir", "s3://a/b"], "s3://a/b: expected a path; mount the bucket"),
        (["evaluate", "--workdir=W"], "W/config.json: missing; expected a workdir of `recjax tra"),
        (
            ["simulate", "--workdir=W", "--config.users=0"],
            "config.users: expected at least 1, got 0",
        ),
    ],
)
def test_bad_usage_is_one_line_and_status_2(recjax, config, tmp_path, arguments, message):
    arguments = [
        a.replace("CONFIG", str(config)).replace("=W", f"={tmp_path}/W") for a in arguments
    ]
    status, out, err = recjax(*arguments)
    assert (status, out) == (2, None)
    assert message in one_line(err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["f\x1b[2Jly\nrecjax: done"],
        ["train", "--workdir=W", "--x\x9b31m\u202e\udc80"],
        ["train", "--workdir=W\nrecjax: done", "--config=C\x07"],
        ["prepare", "--config=CONFIG", "--config.data.\x1bc=1"],
        ["prepare", "--config=CONFIG", "--config.data.options={'\x1b[2J': '\u202e'}"],
        ["prepare", "--config=CONFIG", "--skip-bad-rows=\x1b[2J"],
        ["prepare", "--config=CONFIG", f"--config.data.{'k' * 1_000_000}=1"],
        ["evaluate", "--workdir=W/\x1b[2J", "--debug"],
    ],
    ids=range(8),
)
def test_arguments_reach_no_terminal_raw(recjax, config, tmp_path, arguments):
    arguments = [
        a.replace("CONFIG", str(config)).replace("=W", f"={tmp_path}/W") for a in arguments
    ]
    status, _, err = recjax(*arguments)
    assert status == 2 and len(one_line(err)) < 1100
    assert not set(err.replace("\n", "")) & {"\x1b", "\x9b", "\x07", "\u202e", "\udc80"}


def test_errors_of_others_are_one_line_too(recjax, tmp_path, monkeypatch):
    from recjax import compare

    def fail(*_, **__):
        raise RuntimeError("first\n\x1b[2Jsecond\n" + "x" * 5000)

    monkeypatch.setattr(compare, "open_run", fail)
    status, _, err = recjax("evaluate", f"--workdir={tmp_path}")
    assert status == 1 and "RuntimeError: first \\x1b[2Jsecond xx" in one_line(err)
    assert len(err) < 1100


@pytest.mark.parametrize(
    "change",
    [
        "seed=-1", f"seed={2**64}", "seed=True", "seed=None", "evaluation.max_examples=-3",
        "model.max_length=0", "model.dim=0", "model.dropout=1.5", "train.batch_size=10_000_000_000",
        "optim.learning_rate=-1", "train.epochs=1e400", "train.patience=x", "train.mesh=0,1,1",
        "train.mesh=1,1", "optim.ramp_epochs=1", "data.k_core_items=-1", "data.options.users=0",
        "evaluation.cutoffs=5,0", "model.init_std=nan", f"train.epochs={10**400}",
    ],
)  # fmt: skip
def test_values_out_of_range_are_told_before_anything_is_written(recjax, config, tmp_path, change):
    work = tmp_path / "work"
    status, _, err = recjax(
        "train", f"--config={config}", f"--workdir={work}", f"--config.{change}"
    )
    assert status == 2 and f"config.{change.partition('=')[0]}: expected" in one_line(err)
    assert not work.exists() and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.dim", 2**20), ("model.mlp_dim", 2**20), ("model.max_length", 2**20),
        ("train.steps_per_call", 10_000), ("objective.negatives", 2**20),
    ],
)  # fmt: skip
def test_impossible_sizes_are_told_before_the_workdir_is_made(
    recjax, config, tmp_path, key, value, monkeypatch
):
    monkeypatch.setattr("recjax.training.run.host_bytes", lambda: 2 * 10**9)
    work = tmp_path / "work"
    changes = [f"--config.{key}={value}", "--config.objective.name=bce"]
    if key == "train.steps_per_call":
        changes += ["--config.train.packed=False", "--config.model.max_length=1000"]
    status, _, err = recjax("train", f"--config={config}", f"--workdir={work}", *changes)
    assert status == 2 and f"config.{key}: takes" in one_line(err)
    assert not work.exists()


def test_checkpoints_of_another_model_or_data_are_refused(recjax, config, tmp_path):
    work = tmp_path / "w"
    train = ("train", f"--config={config}", f"--workdir={work}", "--config.train.epochs=1")
    assert recjax(*train)[0] == 0
    before = sorted(p.name for p in (work / "checkpoints").iterdir())
    status, _, err = recjax(*train, "--config.model.dim=16")
    assert status == 2
    assert "belongs to a run with another config (model.dim differ)" in one_line(err)
    # Another model's checkpoints in the folder.
    other = tmp_path / "other"
    assert recjax("train", f"--config={config}:gru4rec", f"--workdir={other}")[0] == 0
    (other / "checkpoints").rename(tmp_path / "kept")
    (work / "checkpoints").rename(other / "checkpoints")
    status, _, err = recjax("evaluate", f"--workdir={other}")
    assert status == 2
    line = one_line(err)
    assert "a checkpoint of another model (name sasrec, expected gru4rec)" in line
    assert sorted(p.name for p in (other / "checkpoints").iterdir()) == before
    # Another data set in the store's place.
    (other / "checkpoints").rename(work / "checkpoints")
    text = config.read_text().replace('"users": 60', '"users": 61')
    config.write_text(text)
    assert recjax("prepare", f"--config={config}", "--overwrite")[0] == 0
    status, _, err = recjax("evaluate", f"--workdir={work}")
    told = f"the store {tmp_path / 'store'} was prepared anew, from other data, after this run"
    assert status == 2 and told in one_line(err)


def test_a_diverged_run_fails_and_keeps_its_checkpoints(recjax, config, tmp_path):
    work = tmp_path / "w"
    train = ("train", f"--config={config}", f"--workdir={work}")
    status, _, err = recjax(*train, "--config.optim.learning_rate=1e30")
    assert status == 1
    assert "DivergedError: step " in one_line(err)


def test_overwrite_starts_anew_but_removes_runs_only(recjax, config, tmp_path):
    work = tmp_path / "w"
    train = ("train", f"--config={config}", f"--workdir={work}", "--config.train.epochs=1")
    assert recjax(*train)[0] == 0
    (work / "mine.txt").write_text("")
    status, _, err = recjax(*train, "--config.model.dim=16", "--overwrite")
    assert status == 2 and "w: holds 'mine.txt', which recjax did not write" in one_line(err)
    (work / "mine.txt").unlink()
    link = tmp_path / "link"
    link.symlink_to(work)
    again = ("train", f"--config={config}", f"--workdir={link}", "--config.train.epochs=1")
    assert recjax(*again, "--config.model.dim=16", "--overwrite")[0] == 0
    assert link.is_symlink() and '"dim": 16' in (work / "config.json").read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert ".lock" not in {p.name for p in work.iterdir()}
    model = tmp_path / "llama"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    other = ("train", f"--config={config}", f"--workdir={model}", "--overwrite")
    status, _, err = recjax(*other)
    assert status == 2 and "llama: not a workdir of `recjax train`" in one_line(err)
    assert (model / "config.json").exists()


def test_unwritable_workdir(recjax, config, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = recjax("train", f"--config={config}", f"--workdir={tmp_path}/file/w")
    assert status == 2 and f"cannot write {tmp_path}/file/w: Not a directory" in one_line(err)


def test_debug_shows_the_traceback(recjax, tmp_path):
    _, _, err = recjax("evaluate", f"--workdir={tmp_path}", "--debug")
    assert "Traceback" in err


def test_simulate_writes_what_the_table_reader_reads(recjax, tmp_path):
    raw = tmp_path / "raw"
    arguments = ("simulate", f"--workdir={raw}", "--config.users=50", "--config.max_length=40")
    status, out, _ = recjax(*arguments, "--json")
    assert status == 0 and out["users"] == 50
    status, _, err = recjax(*arguments)
    assert status == 2 and "raw exists already; --overwrite replaces it" in one_line(err)


def test_module_and_script_are_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "recjax", "evaluate", "--workdir=/nowhere"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "recjax: /nowhere/config.json: missing; expected a workdir of `recjax train`"
    ]


COMMANDS = {
    "evaluate": ["evaluate", "--workdir=PLACE"],
    "interpret": ["interpret", "--workdir=PLACE"],
    "report": ["report", "--workdir=PLACE"],
    "resume": ["train", "--workdir=PLACE"],
    "prepare": ["prepare", "--config=PLACE"],
    "plan": ["plan", "--from=PLACE"],
    "plan --config": ["plan", "--config=PLACE"],
    "convert": ["convert", "--from=PLACE", "--to=OUT"],
    "convert --workdir": ["convert", "--workdir=PLACE", "--to=OUT.npz"],
    "store": ["prepare", "--config=CONFIG", "--config.data.store=PLACE"],
    "data": [
        "prepare", "--config=CONFIG", "--config.data.source=table", "--config.data.options={}",
        "--config.data.path=PLACE", "--config.data.store=OUT",
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_places_where_nothing_can_be_read_are_one_line_and_status_2(
    recjax, config, tmp_path, command
):
    """Nothing is written either."""
    places = {name: tmp_path / name for name in ("loop", "folder.json", "empty", "binary.csv")}
    places["loop"].symlink_to(places["loop"])
    places["folder.json"].mkdir()
    (places["folder.json"] / "config.json").mkdir()
    places["empty"].write_bytes(b"")
    places["binary.csv"].write_bytes(bytes(range(256)) * 9)
    before = sorted(tmp_path.rglob("*"))
    for place in ("", "gone", "n" * 300, "n/" * 3000, "a\0b", *places.values()):
        if (command, place) == ("store", "gone"):
            continue  # a store that is made
        words = {"PLACE": place, "OUT": tmp_path / "out", "CONFIG": config}
        arguments = list(COMMANDS[command])
        for word, value in words.items():
            arguments = [argument.replace(word, str(value)) for argument in arguments]
        status, out, err = recjax(*arguments)
        assert (status, out) == (2, None), (place, err)
        assert len(one_line(err)) < 1100
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def get_config(arg):\n    raise SystemExit", r"get_config\(arg\) failed: SystemExit"),
        ("def get_config(arg):\n    return {}['x']", r"get_config\(arg\) failed: KeyError: 'x'"),
        ("def get_config(arg):\n    return get_config(arg)", "failed: RecursionError"),
        ("def get_config(arg):\n    raise OSError('a\\nb\\x1b')", r"failed: OSError: a b\\x1b"),
    ],
)
def test_what_a_config_file_raises_names_the_file(recjax, tmp_path, text, said):
    (tmp_path / "broken.py").write_text(text)
    status, _, err = recjax("prepare", f"--config={tmp_path}/broken.py")
    assert status == 2 and re.search(f"--config: .*broken.py: .*{said}", one_line(err))


def test_the_version(capsys):
    from recjax import __version__
    from recjax.cli import main

    assert main(["--version"]) == 0 and capsys.readouterr().out == f"recjax {__version__}\n"


def test_warnings_of_ours_are_one_line():
    from recjax.cli import _warning

    assert _warning("a prompt\nis long", UserWarning, "f.py", 3) == "recjax: a prompt\\nis long\n"
    assert "f.py:3: DeprecationWarning" in _warning("old", DeprecationWarning, "f.py", 3)
