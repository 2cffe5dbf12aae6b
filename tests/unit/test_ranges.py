"""Every number of every config has a range, and no value outside it gets past the config.

The fields are found by introspection: those of each system, with each of its models and readers of
data, and those of any other class that is named as a config. A new field without a range fails.
"""

import collections.abc
import dataclasses
import importlib
import math
import pkgutil
import types
import typing
from typing import Annotated, Literal

import pytest

import recjax
from recjax.config import build
from recjax.data.prepare import SOURCES
from recjax.errors import InputError
from recjax.lazy import resolve
from recjax.models import explainers, glm, llama, references, t5
from recjax.models.recommender import NAMES, model_module
from recjax.ranges import Checked, FieldError, Range, Seed, Share, hints, ranges
from recjax.recsysllm import sources
from recjax.systems import SYSTEMS
from recjax.training import workdir
from recjax.training.system import load_system

# What stands in a dictionary: by the key and its value that say which class its fields are of.
OPTIONS = {
    ("source", name): importlib.import_module(f"recjax.data.sources.{name}").Options
    for name in SOURCES
}
_RECOMMENDERS = {("name", name): model_module(name).Config for name in NAMES}
MODELS = {
    "recommender": _RECOMMENDERS,
    "guided": {("name", "sasrec"): _RECOMMENDERS["name", "sasrec"]},
    "reference": {
        ("name", name): importlib.import_module(f"recjax.models.references.{name}").Config
        for name in references.NAMES
    },
    "explanation": {
        ("name", name): importlib.import_module(f"recjax.models.explainers.{name}").Config
        for name in explainers.NAMES
    },
    "p5": {("name", "t5"): t5.Config},
    "language_model": {("name", "llama"): llama.Config},
    "recsysllm": {("name", "glm"): glm.Config},
}
DICTIONARIES = {(system, "model"): found for system, found in MODELS.items()}
DICTIONARIES |= {(system, "data.options"): OPTIONS for system in SYSTEMS}
DICTIONARIES["recsysllm", "text"] = {
    ("source", name): resolve(source).Options for name, source in sources.SOURCES.items()
}


def arms(hint):
    """The parts of a union, or the annotation itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def bare(hint):
    """Whether an annotation has a number without a range."""
    if hint in (int, float):
        return True
    if typing.get_origin(hint) in (Annotated, typing.Literal):
        return hint.__origin__ in (int, float) and not list(ranges(hint))
    called = typing.get_origin(hint) is collections.abc.Callable
    return not called and any(map(bare, typing.get_args(hint)))


def inside(hint):
    """Some value that an annotation allows."""
    if dataclasses.is_dataclass(hint):
        required = {f.name for f in dataclasses.fields(hint) if f.default is dataclasses.MISSING}
        required -= {
            f.name for f in dataclasses.fields(hint) if f.default_factory is not dataclasses.MISSING
        }
        return {name: inside(hints(hint)[name]) for name in required}
    return next((kind(2) for kind, _ in ranges(hint)), "x")


def put(section, path, value):
    """A copy of nested dictionaries with a value at a dotted path."""
    key, _, rest = path.partition(".")
    return {**section, key: put(section.get(key, {}), rest, value) if rest else value}


def leaves(system, cls, section, where=""):
    """`(section, path, annotation)` of every field below a class, and a section to put it in."""
    for name, hint in hints(cls).items():
        path = f"{where}.{name}" if where else name
        inner = next((arm for arm in arms(hint) if dataclasses.is_dataclass(arm)), None)
        if inner is not None:
            there = section.get("data") if name == "data" and not where else None
            there = inside(inner) if there is None else there
            yield from leaves(system, inner, put(section, path, there), path)
        elif hint is dict:
            for (key, which), of in DICTIONARIES[system, path].items():
                beside = f"data.{key}" if path == "data.options" else f"{path}.{key}"
                below = put(section, beside, which)
                if which == "texts":
                    below = put(below, f"{path}.path", "texts.jsonl")
                yield from leaves(system, of, below, path)
        else:
            yield section, path, hint


def all_leaves():
    for system, record in ((name, load_system(name)) for name in SYSTEMS):
        section = {"system": system, **inside(record.config)}
        if (
            (system, "data.options") in DICTIONARIES
            and "data" in hints(record.config)
            and system != "finetune"
        ):
            section["data"] = {"source": "simulated", "store": "s"}
        if system in MODELS:
            section["model"] = {"name": next(iter(MODELS[system]))[1]}
        if system == "guided":
            section["guided"] = {"items": ("labels:genres",)}
        for base, path, hint in leaves(system, record.config, section):
            if path == "model.vocab_size":  # the tokenizer's
                continue
            kind = base.get("model", {}).get("name", "") + base.get("text", {}).get("source", "")
            reader = base["data"]["source"] if path.startswith("data.options") else ""
            yield pytest.param(base, path, hint, id=f"{system}-{kind}{reader}-{path}")


def outside(hint):
    """Values that an annotation does not allow: below, above, and of other types."""
    if typing.get_origin(hint) is tuple:
        first, *rest = typing.get_args(hint)
        count = 1 if rest[-1:] == [Ellipsis] else 1 + len(rest)
        yield "x"
        if count > 1:
            yield (inside(first),) * (count + 1)
        yield from ((value,) * count for value in outside(first))
        return
    if typing.get_origin(hint) is dict:
        yield "x"
        yield from ({"a": value} for value in outside(typing.get_args(hint)[1]))
        return
    if type(None) not in arms(hint):
        yield None
    if hint is bool or typing.get_origin(hint) is typing.Literal:
        yield from (1, "no such value")
    elif hint is str:
        yield from (1, 1.5, True)
    for kind, wanted in ranges(hint):
        yield from ("1", True, math.nan, math.inf, -math.inf, 10**400, (2,))
        if kind is int:
            yield 1.5
        least, most = (end if end is None else kind(end) for end in (wanted.least, wanted.most))
        beyond = {int: 2**40, float: 1e39}[kind]
        yield (
            least - 1
            if least is not None
            else wanted.above
            if wanted.above is not None
            else -beyond
        )
        yield most + 1 if most is not None else wanted.below if wanted.below is not None else beyond


@pytest.mark.parametrize(("section", "path", "hint"), list(all_leaves()))
def test_every_field_refuses_what_is_outside(section, path, hint):
    assert not bare(hint), f"{path}: a number without a range (recjax.ranges)"
    tried = 0
    for value in outside(hint):
        with pytest.raises(InputError) as caught:
            workdir.complete(put(section, path, value))
        assert str(caught.value).startswith(f"config.{path}: "), value
        tried += 1
    assert tried


def test_the_rule_sees_a_field_without_a_range():
    @dataclasses.dataclass(frozen=True)
    class Config(Checked):
        number: int = 0
        limit: float | None = None
        several: tuple[float, ...] = ()
        only: Annotated[int, "no range"] = 0
        ranged: Annotated[int, Range(1)] | None = 1
        share: Share = 0.0
        shares: tuple[Share, ...] = ()
        kind: Literal[1, 2] = 1
        text: str = ""

    found = [name for name, hint in hints(Config).items() if bare(hint)]
    assert found == ["number", "limit", "several", "only"]


def classes():
    """All classes of the package that are named as a config."""
    for module in pkgutil.walk_packages(recjax.__path__, "recjax."):
        if module.name == "recjax.__main__":
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.endswith(("Config", "Options")) and dataclasses.is_dataclass(value):
                yield value


def test_every_config_class_has_ranges():
    found = set(classes())
    assert len(found) > 30
    for cls in found:
        numbers = [name for name, hint in hints(cls).items() if list(ranges(hint))]
        assert not [name for name, hint in hints(cls).items() if bare(hint)], cls
        assert not numbers or issubclass(cls, Checked), cls


@dataclasses.dataclass(frozen=True)
class Example(Checked):
    seed: Seed = 0
    rate: Annotated[float, Range(0, below=1)] = 0.0
    step: Annotated[float, Range(above=0, most=1000)] = 1.0
    any: Annotated[float, Range()] | None = None
    one: Annotated[int, Range(1, 1)] = 1
    two: tuple[Share, Share] = (0.0, 1.0)
    by_name: dict[str, Share] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed: expected 0 to 4294967295, got -1"),
        ({"seed": 2**64}, "seed: expected 0 to 4294967295, got 18446744073709551616"),
        ({"seed": "x"}, "seed: expected 0 to 4294967295, got 'x'"),
        ({"seed": True}, "seed: expected 0 to 4294967295, got True"),
        ({"rate": 1.0}, "rate: expected at least 0 and less than 1, got 1.0"),
        ({"rate": math.nan}, "rate: expected at least 0 and less than 1, got nan"),
        ({"step": 0.0}, "step: expected more than 0 and at most 1000, got 0.0"),
        ({"any": math.nan}, "any: expected a finite number, got nan"),
        ({"any": -math.inf}, "any: expected at most 3.4028234e+38 in size, got -inf"),
        ({"any": 10**100}, f"any: expected at most 3.4028234e+38 in size, got 1{'0' * 76}..."),
        ({"one": 2}, "one: expected 1, got 2"),
        ({"by_name": {"a": 2.0}}, "by_name: expected each 0 to 1, got {'a': 2.0}"),
        ({"by_name": {"a": "x"}}, "by_name: expected each 0 to 1, got {'a': 'x'}"),
        ({"two": (0.0, 1.5)}, "two: expected each 0 to 1, got (0.0, 1.5)"),
    ],
)
def test_messages(values, message):
    with pytest.raises(FieldError) as caught:
        Example(**values)
    assert str(caught.value) == message
    if not isinstance(next(iter(values.values())), str | bool):
        with pytest.raises(InputError) as caught:
            build(Example, values, "config.a")
        assert str(caught.value) == f"config.a.{message}"


def test_dictionaries_of_a_config_have_values_in_range():
    section = {"data": {"source": "simulated", "store": "s"}, "model": {"name": "sasrec"}}
    for bad in (math.nan, math.inf, "x", None, True):
        with pytest.raises(InputError, match="^config.train.goals: expected each "):
            workdir.complete(put(section, "train.goals", {"validation/full/ndcg@10": bad}))


def test_ends_are_inside():
    example = Example(seed=2**32 - 1, rate=0.0, step=1000.0, any=-3e38, two=(1.0, 0.0))
    assert dataclasses.replace(example, any=None, seed=0).any is None
    with pytest.raises(FieldError, match="rate: expected"):
        dataclasses.replace(example, rate=2.0)
