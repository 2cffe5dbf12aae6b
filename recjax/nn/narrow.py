"""Kernels in 8 or 4 bits.

int8: a scale for each output of a map, the largest weight is 127. nf4: the 16 values of NormalFloat
(Dettmers et al. 2023, QLoRA, appendix E), two to a byte, and a scale for each 64 inputs of an
output.

Deviations: own arrays, where qwix has `quantize` and `dequantize`. Its nf4 values are of type
uint4, which Orbax cannot store, its products are slower, and it has no backward pass such as
`product`'s (configs/results/pods.md).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.typing import Array

Form = Literal["int8", "nf4"]
BLOCK = 64  # inputs that share a scale in nf4
# Quantiles of the normal distribution, scaled to [-1, 1], with an exact 0.
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def narrow(kernel: Array, form: Form) -> tuple[Array, Array]:
    """A kernel [... in out] as numbers of few bits, and their scales.

    Returns:
        int8: [... in out] int8 and [... 1 out]; nf4: [... in/2 out] uint8, two of neighbouring
        inputs in a byte, and [... in/64 out]. Scales are float32.

    Raises:
        InputError: nf4 of inputs that 64 does not divide.
    """
    wide = kernel.astype(jnp.float32)
    if form == "int8":
        scale = jnp.maximum(jnp.abs(wide).max(axis=-2, keepdims=True), 1e-30) / 127
        return jnp.round(wide / scale).astype(jnp.int8), scale
    *stack, into, out = kernel.shape
    if into % BLOCK:
        raise InputError(f"nf4: a map of {into} inputs; expected a multiple of {BLOCK}")
    blocks = wide.reshape(*stack, into // BLOCK, BLOCK, out)
    scale = jnp.maximum(jnp.abs(blocks).max(axis=-2), 1e-30)
    places = (NF4[1:] + NF4[:-1]) / 2
    codes = jnp.searchsorted(jnp.asarray(places), blocks / scale[..., None, :])
    codes = codes.astype(jnp.uint8).reshape(*stack, into // 2, 2, out)
    return codes[..., 0, :] | (codes[..., 1, :] << 4), scale


def widened(kernel: Array, scale: Array, dtype: Any) -> Array:
    """[... in out] of what `narrow` gives."""
    if kernel.dtype == jnp.int8:
        return (kernel.astype(jnp.float32) * scale).astype(dtype)
    *stack, half, out = kernel.shape
    codes = jnp.stack([kernel & 15, kernel >> 4], axis=-2).reshape(*stack, -1, BLOCK, out)
    values = jnp.asarray(NF4)[codes.astype(jnp.int32)] * scale[..., None, :]
    return values.reshape(*stack, 2 * half, out).astype(dtype)


@jax.custom_vjp
def product(x: Array, kernel: Array, scale: Array) -> Array:
    """x [... in] times what `narrow` gives, [... out].

    The kernel is frozen: x alone has a gradient. The backward pass makes the kernel wide again;
    otherwise JAX would keep those of all layers from the forward pass.
    """
    return x @ widened(kernel, scale, x.dtype)


def _forward(x: Array, kernel: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, scale), (kernel, scale)


def _backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, None, None]:
    return dy @ widened(*residuals, dy.dtype).T, None, None


product.defvjp(_forward, _backward)
