"""State dicts of other libraries <-> our parameters by path: one list of rules, both ways.

RULES = (
    Rule("norm.{layer}.weight", "blocks/{layer}/norm/scale"),
    Rule("up.{layer}.weight", "layers/up/kernel", TRANSPOSE),       # stacked: [layers in out]
)
params = to_ours(RULES, state, shapes, source="model.safetensors")
state == to_theirs(RULES, params)

A format is a table of rules, and our shapes come from the model's config. Every key and every path
is accounted for: what a file has beyond the table, lacks, or has in another shape or type, is an
error.

Large models never stand in memory twice: `load` reads tensor by tensor, in parts, straight into the
array of the device that is to hold it, and `to_tensors` hands out one tensor at a time.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from recjax.config import nearest
from recjax.convert.fetch import on_host
from recjax.convert.tensors import FLOATS, Index, Tensor, chunks, tensor_of
from recjax.errors import InputError
from recjax.typing import Params

Shape = tuple[int, ...]

TILE = 64  # rows and columns that are transposed at once


@dataclasses.dataclass(frozen=True)
class Transform:
    """One of their arrays <-> one or more of ours, losing nothing.

    Attributes:
        forward: theirs -> a tuple of ours.
        backward: ours, as arguments -> theirs.
        shape: the shapes of ours, as arguments -> that of theirs; nothing is allocated.
        index: our index -> theirs, where one of ours is a view of theirs: then parts can be read.
    """

    forward: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    backward: Callable[..., np.ndarray]
    shape: Callable[..., Shape]
    index: Callable[[Index], Index] | None = None


SAME = Transform(lambda a: (a,), lambda a: a, lambda shape: shape, lambda index: index)
# PyTorch's Linear keeps [out in], ours [in out].
TRANSPOSE = Transform(
    lambda a: (a.T,), lambda a: a.T, lambda shape: shape[::-1], lambda index: index[::-1]
)
# A convolution of kernel size 1, [out in 1], is a Linear.
POINTWISE = Transform(
    lambda a: (a[..., 0].T,), lambda a: a.T[..., None], lambda shape: (*shape[::-1], 1)
)


def split(parts: int, each: Transform = SAME) -> Transform:
    """Equal parts along the first axis of theirs, each of them transformed."""

    def whole(*shapes: Shape) -> Shape:
        theirs = [each.shape(shape) for shape in shapes]
        return (sum(shape[0] for shape in theirs), *theirs[0][1:])

    return Transform(
        lambda a: tuple(each.forward(part)[0] for part in np.split(a, parts)),
        lambda *ours: np.concatenate([each.backward(part) for part in ours]),
        whole,
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of their keys and our paths for it; `{layer}` in both stands for a number.

    `{layer}` in their key alone: our array stacks the layers along its first axis.

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
        """Parameter paths that the rule names."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A rule for one layer."""

    key: str
    paths: tuple[str, ...]
    transform: Transform
    row: int | None  # of our stacked arrays

    def shape(self, shapes: Mapping[str, Any]) -> Shape:
        """Of their array, from those of ours."""
        ours = (shapes[path].shape for path in self.paths)
        return self.transform.shape(*(s if self.row is None else s[1:] for s in ours))


def _pairs(rules: Sequence[Rule], shapes: Mapping[str, Any]) -> dict[str, _Pair]:
    """By key, the rules written out for these paths of ours, in the order of PyTorch's state dicts.

    There a list of layers comes as a whole (`norms.0.weight norms.0.bias norms.1.weight`), so
    neighbours with the same text before `{layer}` are ordered by layer first.
    """
    found: list[tuple[tuple[int, int, int], _Pair]] = []
    groups: dict[str, int] = {}
    for number, rule in enumerate(rules):
        group = groups.setdefault(rule.theirs.partition("{layer}")[0], number)
        pattern = re.escape(rule.paths[0]).replace(r"\{layer\}", r"(\d+)")
        stacked = "{layer}" in rule.theirs and "{layer}" not in rule.paths[0]
        for path in shapes:
            match = re.fullmatch(pattern, path)
            if not match:
                continue
            own = int(match[1]) if match.groups() else 0
            for layer in range(shapes[path].shape[0]) if stacked else (own,):
                texts = (t.replace("{layer}", str(layer)) for t in (rule.theirs, *rule.paths))
                key, *ours = texts
                pair = _Pair(key, tuple(ours), rule.transform, layer if stacked else None)
                found.append(((group, layer, number), pair))
    pairs = [pair for _, pair in sorted(found, key=lambda item: item[0])]
    covered = sorted(path for pair in pairs for path in pair.paths if not pair.row)
    if covered != sorted(shapes):  # the table's fault, not the user's
        raise ValueError(
            f"rules do not cover the parameters once each: {covered}, {sorted(shapes)}"
        )
    return {pair.key: pair for pair in pairs}


def _matched(
    rules: Sequence[Rule], state: Mapping[str, Tensor], shapes: Mapping[str, Any], source: str
) -> dict[str, _Pair]:
    """The pairs by key; `InputError` where keys or shapes differ."""
    pairs = _pairs(rules, shapes)
    for key in state:
        if key not in pairs:
            raise InputError(f"{state[key].source}: unknown key '{key}'; {nearest(key, pairs)}")
    for key, pair in pairs.items():
        shape = pair.shape(shapes)
        if key not in state:
            raise InputError(f"{source}: lacks the key '{key}', expected with shape {shape}")
        if state[key].shape != shape:
            tensor = state[key]
            raise InputError(f"{tensor.source}: '{key}' has shape {tensor.shape}, expected {shape}")
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
    there = {key: tensor_of(array, source) for key, array in state.items()}
    pairs = _matched(rules, there, shapes, source)
    for key, pair in pairs.items():
        dtype = shapes[pair.paths[0]].dtype
        if there[key].dtype != dtype:
            raise InputError(f"{source}: '{key}' is {there[key].dtype}, expected {dtype}")
    fill = _Fill(pairs, there)
    return {path: fill(path, leaf.shape, leaf.dtype) for path, leaf in shapes.items()}


def load(
    rules: Sequence[Rule],
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    source: str,
    *,
    dtype: Any = None,
    shardings: Callable[[Mapping[str, Any]], Mapping[str, jax.sharding.Sharding]] | None = None,
    each: Callable[[str, jax.Array], Params] = lambda path, array: {path: array},
) -> Params:
    """Our parameters on their devices, from tensors that are read as they are needed.

    The host holds what its devices hold, and some 100 MB; on a CPU the arrays are the buffers that
    the files are read into.

    Args:
        rules: the format.
        state: their tensors by key.
        shapes: what the model expects by path: anything with `shape`.
        source: the folder's name, for errors.
        dtype: of the parameters; by default each keeps the type that it has in the file.
        shardings: of the parameters, from their shapes; by default all are on the first device.
        each: `(path, array) -> arrays by path`, what is kept of an array; nothing else of it stays.

    Raises:
        InputError: naming the file, the key and what was expected: a key that is unknown or
            missing, a shape, numbers that are no floats, not finite or beyond the type's range,
            layers of different types.
    """
    pairs = _matched(rules, state, shapes, source)
    kinds: dict[str, np.dtype] = {}
    for key, pair in pairs.items():
        tensor = state[key]
        if tensor.dtype not in FLOATS.values():
            raise InputError(f"{tensor.source}: '{key}' is {tensor.dtype}, expected floats")
        for path in pair.paths:
            own = jax.dtypes.canonicalize_dtype(tensor.dtype)  # JAX has no float64
            kind = kinds.setdefault(path, np.dtype(own if dtype is None else dtype))
            if dtype is None and kind != own:
                raise InputError(
                    f"{tensor.source}: '{key}' is {tensor.dtype}, other layers are {kind}; "
                    "choose a dtype for all"
                )
    out = {path: jax.ShapeDtypeStruct(leaf.shape, kinds[path]) for path, leaf in shapes.items()}
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed: Mapping[str, jax.sharding.Sharding] = dict.fromkeys(out, first)
    else:
        placed = shardings(out)
    fill = _Fill(pairs, state)

    def array(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        def part(index: Index | None) -> np.ndarray:
            return fill(path, leaf.shape, leaf.dtype, index)

        return jax.make_array_from_callback(leaf.shape, placed[path], part)

    kept: Params = {}
    for path, leaf in out.items():
        kept |= each(path, array(path, leaf))
    return kept


class _Fill:
    """Parts of our arrays, read from the tensors that they consist of."""

    def __init__(self, pairs: Mapping[str, _Pair], state: Mapping[str, Tensor]):
        self.state = state
        self.pieces: dict[str, list[tuple[int, _Pair]]] = {}
        for pair in pairs.values():
            for at, path in enumerate(pair.paths):
                self.pieces.setdefault(path, []).append((at, pair))

    def __call__(
        self, path: str, shape: tuple[int, ...], dtype: Any, index: Index | None = None
    ) -> np.ndarray:
        """The part of a parameter at an index, by default all."""
        spans = [slice(*s.indices(n)[:2]) for s, n in zip(index or (), shape, strict=False)]
        spans = spans or [slice(0, n) for n in shape]
        out = _aligned(tuple(s.stop - s.start for s in spans), dtype)
        for at, pair in self.pieces[path]:
            if pair.row is None:
                self._read(out, pair, at, tuple(spans))
            elif spans[0].start <= pair.row < spans[0].stop:
                self._read(out[pair.row - spans[0].start], pair, at, tuple(spans[1:]))
        return out

    def _read(self, out: np.ndarray, pair: _Pair, at: int, spans: Index) -> None:
        tensor, transform = self.state[pair.key], pair.transform
        if transform.index is None:
            whole = tensor.read()
            _check(whole, out.dtype, tensor.source, pair.key)
            out[...] = transform.forward(whole)[at][spans]
            return
        theirs, view = transform.index(spans), transform.backward(out)
        for rows in chunks(theirs, np.dtype(tensor.dtype).itemsize):
            part = tensor.read((rows, *theirs[1:]))
            _check(part, out.dtype, tensor.source, pair.key)
            start = theirs[0].start
            _copy(view[rows.start - start : rows.stop - start], part)


def _copy(out: np.ndarray, part: np.ndarray) -> None:
    """`out[...] = part`, in tiles: a transposition at once would miss the cache at every number."""
    if part.ndim != 2 or out.strides[1] < out.strides[0]:
        out[...] = part
        return
    for row in range(0, part.shape[0], TILE):
        for column in range(0, part.shape[1], TILE):
            tile = (slice(row, row + TILE), slice(column, column + TILE))
            out[tile] = part[tile]


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that starts at a multiple of 64 bytes: on a CPU, JAX takes it as it is."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _check(part: np.ndarray, dtype: np.dtype, source: str, key: str) -> None:
    if not _finite(part):
        found = "NaN" if np.isnan(part).any() else "infinity"
        raise InputError(f"{source}: '{key}' holds {found}, expected finite numbers")
    limit = float(ml_dtypes.finfo(dtype).max)
    if float(ml_dtypes.finfo(part.dtype).max) <= limit or not part.size:
        return
    if max(float(part.max()), -float(part.min())) > limit:
        wider = "bfloat16" if dtype == np.float16 else "a wider type"
        raise InputError(f"{source}: '{key}' holds numbers beyond {dtype}'s range; use {wider}")


def _finite(part: np.ndarray) -> bool:
    if part.dtype.itemsize != 2:
        return bool(np.isfinite(part).all())
    # Twenty times as fast as isfinite: infinities and NaN have an exponent of ones.
    ones = np.uint16(0x7C00 if part.dtype == np.float16 else 0x7F80)
    return not bool(((part.view(np.uint16) & ones) == ones).any())


def to_tensors(rules: Sequence[Rule], params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Their state dict, in PyTorch's order; each tensor is made from ours when it is read."""

    def tensor(pair: _Pair) -> Tensor:
        def read(index: Index) -> np.ndarray:
            rows = (on_host(params[path], pair.row) for path in pair.paths)
            return pair.transform.backward(*rows)[index]

        shape = pair.shape(params)
        return Tensor(shape, np.dtype(params[pair.paths[0]].dtype), pair.key, read)

    return {key: tensor(pair) for key, pair in _pairs(rules, params).items()}


def cast(tensor: Tensor, dtype: Any) -> Tensor:
    """A tensor whose numbers are converted when they are read; None: as they are.

    Raises:
        InputError: when read: numbers that are not finite, or beyond the type's range.
    """
    if dtype is None or np.dtype(dtype) == tensor.dtype:
        return tensor
    to = np.dtype(dtype)

    def read(index: Index) -> np.ndarray:
        part = tensor.read(index)
        _check(part, to, "parameters", tensor.source)
        return part.astype(to)

    return dataclasses.replace(tensor, dtype=to, reader=read)


def to_theirs(rules: Sequence[Rule], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Their state dict, in PyTorch's order, from our parameters."""
    state = to_tensors(rules, params)
    return {key: np.ascontiguousarray(tensor.read()) for key, tensor in state.items()}
