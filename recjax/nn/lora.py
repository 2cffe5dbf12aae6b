"""Linear maps, and low-rank adapters on them (LoRA, Hu et al. 2021).

y = x W + (alpha / R) dropout(x) A B, with B = 0 at the start, so that an adapted model begins as
the model it adapts (section 4.1). With `rslora` the factor is alpha / sqrt(R) (Kalajdzievski 2023).

    config = LoRAConfig(rank=8, targets=(r"layers/attention/(query|value)",))
    model = add_lora(model, config, rngs)     # new parameters "layers/attention/query/lora/a"
    plain = merge_lora(params, config)             # the same function without them

Deviations: A and B are cast to the activations' type, where peft casts the activations to theirs
(alike in float32). Layers are stacked, so A is [layers in R] and B [layers R out].
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.errors import InputError
from recjax.nn import product_cpu
from recjax.nn.backend import platform
from recjax.nn.dropout import dropout
from recjax.nn.narrow import product
from recjax.ranges import Checked, Dropout, FieldError, Positive, Range
from recjax.sharded import is_placed
from recjax.typing import Array, Params

MOST_RANK = 1 << 16


@dataclasses.dataclass(frozen=True)
class LoRAConfig(Checked):
    """Rank, scale and targets of low-rank adapters."""

    rank: Annotated[int, Range(1, MOST_RANK)] = 8  # R
    alpha: Positive = 16.0  # the update is scaled by alpha / R
    rslora: bool = False  # by alpha / sqrt(R) instead
    dropout: Dropout = 0.0  # on the adapter's input
    targets: tuple[str, ...] = (r"layers/attention/(query|value)",)  # regex over module paths

    def __post_init__(self):
        super().__post_init__()
        if not self.targets:
            raise FieldError("targets", "expected at least one")
        for target in self.targets:
            try:
                re.compile(target)
            except (re.error, OverflowError, RecursionError) as error:
                raise FieldError("targets", f"'{target}' is no regex ({error})") from None

    @property
    def scale(self) -> float:
        """Factor of A B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LoRAParam(nnx.Variable):
    """A parameter of an adapter: no `nnx.Param`, so that filters tell it from the base."""


class LoRA(nnx.Module):
    """The low-rank update of one linear map (or of a stack of them)."""

    def __init__(
        self, stack: tuple[int, ...], in_dim: int, out_dim: int, config: LoRAConfig, rngs: nnx.Rngs
    ):
        self.scale, self.rate = config.scale, config.dropout
        # Uniform as peft's: bound sqrt(1 / in), which is Kaiming's with a = sqrt(5).
        bound = in_dim**-0.5
        shape = (*stack, in_dim, config.rank)
        self.a = LoRAParam(
            jax.random.uniform(rngs.params(), shape, jnp.float32, minval=-bound, maxval=bound)
        )
        self.b = LoRAParam(jnp.zeros((*stack, config.rank, out_dim), jnp.float32))

    def factors(self) -> tuple[Array, Array, float]:
        """A, B and the scale of their product."""
        return self.a[...], self.b[...], self.scale

    def __call__(self, x: Array, key: Array | None) -> Array:
        rngs = None if key is None else nnx.Rngs(dropout=key)
        x = dropout(x, self.rate, deterministic=key is None, rngs=rngs)
        low = _product(x, self.a[...].astype(x.dtype))
        return _product(low, self.b[...].astype(x.dtype)) * self.scale


class Linear(nnx.Module):
    """A linear map, [... in] -> [... out], which may carry an adapter.

    Args:
        in_dim, out_dim: sizes of the kernel [*stack in out].
        stack: leading axes, for layers that are scanned.
        init: initialiser of the kernel.
        rngs: its key.
        dtype: of the kernel.
        bias: whether a vector [*stack out] is added, 0 at the start.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        stack: tuple[int, ...] = (),
        init: Callable[..., Array],
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        bias: bool = False,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (*stack, in_dim, out_dim), dtype))
        self.bias = nnx.Param(jnp.zeros((*stack, out_dim), dtype)) if bias else None
        self.lora: LoRA | None = nnx.data(None)
        self.quant_scale: Any = nnx.data(None)  # of a narrow kernel (`recjax.nn.quant`)

    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """Maps x [... in]; with a `key`, an adapter's dropout is on."""
        if self.quant_scale is None:
            y = _product(x, self.kernel[...].astype(x.dtype))
        else:
            y = product(x, self.kernel[...], self.quant_scale[...])
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)
        return y if self.lora is None else y + self.lora(x, key)

    def merged(self) -> Array:
        """The kernel [*stack in out] with its adapter in it (without dropout)."""
        kernel = self.kernel[...]
        return kernel if self.lora is None else _shifted(kernel, *self.lora.factors())


def _product(x: Array, weight: Array) -> Array:
    """`x @ weight`, [... in] and [in out] -> [... out]."""
    if platform(x) == "cpu" and not is_placed():
        return product_cpu.product(x, weight)
    return x @ weight


def add_lora(model: Any, config: LoRAConfig, rngs: nnx.Rngs) -> Any:
    """Puts an adapter on every linear map whose path one of the targets matches in full.

    Args:
        model: a module with `Linear`s; changed in place.
        config: rank, scale and targets.
        rngs: initialiser keys (`params`).

    Returns:
        The model.

    Raises:
        InputError: a target that matches no linear map.
    """
    linears = {
        "/".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    for target in config.targets:
        if not any(re.fullmatch(target, path) for path in linears):
            raise InputError(f"LoRA target '{target}' matches none of: {', '.join(linears)}")
    for path, linear in linears.items():
        if any(re.fullmatch(target, path) for target in config.targets):
            *stack, in_dim, out_dim = linear.kernel.shape
            linear.lora = LoRA(tuple(stack), in_dim, out_dim, config, rngs)
    return model


def merge_lora(params: Params, config: LoRAConfig) -> Params:
    """Parameters without adapters that compute the same: W + scale A B, each in float32.

    Raises:
        InputError: a kernel of few bits (`recjax.nn.quant`), which cannot hold the sum.
    """
    out = {}
    for path, kernel in params.items():
        if is_lora(path):
            continue
        own = path.removesuffix("kernel") + "lora/"
        if path.endswith("/kernel") and f"{own}a" in params:
            kernel = _shifted(kernel, params[f"{own}a"], params[f"{own}b"], config.scale)
        out[path] = kernel
    return out


def is_lora(path: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return re.fullmatch(r".*/lora/[ab]", path) is not None


def lora_axes(axes: tuple[tuple[str, tuple[str | None, ...]], ...]) -> tuple:
    """Sharding rules with those of adapters: A is split like its kernel's input, B like its output.

    Args:
        axes: `(regex over paths, logical axes)`, kernels as `.../kernel`.
    """
    out: list[tuple[str, tuple[str | None, ...]]] = []
    for pattern, names in axes:
        if pattern.endswith("/kernel"):
            base, (*stack, into, outof) = pattern.removesuffix("kernel"), names
            out += [
                (f"{base}lora/a", (*stack, into, "rank")),
                (f"{base}lora/b", (*stack, "rank", outof)),
                (f"{base}quant_scale", (*stack, None, outof)),
            ]
        out.append((pattern, names))
    return tuple(out)


def _shifted(kernel: Array, a: Array, b: Array, scale: float) -> Array:
    """The kernel and what an adapter adds to it, in float32."""
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise InputError(f"a kernel of {kernel.dtype} takes no adapter; expected one without quant")
    update = scale * (a.astype(jnp.float32) @ b.astype(jnp.float32))
    return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
