import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest

from recjax.config import build, get_key, load_config, nearest, to_plain, wrong_argument
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
    other: Inner | None = None


FILE = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({"size": 3, "sizes": (1, 2), "on": False, "limit": None, "free": {},
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
    outer = build(Outer, {k: config[k] for k in config if k != "free"}, "config")
    assert outer == Outer(3, (3,), Inner(2.0, "b"), 1.5, True)
    assert changes[0] == ("inner.rate", 0.5, 2.0)
    assert [key for key, *_ in changes] == ["inner.rate", "sizes", "on", "limit"]
    assert build(Outer, to_plain(outer), "config") == outer


def test_an_argument_that_is_a_part_of_what_is_expected_is_no_misspelling():
    told = str(wrong_argument("c.py", "base", "MODEL-ROW of sasrec; base, wide"))
    assert told == "c.py: no argument 'base'; expected MODEL-ROW of sasrec; base, wide"


def test_another_kind_starts_from_its_own_defaults(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(arg=None):\n"
        "    return ConfigDict({'model': {'name': 'a', 'length': 9, 'rate': 0.5},\n"
        "                       'data': {'source': 'x', 'options': {'file': 'f'}, 'core': 5}})\n"
    )
    defaults = {"a": {"rate": 0.1}, "b": {"length": 7}, "x": {"file": ""}, "y": {"user": "u"}}

    def complete(section):
        plain = to_plain(section)
        plain["model"] = defaults[plain["model"]["name"]] | plain["model"]
        plain["data"]["options"] = defaults[plain["data"]["source"]] | plain["data"]["options"]
        return plain

    config, changes = load_config(
        str(path),
        [("data.options.user", "v"), ("data.source", "y"), ("model.name", "b")],
        complete,
    )
    assert to_plain(config) == {
        "model": {"name": "b", "length": 7},
        "data": {"source": "y", "options": {"user": "v"}, "core": 5},
    }
    assert changes == [
        ("data.source", "x", "y"), ("model.name", "a", "b"), ("model.length", 9, 7),
        ("data.options.user", "u", "v"),
    ]  # fmt: skip
    config, _ = load_config(str(path), [("model.name", "a")], complete)  # the same kind
    assert to_plain(config.model) == {"name": "a", "length": 9, "rate": 0.5}
    given = {"model": {"name": "a"}, "data": {"source": "x", "options": {}}}
    given["optim"] = {"name": "adam", "learning_rate": 0.5}
    config, _ = load_config(given, [("optim.name", "muon")], complete)  # which has the same keys
    assert to_plain(config.optim) == {"name": "muon", "learning_rate": 0.5}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("siz", "1", "unknown config key 'siz': config has no 'siz'; did you mean 'size'?"),
        ("inner.rat", "1", "config.inner has no 'rat'; did you mean 'rate'?"),
        ("inner.zzz", "1", "config.inner has no 'zzz'; known: kind, rate"),
        ("size.x", "1", "config.size is a value, not a section"),
        ("inner", "1", "config key 'inner' is a section; set one of its keys: kind, rate"),
        ("free", "1", r"config.free: expected \{'name': value\}, got '1'"),
        ("free", "{1: 2}", r"config.free: expected \{'name': value\}, got '\{1: 2\}'"),
        (
            "free.x",
            "1",
            r"'free.x': config.free is empty; expected --config.free=\{'name': value\}",
        ),
        ("size", "two", r"config.size: expected int \(now 3\), got 'two'"),
        ("size", "2.5", r"config.size: expected int \(now 3\), got '2.5'"),
        ("on", "1", r"config.on: expected bool \(now False\), got '1'"),
        ("inner.rate", "x", r"config.inner.rate: expected float \(now 0.5\), got 'x'"),
        ("zzzz", "1", "config has no 'zzzz'; known: free, inner, limit, on, size, "),
    ],
)
def test_bad_overrides(file, key, value, message):
    with pytest.raises(InputError, match=message):
        load_config(str(file), [(key, value)])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("sizes", "[4, 5]", (4, 5)),
        ("sizes", "4", (4,)),  # a single one needs no brackets
        ("limit", "None", None),
        ("limit", "none", None),
        ("on", "TRUE", True),
        ("inner.rate", "1e-3", 0.001),
        ("inner.kind", "1", "1"),  # a string stays one
    ],
)
def test_how_overrides_are_read(file, key, text, value):
    found = get_key(load_config(str(file), [(key, text)])[0], key)
    assert found == value and type(found) is type(value)


def test_a_section_of_free_keys_is_set_as_a_whole(file):
    found = load_config(str(file), [("free", "{'a': ('b', 'c'), 'd': 2}")])[0].free
    assert found.to_dict() == {"a": ("b", "c"), "d": 2}


def test_defaults_that_the_file_leaves_out_can_be_overridden(file):
    def complete(config):
        return {**config, "extra": {"depth": 1}}

    config, changes = load_config(str(file), [("extra.depth", "2")], complete)
    assert changes == [("extra.depth", 1, 2)] and config.extra.depth == 2
    with pytest.raises(InputError, match="config has no 'extra'"):
        load_config(str(file), [("extra.depth", "2")])


def test_configs_are_locked(file):
    config, _ = load_config(str(file))
    with pytest.raises(AttributeError):
        config.inner.new = 1


def test_arguments_of_the_config_files():
    """An unknown one, and none where one is needed, is one error that names the file."""
    for file in sorted((Path(__file__).parents[2] / "configs").rglob("*.py")):
        with pytest.raises(InputError, match=f"^{file.name}: no argument 'zzz'; expected "):
            load_config(f"{file}:zzz")
        try:
            load_config(str(file))
        except InputError as error:
            assert str(error).startswith(f"{file.name}: an argument is missing; expected ")


def test_nearest():
    assert nearest("epoch", ["epochs", "patience"]) == "did you mean 'epochs'?"
    assert nearest("qqq", ["b", "a"]) == "known: a, b"
    assert nearest("qqq", []) == "known: none"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"size": 1, "sizs": ()}, "unknown config key 'config.sizs'; did you mean 'sizes'?"),
        ({}, "config section 'config' lacks the key 'size'"),
        ({"size": "1"}, "config.size: expected int, got '1'"),
        ({"size": True}, "config.size: expected int, got True"),
        ({"size": 1, "inner": {"kind": "c"}}, "config.inner.kind: expected one of 'a', 'b', got"),
        ({"size": 1, "sizes": [1, "x"]}, "config.sizes: expected tuple"),
        ({"size": 1, "inner": {"rat": 1}}, "key 'config.inner.rat'; did you mean 'rate'?"),
        ({"size": 1, "inner": {"rate": True}}, "config.inner.rate: expected float, got True"),
        ({"size": 1, "limit": "x"}, r"config.limit: expected float \| None, got 'x'"),
        ({"size": 1, "other": {"rat": 1}}, "key 'config.other.rat'; did you mean 'rate'?"),
        ({"size": 1, "other": 3}, "config.other: expected .*Inner \\| None, got 3"),
        ({"size": 1, "on": 1}, "config.on: expected bool, got 1"),
        ({"size": 1, "zzzz": 1}, "'config.zzzz'; known: inner, limit, on, other, size, sizes"),
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
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"--config: .*config.json is not a python file"):
        load_config(str(tmp_path / "config.json"))


def test_plain_is_json_and_comes_back():
    outer = Outer(3, (4, 5), Inner(0.5, "b"))
    both = dataclasses.replace(outer, other=Inner(0.7))
    assert build(Outer, to_plain(both), "config") == both
    plain = to_plain(outer)
    assert json.loads(json.dumps(plain)) == {
        "size": 3,
        "sizes": [4, 5],
        "inner": {"rate": 0.5, "kind": "b"},
        "limit": None,
        "on": False,
        "other": None,
    }
    assert build(Outer, plain, "config") == outer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(arg):\n    return {", "broken.py: SyntaxError: "),
        ("import no_such_module", "broken.py: ModuleNotFoundError: No module named 'no_such_mod"),
        ("def get_config():\n    pass", "broken.py: get_config.* failed: .*takes 0 positional"),
        ("def get_config(arg):\n    return {}", "broken.py: get_config.* must return a ConfigDict"),
    ],
)
def test_config_files_that_do_not_run(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(str(tmp_path / "broken.py"))


def test_nearest_names_one_or_a_few():
    assert nearest("dims", ["dim", "layers"]) == "did you mean 'dim'?"
    assert nearest("x", ["b", "a"]) == "known: a, b"
    assert nearest("x", []) == "known: none"
    many = [f"name_{n:02}" for n in range(30)]
    assert nearest("x", many).endswith("name_19, ... (30)")


@pytest.mark.parametrize("path", ["c.py", "a:b.py", "x:y/c.py", "10:30/c:d.py"])
@pytest.mark.parametrize("arg", ["", "b", "b:c"])
def test_colons_in_the_path_of_a_config(tmp_path, file, path, arg):
    place = tmp_path / path
    place.parent.mkdir(exist_ok=True)
    place.write_text(FILE)
    config, _ = load_config(f"{place}:{arg}" if arg else str(place))
    assert config.inner.kind == (arg or "a")


def test_own_configs_are_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, _ = load_config("configs/llm/catalogue.py:table")
    assert config.data.source == "table"
    with pytest.raises(InputError, match=r"configs/llm is a folder; .* known: catalogue.py, fine"):
        load_config("configs/llm")
    with pytest.raises(InputError, match=r"no file configs/llm/catalog.py; .*llm/catalogue.py'"):
        load_config("configs/llm/catalog.py")
    own = tmp_path / "configs" / "llm" / "catalogue.py"  # one that is here comes first
    own.parent.mkdir(parents=True)
    own.write_text(FILE)
    assert load_config("configs/llm/catalogue.py:table")[0].inner.kind == "table"


@pytest.mark.parametrize(
    ("spec", "path"), [("C:\\x.py:b", "C:\\x.py"), ("a:b.py", "a:b.py"), ("c.py:b:c", "c.py")]
)
def test_a_config_that_is_not_there(spec, path):
    with pytest.raises(InputError) as error:
        load_config(spec)
    assert f"--config: no file {path}; expected FILE.py or FILE.py:ARG" in str(error.value)
