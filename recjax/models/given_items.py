"""Tables of items that also hold given numbers: they stand in the place of a model's `items`."""

import jax.numpy as jnp
from flax import nnx

from recjax.typing import Array


class FeaturedItems(nnx.Module):
    """Item vectors that also read given features: a table's [I D], plus a linear map of [I A].

    It takes the place of a model's table `items`. The features (attributes, scores, vectors of
    texts) are a variable of zeros here, and get their values from data.

    Args:
        own: the model's table.
        width: A.
        rngs: initialiser keys (`params`).
    """

    def __init__(self, own: nnx.Embed, width: int, *, rngs: nnx.Rngs):
        self.own = own
        self.features = nnx.Variable(jnp.zeros((own.num_embeddings, width), jnp.float32))
        self.map = nnx.Linear(width, own.features, use_bias=False, rngs=rngs)

    @property
    def embedding(self) -> Array:
        """All vectors [I D]."""
        return self.own.embedding[...] + self.map(self.features[...])

    def __call__(self, ids: Array) -> Array:
        """Vectors [... D] of ids [...]."""
        return self.own(ids) + self.map(self.features[...][ids])


class JoinedItems(nnx.Module):
    """Item vectors whose first numbers are given: [I A] of them times one trained number, then the
    table's own [I D - A].

    Args:
        own: the model's table [I D]; its first A numbers are left out.
        width: A.
    """

    def __init__(self, own: nnx.Embed, width: int):
        self.known = nnx.Variable(jnp.zeros((own.num_embeddings, width), jnp.float32))
        self.gain = nnx.Param(
            jnp.asarray(width**-0.5, jnp.float32)
        )  # vectors of deviation 1 have length 1
        own.embedding = nnx.Param(own.embedding[...][:, width:])
        own.features -= width
        self.own = own

    @property
    def embedding(self) -> Array:
        """All vectors [I D]."""
        given = self.known[...] * self.gain[...]
        return jnp.concatenate([given, self.own.embedding[...]], axis=-1)

    def __call__(self, ids: Array) -> Array:
        """Vectors [... D] of ids [...]."""
        return jnp.concatenate([self.known[...][ids] * self.gain[...], self.own(ids)], axis=-1)


FEATURES, KNOWN = "items/features", "items/known"  # their paths
OWN = "items/own/embedding"
FEATURE_AXES = (
    (OWN, ("items", "width")),
    (FEATURES, ("items", None)),
    (KNOWN, ("items", None)),
    (r"items/gain", ()),
    (r"items/map/kernel", (None, "width")),
)
