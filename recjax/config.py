"""Configs: a python file with `get_config(arg)` -> a locked ConfigDict -> frozen dataclasses.

A key that no dataclass field reads is an error that names the nearest known key, so a typo can
never pass as a setting (RecBole#1147 and its kin).
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from recjax.errors import InputError
from recjax.ranges import FieldError, expected, hints, short

T = TypeVar("T")


_OWN = "configs"  # the folder of recjax's own configs
_MANY = 10_000  # names that are compared; among more, a hint would take seconds


def close(name: object, known: Iterable[str]) -> str | None:
    """The known name that is nearest to an unknown one: by its letters, or that it begins."""
    names = {candidate.lower(): candidate for candidate in known}
    text = str(name).lower()
    if len(names) > _MANY or not text:
        return None
    matches = difflib.get_close_matches(text, names, n=1, cutoff=0.63)
    matches = matches or sorted(candidate for candidate in names if candidate.startswith(text))
    return names[matches[0]] if matches else None


def nearest(name: object, known: Iterable[str], before: str = "") -> str:
    """A hint for an unknown name: the nearest known one, else all of them, or 20 of many.

    `before` is written before each (the dashes of flags) and not compared.
    """
    known = sorted(known)
    match = close(name, known)
    if match is not None:
        return f"did you mean '{before}{match}'?"
    return listed(before + candidate for candidate in known)


def listed(known: Iterable[str]) -> str:
    """All known names in a hint, or 20 of many."""
    known = sorted(known)
    more = f", ... ({len(known)})" if len(known) > 20 else ""
    return f"known: {', '.join(known[:20]) or 'none'}{more}"


def near_file(path: Path) -> str:
    """A hint for a path that is not there: the nearest name in its folder, or nothing."""
    with contextlib.suppress(OSError):
        match = close(path.name, os.listdir(path.parent))
        if match is not None and not path.exists():
            return f"; did you mean '{path.parent / match}'?"
    return ""


def _shipped(path: Path) -> Path:
    """The path, or in place of a missing one under configs/ recjax's own, if there is one."""
    if path.exists() or path.parts[:1] != (_OWN,):
        return path
    package = Path(__file__).parent
    candidates = (folder / path for folder in (package, package.parent))
    return next((candidate for candidate in candidates if candidate.exists()), path)


def _split(spec: str) -> tuple[str, str]:
    """`(FILE, ARG)`: FILE is the longest part before a colon that is a file, for its path may have
    colons too; else what comes before the first colon after ".py"."""
    ends = [len(spec), *(colon for colon in range(len(spec) - 1, -1, -1) if spec[colon] == ":")]
    end = next((colon for colon in ends if _shipped(Path(spec[:colon])).is_file()), None)
    if end is None:
        end = spec.find(".py:") + 3 if ".py:" in spec else len(spec)
    return spec[:end], spec[end + 1 :]


@contextlib.contextmanager
def _errors_of(path: Path, what: str = "") -> Iterator[None]:
    """Turns a config file's exceptions, also `SystemExit`, into one error that names the file."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--config: {path}: {what}{type(error).__name__}: {reason}") from error


def _load_file(name: Path):
    path = _shipped(name)
    if path.is_dir():
        files = [file.name for file in path.iterdir() if not file.name.startswith(("_", "."))]
        raise InputError(f"--config: {name} is a folder; expected a file; {listed(files)}")
    if not path.is_file():
        hint = near_file(name) or near_file(_shipped(name.parent) / name.name)
        raise InputError(f"--config: no file {name}{hint or '; expected FILE.py or FILE.py:ARG'}")
    spec = importlib.util.spec_from_file_location("recjax_user_config", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config: {path} is not a python file")
    module = importlib.util.module_from_spec(spec)
    with _errors_of(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"--config: {path} has no get_config(arg)")
    return module


def load_config(
    spec: str | Mapping[str, Any] | ConfigDict,
    overrides: Iterable[tuple[str, str]] = (),
    complete: Callable[[ConfigDict], Mapping[str, Any]] = lambda config: config,
) -> tuple[ConfigDict, list]:
    """Reads a config file and applies the command line's overrides.

    Args:
        spec: `FILE.py` or `FILE.py:ARG`, where ARG goes to the file's `get_config`; or what that
            returns, or its sections as plain dicts.
        overrides: `(dotted.key, text)` pairs; the text is read as a Python literal, else as a
            string, and must fit the type that the key has.
        complete: adds the defaults of keys that the file leaves out, so that they can be
            overridden too.

    Returns:
        The locked config, and the list of `(key, file's value, new value)` that differ.

    Raises:
        InputError: no such file, unknown argument or key (with the nearest known one), wrong type.
    """
    section = _section_of(spec) if isinstance(spec, str) else ConfigDict(to_plain(spec))
    overrides = list(overrides)
    changes, left = _other_kinds(section, overrides)
    config = ConfigDict(_tuples(complete(section))).lock()
    known = [(key, old, _value(config, key)) for key, old in left]
    changes += [change for change in known if change[2] not in (change[1], None)]
    return config, changes + apply_overrides(config, overrides)


# Keys that choose a kind, and the section that has the kind's own keys.
_KINDS = {"model.name": "model", "objective.name": "objective", "data.source": "data.options"}


def _other_kinds(section: ConfigDict, overrides: list[tuple[str, str]]) -> tuple[list, list]:
    """Sets the overrides that choose another model, loss or reader, for the other keys of the
    section and their defaults are its own.

    Returns:
        The changes, and `(key, value)` of the old kind's keys, which have left the section.
    """
    changes: list[tuple[str, Any, Any]] = []
    left: list[tuple[str, Any]] = []
    for key, text in overrides:
        where = _KINDS.get(key)
        if where is None or _value(section, key) is None:
            continue
        changed = apply_overrides(section, [(key, text)])
        changes += changed
        old = _value(section, where) if changed and _value(section, where) else {}
        for field in [field for field in old if field != "name"]:
            left.append((f"{where}.{field}", old[field]))
            del old[field]
    return changes, left


def _value(config: ConfigDict, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, (Mapping, ConfigDict)) else None
    return node


def wrong_argument(file: str, arg: str | None, expected: str) -> InputError:
    """The error of a config file whose argument is unknown, or missing where one is needed."""
    if arg is None:
        return InputError(f"{Path(file).name}: an argument is missing; expected {expected}")
    match = close(arg, re.findall(r"[\w+-]{2,}", expected))
    hint = f"did you mean '{match}'? " if match not in (None, arg) else ""
    return InputError(f"{Path(file).name}: no argument '{arg}'; {hint}expected {expected}")


def _section_of(spec: str) -> ConfigDict:
    path, arg = _split(spec)
    module = _load_file(Path(path))
    with _errors_of(Path(path), "get_config(arg) failed: "):
        section = module.get_config(arg or None)
    if not isinstance(section, ConfigDict):
        raise InputError(f"--config: {path}: get_config(arg) must return a ConfigDict")
    return section


def apply_overrides(config: ConfigDict, overrides: Iterable[tuple[str, str]]) -> list:
    """Sets `(dotted.key, text)` pairs in place; returns the changes `(key, old, new)`."""
    changes = []
    for key, text in overrides:
        old = get_key(config, key)
        new = _parse(text, old, key)
        if new != old:
            changes.append((key, old, new))
        _parent(config, key)[key.rpartition(".")[2]] = new
    return changes


def _parent(config: ConfigDict, key: str) -> ConfigDict:
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(["config", *parts[:depth]])
        if not isinstance(node, ConfigDict):
            raise InputError(f"unknown config key '{key}': {here} is a value, not a section")
        if part not in node:
            if depth and not node:
                raise InputError(
                    f"unknown config key '{key}': {here} is empty; expected --{here}={{'name': "
                    "value}"
                )
            raise InputError(
                f"unknown config key '{key}': {here} has no '{part}'; {nearest(part, node.keys())}"
            )
        if depth < len(parts) - 1:
            node = node[part]
    return node


def get_key(config: ConfigDict, key: str) -> Any:
    """The value at a dotted key; `InputError` with the nearest key where there is none."""
    return _parent(config, key)[key.rpartition(".")[2]]


def _parse(text: str, old: Any, key: str) -> Any:
    if isinstance(old, ConfigDict) and not old:  # its keys are free
        try:
            given = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            given = None
        if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
            raise InputError(f"config.{key}: expected {{'name': value}}, got {short(text)}")
        return ConfigDict(given)
    if isinstance(old, ConfigDict):
        raise InputError(
            f"config key '{key}' is a section; set one of its keys: {', '.join(sorted(old.keys()))}"
        )
    if isinstance(old, str):
        return text
    try:
        value: Any = {"true": True, "false": False, "none": None}.get(text.lower())
        if value is None and text.lower() != "none":
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(old, tuple):
        value = _tuple(value, old)
    if isinstance(old, float) and type(value) is int and abs(value) < sys.float_info.max:
        value = float(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise InputError(
            f"config.{key}: expected {type(old).__name__} (now {old!r}), got {short(text)}"
        )
    return value


def _tuple(value: Any, old: tuple) -> tuple:
    """A tuple as it may be written: (a, b), [a, b], a,b or a alone; texts need no quotes."""
    if isinstance(value, str) and old and all(isinstance(one, str) for one in old):
        return tuple(part.strip() for part in value.split(","))
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _matches(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, a) for a in args)
    if origin is typing.Literal:
        return value in args
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is type(None):
        return value is None
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_matches(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(_matches, value, args))
    if origin in (dict, Mapping) or hint is dict:
        return isinstance(value, (Mapping, ConfigDict))
    return isinstance(value, origin or hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint):
        letters = ",".join("abcdefgh"[: len(typing.get_args(hint))])
        return f"{hint}, written as {letters}"
    if typing.get_args(hint):
        return str(hint).replace("typing.", "")
    return getattr(hint, "__name__", None) or str(hint)


def _tuples(value: Any) -> Any:
    """Lists (what JSON makes of tuples) back to tuples, at every depth; NumPy's numbers and arrays
    and paths as what a file has in their place."""
    if isinstance(value, (Mapping, ConfigDict)):
        return {key: _tuples(value[key]) for key in value}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def build(cls: type[T], section: Mapping[str, Any] | ConfigDict, where: str) -> T:
    """A frozen dataclass from one section of a config.

    Fields that are dataclasses themselves are built from their sub-sections; every key of the
    section must be a field, every field without a default must be a key, and values must fit the
    annotations (int is accepted for float).

    Args:
        cls: the dataclass.
        section: the keys and values.
        where: the dotted name of the section, for errors (`config.model`).

    Raises:
        InputError: naming the key and what was expected.
    """
    plain_hints, ranged = typing.get_type_hints(cls), hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key in section:
        if key not in fields:
            raise InputError(f"unknown config key '{where}.{key}'; {nearest(key, fields)}")
        value, hint = section[key], plain_hints[key]
        is_section = isinstance(value, (Mapping, ConfigDict))
        if dataclasses.is_dataclass(hint) and not is_section:
            raise InputError(f"{where}.{key}: expected a section, got {short(value)}")
        # `Section | None` is a section too.
        kinds = (hint, *typing.get_args(hint))
        inner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if inner is not None and is_section:
            values[key] = build(typing.cast(type, inner), value, f"{where}.{key}")
            continue
        if inner is not None and typing.get_origin(hint) is tuple:  # of sections
            values[key] = _sections(typing.cast(type, inner), value, f"{where}.{key}")
            continue
        value = _tuples(value)
        if not _matches(value, hint):
            raise InputError(f"{where}.{key}: expected {_describe(hint)}, got {short(value)}")
        range_error = expected(ranged[key], value)
        if range_error:
            raise InputError(f"{where}.{key}: expected {range_error}, got {short(value)}")
        values[key] = float(value) if hint is float else value
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise InputError(f"config section '{where}' lacks the key '{name}'")
    try:
        return cls(**values)
    except FieldError as error:  # a class's own check does not know where it stands
        raise InputError(f"{where}.{error}") from None


def _sections(cls: type[T], value: Any, where: str) -> tuple[T, ...]:
    """A tuple of sections as dataclasses."""
    known = isinstance(value, (list, tuple))
    if not known or not all(isinstance(section, (Mapping, ConfigDict)) for section in value):
        raise InputError(f"{where}: expected a tuple of sections, got {short(value)}")
    return tuple(build(cls, section, f"{where}[{place}]") for place, section in enumerate(value))


def to_plain(config: Any) -> Any:
    """ConfigDicts and dataclasses as JSON-ready dicts, keys in order."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (ConfigDict, Mapping)):
        return {k: to_plain(config[k]) for k in config}
    if isinstance(config, (list, tuple)):
        return [to_plain(v) for v in config]
    return config
