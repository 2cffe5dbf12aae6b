"""The devices that computations run on; the one module that asks JAX for them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from recjax.typing import Array

Backend = Literal["reference", "cpu", "cudnn", "tpu"]


def platform(*arrays: Any) -> str:
    """ "cpu", "gpu" or "tpu": where these arrays lie, or while JAX traces, its default device."""
    for array in arrays:
        if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
            return next(iter(array.devices())).platform
    device: Any = getattr(jax.config, "jax_default_device")  # noqa: B009 - untyped
    if device is None:
        return jax.default_backend()
    return jax.devices(device)[0].platform if isinstance(device, str) else device.platform


def host_buffer(array: Any) -> np.ndarray | None:
    """The memory of an array that lies in the host's already: nothing is copied or compiled.

    Args:
        array: of numpy or JAX.

    Returns:
        None of an array of JAX that lies elsewhere than on one CPU device.
    """
    if isinstance(array, jax.Array) and (len(array.devices()) > 1 or platform(array) != "cpu"):
        return None
    return np.asarray(array)


def attention_backend(q: Array, k: Array, prefix: Any = None) -> Backend:
    """The backend of `recjax.nn.attention.attend` for queries [B N T H] and keys [B K M H].

    Args:
        q, k: queries and keys.
        prefix: keys and values apart from `k`, which only plain products read without copies.
    """
    where = platform(q)
    if where == "cpu":
        return "cpu"
    if prefix is None and where == "gpu" and _cudnn_takes(q, k):
        return "cudnn"
    if prefix is None and where == "tpu" and _pallas_takes(q, k):
        return "tpu"
    return "reference"


def _cudnn_takes(q: Array, k: Array) -> bool:
    """Whether cuDNN's flash attention takes these shapes and types."""
    even = q.shape[2] % 2 == 0 and k.shape[2] % 2 == 0
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return even and half and q.shape[3] % 8 == 0 and q.shape[3] <= 128


def _pallas_takes(q: Array, k: Array) -> bool:
    """Whether Pallas' flash attention takes these: whole blocks, and arrays of one device, because
    XLA does not divide its kernels."""
    return q.shape[2] % 128 == 0 and k.shape[2] % 128 == 0 and jax.device_count() == 1
