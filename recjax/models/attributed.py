"""Item attributes as vectors, for models whose class says `attributed`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from recjax.data.attributes import Attributes, multi_hot
from recjax.errors import InputError
from recjax.ranges import Checked, Size
from recjax.typing import Array

ATTRIBUTES = "attributes/values"  # path of the values [I A], which come from data
_LEAST_GATE = -40.0  # in logarithms
ATTRIBUTE_AXES = (
    (ATTRIBUTES, (None, None)),
    (r"attributes/.*", (None,)),
)


@dataclasses.dataclass(frozen=True)
class AttributedConfig(Checked):
    """Which attributes of the catalogue a model reads."""

    attributes: str = "categories"  # key of the catalogue's records: a label or labels
    attribute_min: Size = 1  # labels of fewer items are left out


def item_attributes(config: AttributedConfig, catalog: Sequence[dict[str, Any] | None]):
    """The attributes that a config names: values [I A].

    Raises:
        InputError: no item has the key, or no label is left.
    """
    try:
        attributes: Attributes = multi_hot(catalog, config.attributes, config.attribute_min)
    except InputError as error:
        raise InputError(f"config.model.attributes: {error}") from None
    if not attributes.names:
        raise InputError(
            f"config.model.attribute_min: {config.attribute_min}: no label of "
            f"'{config.attributes}' has so many items"
        )
    return attributes


class ItemAttributes(nnx.Module):
    """Pools the vectors of an item's attributes by attention (FDSA, section 3.2, vanilla).

    Args:
        n_items: I.
        n_attributes: A.
        dim: D.
        init_std: standard deviation of the initial vectors.
        rngs: initialiser keys.
    """

    def __init__(
        self, n_items: int, n_attributes: int, dim: int, init_std: float, *, rngs: nnx.Rngs
    ):
        init = nnx.initializers.normal(init_std)
        self.values = nnx.Variable(jnp.zeros((n_items, n_attributes), jnp.float32))
        self.embedding = nnx.Param(init(rngs.params(), (n_attributes, dim), jnp.float32))
        self.gate = nnx.Linear(dim, 1, use_bias=False, kernel_init=init, rngs=rngs)

    def __call__(self) -> Array:
        """Vectors [I D]; zeros for an item without attributes."""
        vectors = self.embedding[...]
        logits = self.gate(vectors)[:, 0]
        # Gates this far below the largest are alike: no sum of an item's labels is too small.
        share = jnp.exp(jnp.maximum(logits - logits.max(), _LEAST_GATE))
        total = jnp.einsum("IA,A->I", self.values[...], share)
        pooled = jnp.einsum("IA,A,AD->ID", self.values[...], share, vectors)
        return pooled / jnp.where(total > 0, total, 1.0)[:, None]
