"""Models as plain arrays: NNX builds and names the modules, the step sees a flat dict.

`nnx.jit` costs milliseconds a step on small models; a `jax.jit` over a dict of arrays costs a
tenth (ecosystem measurements), and checkpoints, shardings and conversions want paths anyway.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx

from recjax.nn.backend import host_buffer
from recjax.typing import Params

M = TypeVar("M", bound=nnx.Module)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelDef(Generic[M]):
    """A model without its arrays.

    Attributes:
        graphdef: NNX's static half.
        paths: parameter path -> NNX path.
        shapes: parameter path -> abstract array.
    """

    graphdef: Any
    paths: dict[str, tuple]
    shapes: dict[str, jax.ShapeDtypeStruct]

    def size(self, paths: Iterable[str] | None = None) -> int:
        """The number of parameters at some paths, or of all."""
        return sum(
            math.prod(self.shapes[p].shape) for p in (self.shapes if paths is None else paths)
        )

    def merge(self, params: Params) -> M:
        """The module over these arrays (under jit too)."""
        flat = [(path, params[name]) for name, path in self.paths.items()]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


class _Stream(nnx.RngStream):
    """Keys of `nnx.RngStream`, made while a program is traced, not by the program.

    There NNX adds to a traced counter, and each addition formats an error that nobody reads: half
    the time that a definition takes. And every key is a loop of its own to be compiled.
    """

    def __init__(self, key: Any, *, tag: str):
        super().__init__(key, tag=tag)
        self.drawn = 0

    def __call__(self) -> jax.Array:
        with jax.ensure_compile_time_eval():
            key = jax.random.fold_in(self.key[...], self.drawn)
        self.drawn += 1
        return key


def initial_keys(seed: int) -> nnx.Rngs:
    """The keys of `nnx.Rngs(params=seed)`, for building a model."""
    rngs = nnx.Rngs()
    with jax.ensure_compile_time_eval():
        key = jax.random.key(seed)
    setattr(rngs, "params", _Stream(key, tag="params"))  # noqa: B010
    return rngs


def define(build: Callable[[nnx.Rngs], M]) -> ModelDef[M]:
    """The definition of the model that `build(rngs)` makes; allocates nothing."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(initial_keys(0))))
    flat = {"/".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, (_, v) in flat.items()}
    return ModelDef(graphdef, {k: path for k, (path, _) in flat.items()}, shapes)


def params_of(model: nnx.Module) -> Params:
    """The arrays of a module by path."""
    state = nnx.to_flat_state(nnx.state(model))
    return {"/".join(map(str, path)): leaf[...] for path, leaf in state}


class ArraySample(NamedTuple):
    """The part of an array that `fingerprint` reads.

    Attributes:
        shape, dtype: its own.
        values: its first ones, 64 at most.
    """

    shape: tuple[int, ...]
    dtype: Any
    values: np.ndarray

    @classmethod
    def of(cls, array: Any) -> "ArraySample":
        """The sample of an array, as a copy: the array may be freed afterwards."""
        buffer = host_buffer(array)
        values = (array if buffer is None else buffer).reshape(-1)[:64]
        return cls(array.shape, array.dtype, np.array(values))


def fingerprint(params: Mapping[str, Any], dtype: Any = None) -> str:
    """A digest of a model's parameters: shapes and some values of every array.

    Args:
        params: arrays or their samples, by path.
        dtype: the type that values are read as; by default each array's own.
    """
    digest = hashlib.sha256()
    for path in sorted(params):
        array = params[path]
        sample = array if isinstance(array, ArraySample) else ArraySample.of(array)
        kind = sample.dtype if dtype is None else np.dtype(dtype)
        values = sample.values.astype(kind).tobytes()
        digest.update(f"{path} {sample.shape} {kind}".encode() + values)
    return digest.hexdigest()[:16]
