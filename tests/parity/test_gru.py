"""The GRU against PyTorch's (`tests/data/gru_torch.npz`: torch 2.15, weights N(0, 0.5), T = 7)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.nn.recurrent import GRU

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "gru_torch.npz")


def make():
    gru = GRU(5, 4, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
    for layer, name in ((gru.input, "ih"), (gru.recurrent, "hh")):
        layer.kernel[...] = jnp.array(GOLDEN[f"w_{name}"].T)  # torch: [3D in], gates r, z, n
        layer.bias[...] = jnp.array(GOLDEN[f"b_{name}"])
    return gru


def test_states():
    out = make()(jnp.array(GOLDEN["x"]), jnp.ones((2, 7), jnp.int32))
    np.testing.assert_allclose(out, GOLDEN["y"], atol=1e-6)


def test_gradient():
    graph, state = nnx.split(make())

    def total(state):
        out = nnx.merge(graph, state)(jnp.array(GOLDEN["x"]), jnp.ones((2, 7), jnp.int32))
        return (out**2).sum()

    gradient = jax.grad(total)(state)["recurrent"]["kernel"][...]
    np.testing.assert_allclose(gradient, GOLDEN["grad_w_hh"].T, atol=1e-5)
