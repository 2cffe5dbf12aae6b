"""Activations of a feed-forward network, whose backward passes keep their inputs alone."""

import functools

import jax

from recjax.typing import Array


@jax.custom_vjp
def gated_silu(gate: Array, up: Array) -> Array:
    """`silu(gate) * up` (Shazeer 2020), with its derivative by hand.

    What the backward pass needs is computed again from the two inputs. Autodiff would keep five
    arrays of their size, and XLA on a CPU would take one more pass over memory for most of them.

    Args:
        gate, up: [... F].

    Returns:
        [... F].
    """
    return jax.nn.silu(gate) * up


def _fwd(gate, up):
    return gated_silu(gate, up), (gate, up)


def _bwd(residuals, d_out):
    gate, up = residuals
    sigmoid = jax.nn.sigmoid(gate)
    return d_out * up * (sigmoid * (1 + gate * (1 - sigmoid))), d_out * (gate * sigmoid)


gated_silu.defvjp(_fwd, _bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Array, approximate: bool = True) -> Array:
    """GELU (Hendrycks and Gimpel 2016), [... F] -> [... F].

    The backward pass computes it again from x. Autodiff would keep three more arrays of its size.

    Args:
        x: [... F].
        approximate: by tanh; else by erf.
    """
    return jax.nn.gelu(x, approximate=approximate)


def _gelu_fwd(x, approximate):
    return gelu(x, approximate), x


def _gelu_bwd(approximate, x, d_out):
    return jax.vjp(lambda x: jax.nn.gelu(x, approximate=approximate), x)[1](d_out)


gelu.defvjp(_gelu_fwd, _gelu_bwd)
