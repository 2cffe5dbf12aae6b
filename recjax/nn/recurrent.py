"""Gated recurrent units over packed rows."""

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.typing import Array


class GRU(nnx.Module):
    """One GRU layer (Cho et al. 2014) whose state restarts with every packed sequence.

    The form with the reset gate applied after the recurrent product (cuDNN, PyTorch):
    `r, z = sigmoid(Wx + Uh)`, `n = tanh(Wx + r * (Uh + b))`, `h' = (1 - z) * n + z * h`.

    Args:
        in_dim: width of the input.
        dim: width of the state, D.
        kernel_init: initialiser of W and U.
        rngs: initialiser keys.
    """

    def __init__(self, in_dim: int, dim: int, *, kernel_init, rngs: nnx.Rngs):
        self.dim = dim
        self.input = nnx.Linear(in_dim, 3 * dim, kernel_init=kernel_init, rngs=rngs)
        self.recurrent = nnx.Linear(dim, 3 * dim, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: Array, segments: Array) -> Array:
        """Runs over [B L in_dim] from left to right; returns the states [B L D].

        A position whose segment differs from the one before it starts from the zero state.
        """
        gates_x = self.input(x)
        before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        carry_on = (segments == before) & (segments != 0)
        assert self.recurrent.bias is not None
        kernel, bias = self.recurrent.kernel[...], self.recurrent.bias[...]

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gate_x, keep = inputs
            h = h * keep[:, None].astype(h.dtype)
            gate_h = h @ kernel + bias
            xr, xz, xn = jnp.split(gate_x, 3, axis=-1)
            hr, hz, hn = jnp.split(gate_h, 3, axis=-1)
            reset, update = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            new = jnp.tanh(xn + reset * hn)
            h = (1 - update) * new + update * h
            return h, h

        start = jnp.zeros((x.shape[0], self.dim), x.dtype)
        _, states = jax.lax.scan(step, start, (gates_x.swapaxes(0, 1), carry_on.T))
        return states.swapaxes(0, 1)
