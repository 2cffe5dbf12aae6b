"""A model without weights whose next token depends on every token before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


class HashModel:
    """Logits from a hash of all tokens, which only the cache remembers.

    The cache has its rows on axis 1, as those of stacked layers have: [1 B room].
    """

    def __init__(self, vocab: int = 7, scale: float = 3.0, room: int = 16):
        self.vocab, self.scale, self.room = vocab, scale, room
        self.traces = 0
        self._logits, self.start = jax.jit(self.logits), jax.jit(self._begin)

    def logits(self, tokens, length):
        """[B V] after the first `length` of tokens [B room]."""
        room = tokens.shape[1]
        weights = jnp.arange(1, room + 1) ** 2 * 7919 % 104729
        used = jnp.where(jnp.arange(room) < length, (tokens + 1) * weights, 0).sum(-1)
        mixed = (used[:, None] * 31 + jnp.arange(self.vocab) * 977) % 10007
        return self.scale * jnp.sin(mixed.astype(jnp.float32))

    def _begin(self, prompts):
        """`(logits, cache)` after prompts [B T]."""
        tokens = jnp.zeros((prompts.shape[0], self.room), jnp.int32)
        tokens = tokens.at[:, : prompts.shape[1]].set(prompts)
        length = jnp.int32(prompts.shape[1])
        return self.logits(tokens, length), {"tokens": tokens[None], "length": length}

    def step(self, tokens, cache):
        self.traces += 1
        held = cache["tokens"].at[0, :, cache["length"]].set(tokens)
        length = cache["length"] + 1
        return self.logits(held[0], length), {"tokens": held, "length": length}

    def reorder(self, cache, rows):
        return cache | {"tokens": cache["tokens"][:, rows]}

    def after(self, tokens):
        """[V] after a list of tokens, without a cache."""
        held = np.zeros((1, self.room), np.int32)
        held[0, : len(tokens)] = tokens
        return np.array(self._logits(held, len(tokens))[0])


@pytest.fixture
def model():
    return HashModel()


@pytest.fixture(scope="session")
def hash_model():
    return HashModel
