"""Models that explain a user's opinion of an item in words; the baselines of RecSysLLM's Table 5.

A module has `Config` (frozen, each field's source named), `PRESETS`, `PARAM_AXES` and `Model`, an
`Explainer`. A text begins after the token `<s>`.

    outputs = model.learn(inputs, tokens)          # states of every place, the rating, the context
    rating, cache = model.begin(inputs, slots)     # then word by word
    h, cache = model.step(tokens, cache)
    logits = model.logits(h)

Letters: B rows, T tokens of a text, D width of the states, V vocabulary, F tokens of a feature.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.named import read_section
from recjax.typing import Array

NAMES = ("attn2seq", "nrt", "peter")
RATES = 5  # stars


class Inputs(NamedTuple):
    """The inputs of an explanation.

    Attributes:
        users: [B], from 0.
        items: [B], ids from 1.
        ratings: [B] stars, which some models are told.
        features: [B F], tokens of a word that the text is to be about; 0 pads.
    """

    users: Array
    items: Array
    ratings: Array
    features: Array


class Outputs(NamedTuple):
    """A model's outputs for whole texts.

    Attributes:
        states: [B T D], each for the head: it predicts the token after its place.
        rating: [B] stars, or None.
        context: [B D], for the head: which words the text has, in whatever order; or None.
    """

    states: Array
    rating: Array | None = None
    context: Array | None = None


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the data: U users, I items with the padding, V tokens."""

    users: int
    items: int
    vocab: int


class Explainer(nnx.Module):
    """The interface of every model.

    Args:
        config: sizes.
        sizes: of the data.
        rngs: initialiser keys.

    Attributes:
        head: [V D].
        rates: whether it predicts ratings.
        starred: whether it reads ratings as `stars`, its own or those it is told.
    """

    head: nnx.Param
    rates: ClassVar[bool] = False
    starred: ClassVar[bool] = True

    def learn(
        self,
        inputs: Inputs,
        tokens: Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """See `Outputs`; `tokens` [B T] begin with `<s>`."""
        raise NotImplementedError

    def begin(self, inputs: Inputs, slots: int) -> tuple[Array | None, Any]:
        """The rating [B] or None, and a cache before `<s>` with room for so many tokens."""
        raise NotImplementedError

    def step(self, tokens: Array, cache: Any) -> tuple[Array, Any]:
        """The state [B D] after tokens [B], for the head, and the cache with them in it."""
        raise NotImplementedError

    def logits(self, h: Array) -> Array:
        """[... V] of states [... D]."""
        return jnp.einsum("...D,VD->...V", h, self.head[...].astype(h.dtype))


def stars(ratings: Array) -> Array:
    """Ratings as one-hot vectors [B 5] of the nearest whole number of stars."""
    nearest_star = jnp.clip(jnp.round(ratings), 1, RATES).astype(jnp.int32)
    return jax.nn.one_hot(nearest_star - 1, RATES)


def read_explainer(section: Any) -> tuple[Any, Any]:
    """The module of an explainer and its own `Config`; see `recjax.models.named`."""
    return read_section(section, "explainers.", NAMES, "explainer")
