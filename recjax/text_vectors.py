"""Vectors of texts, made by a language model."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.llm import LanguageModel
from recjax.typing import Array, Params

_BATCH = 32  # texts at a time
_MOST = 256  # tokens of a text that are read


def text_vectors(lm: LanguageModel, texts: Sequence[str]) -> np.ndarray:
    """Vectors [n E] of texts: the mean of the final hidden states of a text's first 256 tokens.

    Args:
        lm: a causal language model with a tokenizer.
        texts: n of them; an empty one has a vector of zeros.

    Raises:
        InputError: another kind of model, or none with a tokenizer.
    """
    lm.check_causal("a text's vector")
    if lm.tokenizer is None:
        raise InputError("a text's vector: the model's folder has no tokenizer; expected one")
    rows = [lm.tokenizer.encode(text)[:_MOST] if text else [] for text in texts]

    @jax.jit
    def mean(params: Params, tokens: Array, real: Array) -> Array:
        h = lm.definition.merge(params).hidden(tokens, mask=real)[0].astype(jnp.float32)
        total = jnp.einsum("BTE,BT->BE", h, real.astype(jnp.float32))
        return total / jnp.maximum(real.sum(axis=1, keepdims=True), 1)

    out = np.zeros((len(rows), lm.config.dim), np.float32)
    by_length = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    for first in range(0, len(rows), _BATCH):
        batch = by_length[first : first + _BATCH]
        width = 1 << (max(1, len(rows[batch[-1]])) - 1).bit_length()  # few programs
        tokens, real = np.zeros((_BATCH, width), np.int32), np.zeros((_BATCH, width), bool)
        for row, k in enumerate(batch):
            tokens[row, : len(rows[k])], real[row, : len(rows[k])] = rows[k], True
        vectors = mean(lm.params, *lm.placed(tokens, real))
        out[batch] = np.asarray(vectors)[: len(batch)]
    return out
