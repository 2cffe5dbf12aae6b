import dataclasses
from typing import Literal

import pytest

from recjax.config import build, load_config, to_plain
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = dataclasses.field(default_factory=Inner)
    limit: float | None = None
    on: bool = False


FILE = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({"size": 3, "sizes": (1, 2), "on": False, "limit": None,
                       "inner": {"rate": 0.5, "kind": arg or "a"}})
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(FILE)
    return path


def test_overrides_and_their_diff(file):
    overrides = [("inner.rate", "2"), ("sizes", "(3,)"), ("on", "true"), ("limit", "1.5")]
    config, changes = load_config(f"{file}:b", [*overrides, ("size", "3")])
    outer = build(Outer, config, "config")
    assert outer == Outer(3, (3,), Inner(2.0, "b"), 1.5, True)
    assert changes[0] == ("inner.rate", 0.5, 2.0)
    assert [key for key, *_ in changes] == ["inner.rate", "sizes", "on", "limit"]
    assert build(Outer, to_plain(outer), "config") == outer


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("siz", "1", "unknown config key 'siz': config has no 'siz'; did you mean 'size'?"),
        ("inner.rat", "1", "config.inner has no 'rat'; did you mean 'rate'?"),
        ("inner.zzz", "1", "config.inner has no 'zzz'; known: kind, rate"),
        ("size.x", "1", "config.size is a value, not a section"),
        ("inner", "1", "config key 'inner' is a section; set one of its keys: kind, rate"),
        ("size", "two", r"config key 'size': expected int \(now 3\), got 'two'"),
        ("size", "2.5", r"config key 'size': expected int \(now 3\), got '2.5'"),
        ("on", "1", "config key 'on': expected bool"),
    ],
)
def test_bad_overrides(file, key, value, message):
    with pytest.raises(InputError, match=message):
        load_config(str(file), [(key, value)])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"size": 1, "sizs": ()}, "unknown config key 'config.sizs'; did you mean 'sizes'?"),
        ({}, "config section 'config' lacks the key 'size'"),
        ({"size": "1"}, "config key 'config.size': expected int, got '1'"),
        ({"size": True}, "config key 'config.size': expected int, got True"),
        ({"size": 1, "inner": {"kind": "c"}}, "'config.inner.kind': expected one of 'a', 'b', got"),
        ({"size": 1, "sizes": [1, "x"]}, "config key 'config.sizes': expected"),
    ],
)
def test_bad_sections(section, message):
    with pytest.raises(InputError, match=message):
        build(Outer, section, "config")


def test_bad_files(tmp_path):
    with pytest.raises(
        InputError, match=r"--config: no file .*none.py; expected FILE.py or FILE.p"
    ):
        load_config(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match=r"empty.py has no get_config\(arg\)"):
        load_config(str(tmp_path / "empty.py"))
