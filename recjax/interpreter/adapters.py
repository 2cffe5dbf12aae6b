"""Adapters: hidden states of a recommender -> soft tokens of a language model.

The paper's (RecInterpreter, Yang et al. 2023, section 4.1.2) is `linear` with one soft token: a
convolutional filter over the L positions, [B L D] -> [B D], then one linear map to the width of
the language model, shared by all representations of a prompt. Caser's one vector has no positions,
so the linear map is alone. Here the same with k soft tokens, with a hidden layer (`mlp`), and the
Q-Former (Li et al. 2023) that the paper names as future work: learned queries that attend to all
positions.

An adapter maps h [B L D] (or [B D], L = 1) to [B S E].

Deviations: hidden states are first whitened by the mean and covariance of training states. A linear
adapter could absorb this affine map, so it changes the speed of learning only. Padding stays zero;
otherwise short histories could be recognised by their padding. Soft tokens start at the size of the
model's own embeddings. The paper does not say how its adapter starts; here the filter starts as the
newest position.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.nn.attention import attend
from recjax.nn.norms import RMSNorm
from recjax.ranges import Checked, Few, Size, check_multiple
from recjax.training.freezing import Rules
from recjax.typing import Array

RULES: Rules = ((r"whitening/.*", "kept"), (r"body/.*", "trained"))


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Section `adapter`: its kind and sizes."""

    name: Literal["linear", "mlp", "qformer"] = "linear"
    soft: Few = 1  # S, soft tokens for a representation; the paper's 1
    hidden: Size = 256  # width of the hidden layer (mlp) or of the queries (qformer)
    layers: Few = 2  # of the Q-Former
    heads: Size = 4  # of the Q-Former

    def __post_init__(self):
        super().__post_init__()
        if self.name == "qformer":
            check_multiple(self, "hidden", of="heads")


class Whitening(nnx.Module):
    """Whitens features: subtracts their mean (`centre`), then makes them uncorrelated with variance
    1 (`even`).

    Between the two steps an adapter may sum up positions, so that one row is multiplied by the
    matrix, not L rows. Items may differ only in a small part of a state's variance; after whitening
    one learning rate fits all directions. Mean and matrix are measured, not trained.

    Of few states a direction's variance is measured far too small, and new states would become huge
    in it. Below 2 D states the covariance is therefore blended with one that is even. Directions
    without variance in all states are left out.

    Args:
        states: [n D] to measure; with None, or a single one, features stay as they are.
        dim: D.
    """

    def __init__(self, states: Any, dim: int):
        mean, matrix = np.zeros(dim), np.eye(dim)
        if states is not None and len(states) > 1:
            mean = np.mean(states, axis=0, dtype=np.float64)
            covariance = np.cov(np.asarray(states, np.float64), rowvar=False).reshape(dim, dim)
            variance, axes = np.linalg.eigh(covariance)
            even = max(0.0, 1 - len(states) / (2 * dim))
            variance = (1 - even) * variance + even * variance.mean()
            floor = max(variance.max(), 1e-12) * 1e-6
            # Below the floor is rounding, in which new states may differ: they are not blown up.
            sizes = np.sqrt(np.maximum(variance, 0) + floor)
            matrix = (axes * np.where(variance > floor, 1 / sizes, 0)) @ axes.T
        self.mean = nnx.Variable(jnp.asarray(mean, jnp.float32))
        self.matrix = nnx.Variable(jnp.asarray(matrix, jnp.float32))

    def centre(self, h: Array) -> Array:
        """h [... D] less its mean; zeros are padding, and stay zeros."""
        mean = jnp.broadcast_to(jax.lax.stop_gradient(self.mean[...]), h.shape)
        return jnp.where(jnp.any(h != 0, axis=-1, keepdims=True), h - mean, 0)

    def even(self, x: Array) -> Array:
        """Uncorrelated features [... D] from centred features or weighted sums of those."""
        return x @ jax.lax.stop_gradient(self.matrix[...])


class Linear(nnx.Module):
    """The paper's adapter: filter, then a linear map; with a hidden layer, `mlp`.

    Args:
        config: sizes.
        length, dim: L and D of the hidden states.
        embed: E.
        size: root mean square of the language model's embeddings.
        rngs: initialiser keys.
    """

    def __init__(
        self, config: Config, length: int, dim: int, embed: int, size: float, *, rngs: nnx.Rngs
    ):
        self.soft = config.soft
        self.filter = (
            nnx.Param(jnp.zeros(length, jnp.float32).at[-1].set(1.0)) if length > 1 else None
        )
        widths = [dim, config.hidden] if config.name == "mlp" else [dim]
        init = nnx.initializers.lecun_normal()
        self.up = (
            nnx.Linear(dim, config.hidden, kernel_init=init, rngs=rngs)
            if config.name == "mlp"
            else None
        )
        scaled = nnx.initializers.variance_scaling(size**2, "fan_in", "normal")
        self.out = nnx.Linear(widths[-1], config.soft * embed, kernel_init=scaled, rngs=rngs)

    def pooled(self, h: Array) -> Array:
        """h [B L D] -> [B D]."""
        return h[:, -1] if self.filter is None else jnp.einsum("BLD,L->BD", h, self.filter[...])

    def __call__(self, x: Array) -> Array:
        """x [B D], pooled -> [B S E]."""
        if self.up is not None:
            x = jax.nn.gelu(self.up(x))
        return self.out(x).reshape(len(x), self.soft, -1)


class _Block(nnx.Module):
    """Queries attend to each other, then to the hidden states; then a feed-forward network."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        def linear(into: int, outof: int) -> nnx.Linear:
            return nnx.Linear(into, outof, use_bias=False, rngs=rngs)

        self.heads = heads
        self.own, self.own_out = linear(dim, 3 * dim), linear(dim, dim)
        self.query, self.memory, self.cross_out = (
            linear(dim, dim),
            linear(dim, 2 * dim),
            linear(dim, dim),
        )
        self.up, self.down = linear(dim, 4 * dim), linear(4 * dim, dim)
        self.own_norm, self.cross_norm, self.mlp_norm = (RMSNorm(dim, 1e-6) for _ in range(3))

    def _split(self, x: Array, parts: int) -> list[Array]:
        """[B T parts*D] -> parts of [B N T H]."""
        rows, length, _ = x.shape
        heads = x.reshape(rows, length, parts, self.heads, -1)
        return list(jnp.einsum("BTPNH->PBNTH", heads))

    def _attend(self, q: Array, k: Array, v: Array) -> Array:
        mixed = jnp.einsum("BNTH->BTNH", attend(q, k, v, None))
        return mixed.reshape(*mixed.shape[:2], -1)

    def __call__(self, x: Array, memory: Array) -> Array:
        x = x + self.own_out(self._attend(*self._split(self.own(self.own_norm(x)), 3)))
        (q,) = self._split(self.query(self.cross_norm(x)), 1)
        x = x + self.cross_out(self._attend(q, *self._split(self.memory(memory), 2)))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


class QFormer(nnx.Module):
    """S learned queries that read all positions (Li et al. 2023, section 3.1, without the text).

    Args: as `Linear`.
    """

    def __init__(
        self, config: Config, length: int, dim: int, embed: int, size: float, *, rngs: nnx.Rngs
    ):
        width = config.hidden
        normal = nnx.initializers.normal(0.02)
        self.read = nnx.Linear(dim, width, rngs=rngs)
        self.positions = nnx.Param(normal(rngs.params(), (length, width), jnp.float32))
        self.queries = nnx.Param(normal(rngs.params(), (config.soft, width), jnp.float32) * 50)
        self.blocks = nnx.List(
            [_Block(width, config.heads, rngs=rngs) for _ in range(config.layers)]
        )
        self.norm = RMSNorm(width, 1e-6)
        scaled = nnx.initializers.variance_scaling(size**2, "fan_in", "normal")
        self.out = nnx.Linear(width, embed, kernel_init=scaled, rngs=rngs)

    def pooled(self, h: Array) -> Array:
        """h [B L D] as it is: the queries read all positions."""
        return h

    def __call__(self, h: Array) -> Array:
        """h [B L D] -> [B S E]."""
        memory = self.read(h) + self.positions[...][None]
        x = jnp.broadcast_to(self.queries[...], (len(h), *self.queries.shape))
        for block in self.blocks:
            x = block(x, memory)
        return self.out(self.norm(x))


class Adapter(nnx.Module):
    """Any of the adapters, behind its whitening.

    Args:
        config: which, and sizes.
        states: [n D] of training histories, to measure; None where only shapes matter.
        length, dim: L and D.
        embed: E.
        size: root mean square of the language model's embeddings.
        rngs: initialiser keys.
    """

    def __init__(
        self,
        config: Config,
        states: Any,
        length: int,
        dim: int,
        embed: int,
        size: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.whitening = Whitening(states, dim)
        make = QFormer if config.name == "qformer" else Linear
        self.body = make(config, length, dim, embed, size, rngs=rngs)

    def pooled(self, h: Array) -> Array:
        """The body's input from h [B L D], whitened: [B D], or [B L D] for the Q-Former."""
        return self.whitening.even(self.body.pooled(self.whitening.centre(h)))

    def __call__(self, h: Array) -> Array:
        """Soft tokens [B S E] of hidden states [B L D] or [B D]."""
        return self.body(self.pooled(h[:, None] if h.ndim == 2 else h))
