"""SimpleX: a simple and strong baseline of collaborative filtering (Mao et al., CIKM 2021).

A user is `g u + (1 - g) V mean(items)`: an own vector, and the mean of the items that the user has
met (section 3.3, average pooling); items are scored by the cosine. Its loss is "ccl", the cosine
contrastive loss (`recjax.training.losses`).

Deviations: the mean is over the items up to a position, and the next item is its target, where the
paper's mean has all of the user's training items, the target among them; negatives are shared by
the batch.
"""

import dataclasses

from flax import nnx

from recjax.models.personal import Users
from recjax.models.recommender import SequentialRecommender
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.norms import unit
from recjax.nn.table import Table
from recjax.ranges import Checked, Dropout, Positive, Share, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of SimpleX."""

    dim: Size = 64  # D, as the paper
    own_share: Share = 0.5  # g
    max_length: Size = 50  # items that are averaged at the most
    dropout: Dropout = 0.1  # on the user's vector, as the authors' code
    init_std: Positive = 0.02
    scale_embedding: bool = False  # inputs times sqrt(D), as SASRec's authors do


PRESETS = {"paper": Config()}

PARAM_AXES = (
    (r"items/embedding", ("items", "width")),
    (r".*", (None,)),
)


class Recommender(SequentialRecommender):
    """SimpleX under the recommender contract."""

    personal = True

    def __init__(self, config: Config, n_items: int, n_users: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.users = Users(n_users, config.dim, config.init_std, rngs=rngs)
        self.map = nnx.Linear(config.dim, config.dim, use_bias=False, rngs=rngs)

    @classmethod
    def by_cosine(cls, config: Config) -> bool:
        """See `SequentialRecommender`."""
        del config
        return True

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        users: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """User vectors [B L D] of length 1, from the items [B L] up to each place."""
        _, segments = self.layout(ids, positions, segments)
        x = self.input_vectors(ids)
        seen = make_mask(segments > 0, 1, segments).astype(x.dtype)
        mean = seen @ x / seen.sum(axis=-1, keepdims=True)
        share = self.config.own_share
        h = share * self.users(users, ids) + (1 - share) * self.map(mean)
        h = dropout(h, self.config.dropout, deterministic=deterministic, rngs=rngs)
        return unit(h)

    def item_table(self) -> Array:
        """Item vectors of length 1 [I D]."""
        return unit(self.items.embedding[...])
