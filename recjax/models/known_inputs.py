"""A shorter first layer for training through a frozen language model.

Where almost all inputs are tokens of a frozen model, and gradients are asked for a few other inputs
only (soft tokens), the first layer's queries, keys and values of tokens are looked up instead of
computed, and nothing flows back to them:

    maps = map_tokens(model)                                 # once
    few = LearnedInputs(tokens, places, maps)
    h, _ = model.hidden(x, learned=few)                      # the same states
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.errors import InputError
from recjax.models.llama_layers import Call, Layers, dropout_keys
from recjax.models.stacked import Pair
from recjax.nn import backend
from recjax.nn.attention_cpu import attend_learned
from recjax.nn.lora import LoRA
from recjax.nn.places import rows_at
from recjax.typing import Array

if TYPE_CHECKING:
    from recjax.models.language import LanguageModule

Maps = tuple[Array, Array, Array]  # [V N*H], [V K*H] and [V K*H], of `map_tokens`


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("tokens", "places", "maps"), meta_fields=()
)
@dataclasses.dataclass(frozen=True)
class LearnedInputs:
    """The few inputs that a gradient is asked for, among tokens of a frozen model.

    Attributes:
        tokens: [B T]; at the few places they do not count.
        places: [B S], the few.
        maps: of `map_tokens`.
    """

    tokens: Array
    places: Array
    maps: Maps


def map_tokens(model: LanguageModule) -> Maps | None:
    """The first layer's queries, keys and values of every token, before they are rotated.

    Returns:
        [V N*H], [V K*H] and [V K*H]; None for families with other layers than LLaMA's, and where
        that saves little or nothing: in a model of one layer, and on other devices than a CPU,
        where a large model has no memory for its first layer once more.

    Raises:
        InputError: a model with LoRA, whose gradients would be left out.
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, Layers) or not layers.places_inside:
        return None
    _refuse_adapters(layers)
    table = model.embed(jnp.arange(model.config.vocab_size))
    if model.config.layers == 1 or backend.platform(table) != "cpu":
        return None
    first = layers.at(0)
    return first.attention.maps(first.attention_norm(table), dropout_keys(None))


def first_layer(
    layer: Layers,
    x: Array,
    call: Call,
    prefix: Pair | None,
    learned: LearnedInputs,
) -> Array:
    """The first layer, [B T E] -> [B T E], where only inputs at `learned.places` have a gradient.

    Raises:
        InputError: a layer with LoRA, whose gradients would be left out.
    """
    _refuse_adapters(layer)
    attention, at, keys = layer.attention, learned.places, dropout_keys(None)
    own = attention.maps(layer.attention_norm(rows_at(x, at)), keys)
    learned_angles = rows_at(call.angles[0], at), rows_at(call.angles[1], at)
    q, k, v = (table[learned.tokens] for table in learned.maps)
    known = attention.split((q, k, v), call.angles)
    mixed = attend_learned(known, attention.split(own, learned_angles), at, call.mask, prefix)
    return layer.finish(x, mixed, keys)


def _refuse_adapters(layers: Any) -> None:
    if any(isinstance(module, LoRA) for _, module in nnx.iter_modules(layers)):
        raise InputError(
            "the model has LoRA adapters, whose gradients the known inputs' shortcut would leave "
            "out; train it without LearnedInputs, or merge the adapters first"
        )
