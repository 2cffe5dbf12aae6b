"""PETER: a personalized transformer for explanations (Li et al., ACL 2021), and PETER+.

One transformer reads user, item, in PETER+ the tokens of a feature, and the text (section 3.1).
Attention is causal, except that the user sees the item (3.2). The user's place predicts the rating,
the item's place the words of the text in any order (the context), each later place the next token
(3.3); `config.loss` weighs the three losses.

Deviations: BPE in place of words, and a feature of several tokens; no dropout on attention weights;
Adam in place of SGD; the network of the rating adds to the mean rating; the head has no bias; the
context's words are those before the text's end (the code's have the end of texts that are shorter
than the longest).
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.models.explainers import Explainer, Inputs, Outputs, Sizes
from recjax.nn.attention import attend
from recjax.nn.cache import KVCache, empty_cache, written
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.table import Embedding
from recjax.ranges import Checked, Dropout, Few, FieldError, Positive, Range, Size
from recjax.typing import Array

_AHEAD = 2  # user and item


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of PETER; all from section 4.5 and the authors' code."""

    dim: Size = 512  # D
    layers: Few = 2
    heads: Size = 2  # N
    mlp_dim: Size = 2048  # F of the feed-forward network
    dropout: Dropout = 0.2
    init_std: Positive = 0.058  # of embeddings; theirs are drawn evenly up to 0.1
    # Of a feature that are read: PETER+; 0 = none.
    feature_tokens: Annotated[int, Range(0, 64)] = 0

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.heads or self.dim % 2:
            raise FieldError("dim", f"{self.dim}: expected an even multiple of heads {self.heads}")


PRESETS = {"plus": Config(feature_tokens=6)}
PARAM_AXES = (
    (r"(words/embedding|head)", ("vocab", "embed")),
    (r"blocks/\d+/(query|key|value)/kernel", ("embed", "heads")),
    (r"blocks/\d+/out/kernel", ("heads", "embed")),
    (r"blocks/\d+/up/kernel", ("embed", "mlp")),
    (r"blocks/\d+/down/kernel", ("mlp", "embed")),
    (r".*", (None,)),
)


class Block(nnx.Module):
    """One layer: norm(x + attention(x)), then norm(x + network(x))."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.heads, self.rate = config.heads, config.dropout
        init = nnx.initializers.xavier_uniform()

        def linear(a: int, b: int) -> nnx.Linear:
            return nnx.Linear(a, b, kernel_init=init, rngs=rngs)

        dim = config.dim
        self.query, self.key, self.value = linear(dim, dim), linear(dim, dim), linear(dim, dim)
        self.out, self.up = linear(dim, dim), linear(dim, config.mlp_dim)
        self.down = linear(config.mlp_dim, dim)
        self.attention_norm = nnx.LayerNorm(dim, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(dim, rngs=rngs)

    def _split(self, x: Array) -> Array:
        """[B T D] -> [B N T H]."""
        return jnp.einsum("BTNH->BNTH", x.reshape(*x.shape[:2], self.heads, -1))

    def __call__(
        self,
        x: Array,
        mask: Array,
        cache: tuple[Array, Array] | None = None,
        slot: Array | int = 0,
        **drop: Any,
    ) -> tuple[Array, Any]:
        """[B T D] -> [B T D], and the cache [B N M H] with these places in it."""
        q, k, v = (self._split(part(x)) for part in (self.query, self.key, self.value))
        if cache is not None:
            cache = k, v = written(cache, (k, v), slot)
        mixed = jnp.einsum("BNTH->BTNH", attend(q, k, v, mask)).reshape(x.shape)
        x = self.attention_norm(x + dropout(self.out(mixed), self.rate, **drop))
        inner = dropout(jax.nn.relu(self.up(x)), self.rate, **drop)
        return self.mlp_norm(x + dropout(self.down(inner), self.rate, **drop)), cache


def _places(count: int, dim: int) -> np.ndarray:
    """Sines and cosines of places (Vaswani et al. 2017): [count D]."""
    angles = np.arange(count)[:, None] * np.exp(-np.arange(0, dim, 2) * math.log(1e4) / dim)
    out = np.zeros((count, dim), np.float32)
    out[:, 0::2], out[:, 1::2] = np.sin(angles), np.cos(angles)
    return out


class Model(Explainer):
    """PETER under the contract."""

    rates = True
    starred = False

    def __init__(self, config: Config, sizes: Sizes, *, rngs: nnx.Rngs):
        self.config = config
        init, dim = nnx.initializers.normal(config.init_std), config.dim
        self.users = Embedding(sizes.users, dim, embedding_init=init, rngs=rngs)
        self.items = Embedding(sizes.items, dim, embedding_init=init, rngs=rngs)
        self.words = Embedding(sizes.vocab, dim, embedding_init=init, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.head = nnx.Param(init(rngs.params(), (sizes.vocab, dim), jnp.float32))
        self.mean = nnx.Param(jnp.zeros((), jnp.float32))
        self.rating_up = nnx.Linear(dim, dim, kernel_init=init, rngs=rngs)
        self.rating = nnx.Linear(dim, 1, kernel_init=init, rngs=rngs)

    def _ahead(self, inputs: Inputs) -> tuple[Array, Array]:
        """The places before the text: vectors [B P D], and which are real [B P]."""
        count = self.config.feature_tokens
        features = inputs.features[:, :count]
        both = jnp.stack([self.users(inputs.users), self.items(inputs.items)], axis=1)
        real = jnp.ones((len(both), _AHEAD), bool)
        if not count:
            return both, real
        vectors = jnp.concatenate([both, self.words(features)], axis=1)
        return vectors, jnp.concatenate([real, features > 0], axis=1)

    def _placed(self, x: Array, first: Array | int = 0) -> Array:
        """Vectors [B T D] at places from `first` on."""
        known = jnp.asarray(_places(2048, self.config.dim))
        at = jax.lax.dynamic_slice_in_dim(known, first, x.shape[1])
        return x * math.sqrt(self.config.dim) + at.astype(x.dtype)

    def _rate(self, state: Array) -> Array:
        """Stars [B] of the user's state [B D]."""
        inner = jax.nn.sigmoid(self.rating_up(state))
        return self.mean[...] + self.rating(inner)[:, 0]

    @staticmethod
    def _order(count: int) -> Array:
        """For `make_mask`: the user sees the item, all else is seen by later places alone."""
        return jnp.ones(count, jnp.int32).at[1].set(0)

    def learn(
        self,
        inputs: Inputs,
        tokens: Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """See the contract."""
        drop: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        ahead, real = self._ahead(inputs)
        x = self._placed(jnp.concatenate([ahead, self.words(tokens)], axis=1))
        real = jnp.concatenate([real, jnp.ones(tokens.shape, bool)], axis=1)
        mask = make_mask(real, self._order(x.shape[1]))
        x = dropout(x, self.config.dropout, **drop)
        for block in self.blocks:
            x, _ = block(x, mask, **drop)
        return Outputs(x[:, ahead.shape[1] :], self._rate(x[:, 0]), x[:, 1])

    def begin(self, inputs: Inputs, slots: int) -> tuple[Array, KVCache]:
        """See the contract."""
        c = self.config
        ahead, real = self._ahead(inputs)
        count, before = ahead.shape[1], ahead.shape[1] + slots
        cache = empty_cache(c.layers, len(ahead), before, c.heads, c.dim // c.heads, ahead.dtype)
        mask = make_mask(real, self._order(count))
        x, cache = self._through(self._placed(ahead), mask, cache, real)
        return self._rate(x[:, 0]), cache

    def _through(self, x: Array, mask: Array, cache: KVCache, real: Array) -> tuple[Array, KVCache]:
        """All blocks; `mask` [B T T'] of the first T' slots."""
        after, slot = cache.advance(real), cache.length
        fill = after.valid.shape[1] - mask.shape[2]
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, fill)))
        layers: list[Any] = list(zip(cache.keys, cache.values, strict=True))
        for n, block in enumerate(self.blocks):
            x, layers[n] = block(x, mask, layers[n], slot, deterministic=True, rngs=None)
        keys, values = zip(*layers, strict=True)
        return x, after.with_layers(keys, values)

    def step(self, tokens: Array, cache: KVCache) -> tuple[Array, KVCache]:
        """See the contract."""
        x = self._placed(self.words(tokens)[:, None], cache.length)
        now = jnp.arange(cache.valid.shape[1]) == cache.length
        mask = (cache.valid | now)[:, None]
        x, cache = self._through(x, mask, cache, jnp.ones((len(tokens), 1), bool))
        return x[:, 0], cache
