"""State dicts of other libraries <-> our parameters by path: one list of rules, both ways.

RULES = (
    Rule("norm.{layer}.weight", "blocks/{layer}/norm/scale"),
    Rule("linear.weight", "up/kernel", TRANSPOSE),
)
params = to_ours(RULES, state, shapes, source="model.safetensors")
state == to_theirs(RULES, params)

A format is a table of rules, and our shapes come from the model's config. Every key and every path
is accounted for: what a file has beyond the table, lacks, or has in another shape or type, is an
error.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Transform:
    """One of their arrays <-> one or more of ours, losing nothing.

    Attributes:
        forward: theirs -> a tuple of ours.
        backward: ours, as arguments -> theirs.
    """

    forward: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    backward: Callable[..., np.ndarray]


SAME = Transform(lambda a: (a,), lambda a: a)
# PyTorch's Linear keeps [out in], ours [in out].
TRANSPOSE = Transform(lambda a: (a.T,), lambda a: a.T)
# A convolution of kernel size 1, [out in 1], is a Linear.
POINTWISE = Transform(lambda a: (a[..., 0].T,), lambda a: a.T[..., None])


def split(parts: int, each: Transform = SAME) -> Transform:
    """Equal parts along the first axis of theirs, each of them transformed."""
    return Transform(
        lambda a: tuple(each.forward(part)[0] for part in np.split(a, parts)),
        lambda *ours: np.concatenate([each.backward(part) for part in ours]),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of their keys and our paths for it; `{layer}` in both stands for a number.

    Attributes:
        theirs: the key.
        ours: the path, or the paths in the order of the transform's results.
        transform: between the arrays.
    """

    theirs: str
    ours: str | tuple[str, ...]
    transform: Transform = SAME

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A rule for one layer."""

    key: str
    paths: tuple[str, ...]
    transform: Transform


def _pairs(rules: Sequence[Rule], paths: Sequence[str]) -> list[_Pair]:
    """The rules written out for these paths of ours, in the order of PyTorch's state dicts.

    There a list of layers comes as a whole (`norms.0.weight norms.0.bias norms.1.weight`), so
    neighbours with the same text before `{layer}` are ordered by layer first.
    """
    found: list[tuple[tuple[int, int, int], _Pair]] = []
    groups: dict[str, int] = {}
    for number, rule in enumerate(rules):
        group = groups.setdefault(rule.theirs.partition("{layer}")[0], number)
        pattern = re.escape(rule.paths[0]).replace(r"\{layer\}", r"(\d+)")
        for path in paths:
            match = re.fullmatch(pattern, path)
            if match:
                layer = match[1] if match.groups() else "0"
                fill = (text.replace("{layer}", layer) for text in (rule.theirs, *rule.paths))
                key, *ours = fill
                place = (group, int(layer), number)
                found.append((place, _Pair(key, tuple(ours), rule.transform)))
    pairs = [pair for _, pair in sorted(found, key=lambda item: item[0])]
    covered = sorted(path for pair in pairs for path in pair.paths)
    if covered != sorted(paths):  # the table's fault, not the user's
        raise ValueError(f"rules do not cover the parameters once each: {covered}, {sorted(paths)}")
    return pairs


def to_ours(
    rules: Sequence[Rule], state: Mapping[str, np.ndarray], shapes: Mapping[str, Any], source: str
) -> dict[str, np.ndarray]:
    """Our parameters from their state dict.

    Args:
        rules: the format.
        state: their arrays by key.
        shapes: what the model expects by path: anything with `shape` and `dtype`.
        source: the file's name, for errors.

    Raises:
        InputError: naming the file, the key and what was expected: a key that is unknown or
            missing, a shape, a type, a number that is not finite.
    """
    pairs = {pair.key: pair for pair in _pairs(rules, list(shapes))}
    for key in state:
        if key not in pairs:
            raise InputError(f"{source}: unknown key '{key}'; {nearest(key, pairs)}")
    out: dict[str, np.ndarray] = {}
    for key, pair in pairs.items():
        blanks = [np.broadcast_to(np.zeros((), bool), shapes[path].shape) for path in pair.paths]
        shape, dtype = pair.transform.backward(*blanks).shape, shapes[pair.paths[0]].dtype
        if key not in state:
            raise InputError(f"{source}: lacks the key '{key}', expected with shape {shape}")
        array = state[key]
        if array.shape != shape:
            raise InputError(f"{source}: '{key}' has shape {array.shape}, expected {shape}")
        if array.dtype != dtype:
            raise InputError(f"{source}: '{key}' is {array.dtype}, expected {dtype}")
        if not np.isfinite(array).all():
            raise InputError(f"{source}: '{key}' holds numbers that are not finite")
        out |= zip(pair.paths, pair.transform.forward(array), strict=True)
    return {path: np.ascontiguousarray(out[path]) for path in shapes}


def to_theirs(rules: Sequence[Rule], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Their state dict, in PyTorch's order, from our parameters."""
    out = {}
    for pair in _pairs(rules, list(params)):
        array = pair.transform.backward(*(np.asarray(params[path]) for path in pair.paths))
        out[pair.key] = np.ascontiguousarray(array)
    return out
