"""Attn2Seq: reviews from attributes by attention (Dong et al., EACL 2017).

The attributes are user, item and rating: `tanh(H [g_u, g_i, g_r])` starts each layer of an LSTM
(section 3.1, 3.2), and every word reads the attributes by attention on top (3.3):
`a_k ~ exp(tanh(W [h, g_k]))`, `tanh(W_1 sum a_k g_k + W_2 h)` goes to the head.

Deviations: the map above also makes the cells that the layers start with; bytes' pairs (BPE) in
place of words; Adam in place of RMSProp.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.explainers import RATES, Explainer, Inputs, Outputs, Sizes, stars
from recjax.nn.dropout import dropout
from recjax.nn.recurrent import LSTM, unrolled
from recjax.nn.table import Embedding
from recjax.ranges import Checked, Dropout, Few, Positive, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of Attn2Seq."""

    attribute_dim: Size = 64  # of g_u, g_i, g_r (section 4.2)
    dim: Size = 512  # D, of words and states (4.2)
    layers: Few = 2  # (4.2)
    dropout: Dropout = 0.2  # between layers and before the head (4.2)
    init_std: Positive = 0.05  # about the paper's range from -0.08 to 0.08


PRESETS: dict[str, Config] = {}
PARAM_AXES = (
    (r"(words/embedding|head)", ("vocab", "embed")),
    (r".*", (None,)),
)


class Model(Explainer):
    """Attn2Seq under the contract."""

    def __init__(self, config: Config, sizes: Sizes, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        width, dim = config.attribute_dim, config.dim
        self.users = Embedding(sizes.users, width, embedding_init=init, rngs=rngs)
        self.items = Embedding(sizes.items, width, embedding_init=init, rngs=rngs)
        self.rates_of = Embedding(RATES, width, embedding_init=init, rngs=rngs)
        self.words = Embedding(sizes.vocab, dim, embedding_init=init, rngs=rngs)
        self.start = nnx.Linear(3 * width, 2 * dim * config.layers, kernel_init=init, rngs=rngs)
        self.layers = nnx.List(
            [LSTM(dim, dim, kernel_init=init, rngs=rngs) for _ in range(config.layers)]
        )
        self.weigh = nnx.Linear(dim + width, 1, kernel_init=init, rngs=rngs)
        self.read = nnx.Linear(width, dim, kernel_init=init, rngs=rngs)
        self.own = nnx.Linear(dim, dim, kernel_init=init, rngs=rngs)
        self.head = nnx.Param(init(rngs.params(), (sizes.vocab, dim), jnp.float32))

    def _attributes(self, inputs: Inputs) -> Array:
        """[B 3 G]."""
        rated = stars(inputs.ratings).argmax(axis=-1)
        attributes = self.users(inputs.users), self.items(inputs.items), self.rates_of(rated)
        return jnp.stack(attributes, axis=1)

    def _starts(self, attributes: Array) -> list[Array]:
        """[B 2D] a layer."""
        states = jnp.tanh(self.start(attributes.reshape(len(attributes), -1)))
        return jnp.split(states, self.config.layers, axis=-1)

    def _attend(self, h: Array, attributes: Array) -> Array:
        """States [B T D] after they have read the attributes [B 3 G]."""
        shape = (*h.shape[:2], attributes.shape[1])
        both = jnp.concatenate(
            [
                jnp.broadcast_to(h[:, :, None], (*shape, h.shape[-1])),
                jnp.broadcast_to(attributes[:, None], (*shape, attributes.shape[-1])),
            ],
            axis=-1,
        )
        weights = jax.nn.softmax(jnp.tanh(self.weigh(both)[..., 0]), axis=-1)
        return jnp.tanh(self.read(jnp.einsum("BTK,BKG->BTG", weights, attributes)) + self.own(h))

    def learn(
        self,
        inputs: Inputs,
        tokens: Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """See the contract; it predicts no rating, it is told."""
        drop: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        attributes, x = self._attributes(inputs), self.words(tokens)
        for layer, start in zip(self.layers, self._starts(attributes), strict=True):
            x = dropout(unrolled(layer, x, start), self.config.dropout, **drop)
        return Outputs(dropout(self._attend(x, attributes), self.config.dropout, **drop))

    def begin(self, inputs: Inputs, slots: int) -> tuple[None, Any]:
        """See the contract."""
        del slots
        attributes = self._attributes(inputs)
        return None, (attributes, self._starts(attributes))

    def step(self, tokens: Array, cache: Any) -> tuple[Array, Any]:
        """See the contract."""
        (attributes, before), x, states = cache, self.words(tokens), []
        for layer, state in zip(self.layers, before, strict=True):
            states.append(layer.step(x, state))
            x = layer.output(states[-1])
        return self._attend(x[:, None], attributes)[:, 0], (attributes, states)
