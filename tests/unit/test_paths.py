"""Paths as users write them, in every flag and every key."""

import argparse

import pytest

from recjax.cli import runs
from recjax.data.prepare import DataConfig, prepare, resolve
from recjax.data.store import open_store
from recjax.errors import InputError
from recjax.flags import make_parser, read_overrides
from recjax.paths import flag_path, flag_text, home, names

PLACES = {"DIR", "FILE", "PATH", "FILE[:ARG]", "DIR_OR_URL", "MODEL"}


def flags():
    """`(command, action)` of every flag that names a place."""
    parser = make_parser(runs())
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, sub in commands.choices.items():
        for action in sub._actions:
            if action.metavar in PLACES:
                yield name, action


def test_every_flag_of_a_place_knows_home_and_is_not_empty(recjax):
    found = list(flags())
    assert len(found) > 30
    wrong = [
        (name, action.option_strings)
        for name, action in found
        if action.option_strings and action.type not in (flag_path, flag_text)
    ]
    assert not wrong
    for command in ("train", "evaluate", "recommend", "report"):
        status, _, err = recjax(command, "--workdir=")
        assert status == 2 and "argument --workdir: expected a path; it is empty" in err


def test_home_is_where_a_shell_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "log.csv").write_text("")
    assert flag_path("~/a.csv") == tmp_path / "a.csv" and flag_text("~/a:b") == f"{tmp_path}/a:b"
    assert home("~") == tmp_path and str(home("a/~")) == "a/~"
    assert str(home("~nobody-here/x")) == "~nobody-here/x"
    assert resolve("~/log.csv") == tmp_path / "log.csv"
    given = ["--config.data.path=~/log.csv", "--config.data.options.separator=~"]
    assert read_overrides(given) == [
        ("data.path", f"{tmp_path}/log.csv"), ("data.options.separator", "~"),
    ]  # fmt: skip
    prepared = prepare(DataConfig("simulated", "~/store", options={"users": 20}))
    assert prepared.path == tmp_path / "store" == open_store("~/store").path


def test_blanks_in_a_list_are_no_part_of_its_names():
    assert names("title, genres,,") == ("title", "genres") and names(None) == names(" ,") == ()


def test_folders_that_are_no_store(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="the workdir of a run; expected the folder of a prepared"):
        open_store(tmp_path)
    with pytest.raises(InputError, match="config.data.store: is empty; expected a folder"):
        prepare(DataConfig("simulated", ""))
