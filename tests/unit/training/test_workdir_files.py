"""A workdir's files edited by hand: one line that names the file and the key, by every reader."""

import json

import pytest

from recjax.errors import InputError
from recjax.report.page import make_page
from recjax.training.workdir import (
    build_config,
    open_run,
    plain_config,
    read_run_config,
    start_run,
)

DAMAGED = {
    "list": b"[1]",
    "text": b'"config"',
    "null": b"null",
    "empty": b"",
    "cut": b'{"config": {"data": ',
    "latin-1": b'{"config": "\xff"}',
    "deep": b"[" * 100_000,
    "twice": b'{"config": {}, "config": {"seed": 1}}',
    "no config": b'{"versions": {}}',
    "config is a list": b'{"config": [1]}',
    "config is null": b'{"config": null}',
}
MISSING = object()
VALUES = [None, [], {}, "x", -3, True, [1, 2], float("nan"), 10**30, {"a": 1}, [[]], MISSING]


@pytest.fixture(scope="module")
def plain():
    """The settings of a run, as config.json has them."""
    section = {
        "data": {"source": "simulated", "store": "store", "options": {"users": 60}},
        "model": {"name": "sasrec", "dim": 8, "max_length": 12},
        "objective": {"name": "softmax"},
        "train": {"batch_size": 16},
    }
    return json.loads(json.dumps(plain_config(build_config(section))))


def keys(node, before=()):
    for key, value in node.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from keys(value, (*before, key))


def changed(plain, path, value):
    plain = json.loads(json.dumps(plain))
    node = plain
    for key in path[:-1]:
        node = node[key]
    if value is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return plain


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_config_is_named_by_every_command(recjax, tmp_path, kind):
    work = tmp_path / "w"
    work.mkdir()
    (work / "config.json").write_bytes(DAMAGED[kind])
    for command in (
        ["train"], ["evaluate"], ["interpret"], ["convert", f"--to={tmp_path}/x.npz"],
        ["recommend", f"--out={tmp_path}/x.csv"],
    ):  # fmt: skip
        status, out, err = recjax(command[0], f"--workdir={work}", *command[1:])
        (line,) = err.splitlines()
        assert (status, out) == (2, None) and f"{work}/config.json: " in line, (command, err)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["config.json", "w"]


def test_every_key_of_a_config_is_named(plain, tmp_path):
    """What is accepted is of the key's type; everything else is an error with file and key."""
    path, refused = tmp_path / "config.json", 0
    for key in keys(plain):
        for value in VALUES:
            path.write_text(json.dumps({"config": changed(plain, key, value)}))
            try:
                read_run_config(tmp_path)
            except InputError as error:
                refused += 1
                assert str(error).startswith(f"{path}: ") and key[-1] in str(error), (key, value)
            if value in (None, [1, 2], {"a": 1}):
                make_page(tmp_path)  # shows what there is
    assert refused > 5 * len(list(keys(plain)))


def test_a_store_that_is_gone_is_named(plain, tmp_path):
    gone = changed(plain, ("data", "store"), str(tmp_path / "gone"))
    (tmp_path / "config.json").write_text(json.dumps({"config": gone}))
    with pytest.raises(InputError, match="gone"):
        open_run(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "results.json"])
@pytest.mark.parametrize(
    "content", [b"[1]\n", b'"x"\n', b"\xff\n", b"[" * 99999 + b"\n", b"{}{}\n"]
)
def test_a_report_names_the_file_that_is_damaged(tmp_path, name, content):
    (tmp_path / "config.json").write_text('{"config": {}}')
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        make_page(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}:")


@pytest.mark.parametrize("place", ["bars", "lines", "table"])
def test_numbers_that_no_float_can_hold(tmp_path, place):
    number = 10**400
    section = {
        "bars": {"kind": "bars", "title": "b", "labels": ["0"], "series": {"a": [number]}},
        "lines": {
            "kind": "lines",
            "title": "l",
            "x": "x",
            "y": "y",
            "series": {"s": [[0, number]]},
        },
        "table": {"kind": "table", "title": "t", "columns": ["a"], "rows": [[number]]},
    }[place]
    (tmp_path / "results.json").write_text(json.dumps({"sections": [section]}))
    with pytest.raises(InputError, match=r"results.json: sections\[0\].*expected 1000 at most"):
        make_page(tmp_path)


def test_a_run_goes_on_without_what_it_began_with(recjax, tmp_path, monkeypatch):
    """Neither its log, nor the run it started from, nor the same working folder."""
    rows = [f"u{u},i{(u + k) % 9},{k}" for u in range(12) for k in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    config = tmp_path / "small.py"
    config.write_text("""
from ml_collections import ConfigDict

def get_config(arg=None):
    config = ConfigDict()
    config.data = {"source": "table", "path": "log.csv", "store": "store"}
    config.model = {"name": "sasrec", "dim": 8, "max_length": 6, "layers": 1, "heads": 1}
    config.objective = {"name": "softmax"}
    config.train = {"epochs": 1.0, "batch_size": 12, "steps_per_call": 1}
    return config
""")
    monkeypatch.chdir(tmp_path)
    given = f"--config={config}"
    assert recjax("train", given, "--workdir=first")[0] == 0
    assert recjax("train", given, "--config.start=first", "--workdir=second")[0] == 0
    (tmp_path / "first").rename(tmp_path / "away")
    (tmp_path / "log.csv").unlink()
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    more = (f"--workdir={tmp_path}/second", "--config.train.epochs=2", "--json")
    status, result, _ = recjax("train", *more)
    assert status == 0 and result["step"] >= 1
    message = "nothing to train: its cap ended this run at step 2"
    status, again, said = recjax("train", *more)
    assert (status, again) == (0, result) and message in said
    status, _, said = recjax("train", *more, "--config.start=away")
    assert status == 0, said
    # An earlier version's reader had fewer options, and its split fewer keys.
    file = tmp_path / "second" / "config.json"
    record = json.loads(file.read_text())
    del record["config"]["data"]["options"]["decimal"], record["config"]["split"]["test_from"]
    file.write_text(json.dumps(record))
    status, again, said = recjax("train", *more)
    assert (status, again) == (0, result), said
    fused = {
        "system": "fused",
        "base": str(tmp_path / "away"),
        "guided": {"items": ("words:title",)},
    }
    with pytest.raises(InputError, match="second: belongs to a run with another config"):
        start_run(build_config(fused), tmp_path / "second")
    # Another log is looked for.
    status, _, said = recjax("train", *more, "--config.data.path=other.csv")
    assert status == 2 and "config.data.path: no file or folder other.csv" in said
