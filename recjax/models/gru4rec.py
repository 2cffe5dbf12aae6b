"""GRU4Rec: session-based recommendation with recurrent networks (Hidasi et al., ICLR 2016).

Item embeddings, GRU layers, items scored by inner product. Its losses are in
`recjax.training.losses`: BPR and TOP1, and those of GRU4Rec+ (Hidasi and Karatzoglou, CIKM
2018), cross-entropy, BPR-max and TOP1-max with additional negatives by popularity.

Deviations: sequences of users, packed into rows, in place of session-parallel mini-batches (a state
is reset where a sequence starts, as theirs is where a session ends, and gradients flow over the
whole sequence instead of one step). The GRU is the form with the reset gate after the recurrent
product; its kernels start by Glorot's rule for [D 3D], where theirs do gate by gate. Scores go into
the losses as they are, without a bias of the item, where the authors' code has one, and mostly ELU
of the scores for BPR-max. `hidden_dropout` is on what a layer gives, theirs on the state that it
carries on, too. With `tied` the output vectors are the input embeddings ("constrained embeddings"
of the 2018 paper). `scale_embedding` is not the papers'.
"""

import dataclasses
from typing import Any

from flax import nnx

from recjax.models.recommender import SequentialRecommender
from recjax.nn.dropout import dropout
from recjax.nn.recurrent import GRU
from recjax.nn.table import Table
from recjax.ranges import Checked, Dropout, Few, Positive, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of GRU4Rec."""

    dim: Size = 64  # D of items and states; the 2018 paper uses 100
    layers: Few = 1  # more gave no gain (2016, section 4.1)
    max_length: Size = 50  # L; the benchmark's window
    embedding_dropout: Dropout = 0.5  # on the input embeddings (2018, section 5)
    hidden_dropout: Dropout = 0.0  # on the states of every layer
    tied: bool = True  # output vectors = input embeddings (2018, constrained embeddings)
    init_std: Positive = 0.02  # of the item embeddings
    scale_embedding: bool = False  # inputs times sqrt(D), as SASRec's authors do


PRESETS = {
    "paper-2018": Config(dim=100, embedding_dropout=0.0),
}

PARAM_AXES = (
    (r"(items|outputs)/embedding", ("items", "width")),
    (r".*(input|recurrent)/kernel", ("width", "mlp")),
    (r".*", (None,)),
)


class Recommender(SequentialRecommender):
    """GRU4Rec under the recommender contract."""

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        kernel_init = nnx.initializers.xavier_uniform()
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.layers = nnx.List(
            [
                GRU(config.dim, config.dim, kernel_init=kernel_init, rngs=rngs)
                for _ in range(config.layers)
            ]
        )
        if not config.tied:
            self.outputs = Table(n_items, config.dim, embedding_init=init, rngs=rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Hidden states [B L D] of item ids [B L]; h_t has seen items up to t only."""
        _, segments = self.layout(ids, positions, segments)
        drop: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        x = dropout(self.input_vectors(ids), self.config.embedding_dropout, **drop)
        for layer in self.layers:
            x = dropout(layer(x, segments), self.config.hidden_dropout, **drop)
        return x

    def item_table(self) -> Array:
        """Item vectors [I D]."""
        table = self.items if self.config.tied else self.outputs
        return table.embedding[...]
