"""Recurrent layers: a GRU over packed rows; a GRU and an LSTM from a given state."""

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
            h = _gru(gate_x, h @ kernel + bias[None], h)
            return h, h

        start = jnp.zeros((x.shape[0], self.dim), x.dtype)
        _, states = jax.lax.scan(step, start, (gates_x.swapaxes(0, 1), carry_on.T))
        return states.swapaxes(0, 1)

    def step(self, x: Array, h: Array) -> Array:
        """The state [B D] after an input [B in_dim]."""
        return _gru(self.input(x), self.recurrent(h), h)

    def output(self, h: Array) -> Array:
        """[B D], what the next layer reads of a state."""
        return h


def _gru(gate_x: Array, gate_h: Array, h: Array) -> Array:
    xr, xz, xn = jnp.split(gate_x, 3, axis=-1)
    hr, hz, hn = jnp.split(gate_h, 3, axis=-1)
    reset, update = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    new = jnp.tanh(xn + reset * hn)
    return (1 - update) * new + update * h


class LSTM(nnx.Module):
    """One LSTM layer (Hochreiter and Schmidhuber 1997; the form of cuDNN and PyTorch).

    `i, f, o = sigmoid(Wx + Uh)`, `c' = f * c + i * tanh(Wx + Uh)`, `h' = o * tanh(c')`. A state is
    h beside c, [B 2D].

    Args:
        in_dim: width of the input.
        dim: D.
        kernel_init: initialiser of W and U.
        rngs: initialiser keys.
    """

    def __init__(self, in_dim: int, dim: int, *, kernel_init, rngs: nnx.Rngs):
        self.input = nnx.Linear(in_dim, 4 * dim, kernel_init=kernel_init, rngs=rngs)
        self.recurrent = nnx.Linear(
            dim, 4 * dim, use_bias=False, kernel_init=kernel_init, rngs=rngs
        )

    def step(self, x: Array, state: Array) -> Array:
        """The state [B 2D] after an input [B in_dim]."""
        h, c = jnp.split(state, 2, axis=-1)
        i, f, g, o = jnp.split(self.input(x) + self.recurrent(h), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(c), c], axis=-1)

    def output(self, state: Array) -> Array:
        """[B D], what the next layer reads of a state."""
        return jnp.split(state, 2, axis=-1)[0]


def unrolled(layer: GRU | LSTM, x: Array, start: Array) -> Array:
    """The outputs [B T D] of a layer over inputs [B T in_dim], from a state."""

    def step(state: Array, x: Array) -> tuple[Array, Array]:
        state = layer.step(x, state)
        return state, layer.output(state)

    return jax.lax.scan(step, start, x.swapaxes(0, 1))[1].swapaxes(0, 1)
