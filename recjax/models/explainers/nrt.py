"""NRT: neural rating and tips generation (Li et al., SIGIR 2017).

A network of sigmoid layers predicts the rating from the vectors of user and item (section 3.2);
`tanh(W [p_u, q_i, r])`, with the predicted rating as a one-hot vector r, starts a GRU that writes
the text (3.4).

Deviations: the words of whole reviews are no third task (3.3), as in the comparisons of PETER and
P5; the network adds to the mean rating; BPE in place of words; Adam in place of Adadelta.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.explainers import RATES, Explainer, Inputs, Outputs, Sizes, stars
from recjax.nn.dropout import dropout
from recjax.nn.recurrent import GRU, unrolled
from recjax.nn.table import Embedding
from recjax.ranges import Checked, Dropout, Few, Positive, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of NRT."""

    factors: Size = 300  # of p_u and q_i (section 4.4)
    dim: Size = 400  # D, of states (4.4)
    word_dim: Size = 300  # (4.4)
    rating_layers: Few = 4  # of the network (4.4)
    dropout: Dropout = 0.2  # on words and before the head; the paper has an L2 norm alone
    init_std: Positive = 0.05  # of words and the head; the paper draws evenly up to 0.1
    # Of users and items: at the paper's scale a small data set is learned by heart at once.
    factors_std: Positive = 0.05


PRESETS: dict[str, Config] = {}
PARAM_AXES = (
    (r"(words/embedding|head)", ("vocab", "embed")),
    (r".*", (None,)),
)


class Model(Explainer):
    """NRT under the contract."""

    rates = True

    def __init__(self, config: Config, sizes: Sizes, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        xavier = nnx.initializers.xavier_uniform()
        factors = nnx.initializers.normal(config.factors_std)
        self.users = Embedding(sizes.users, config.factors, embedding_init=factors, rngs=rngs)
        self.items = Embedding(sizes.items, config.factors, embedding_init=factors, rngs=rngs)
        self.words = Embedding(sizes.vocab, config.word_dim, embedding_init=init, rngs=rngs)
        self.mean = nnx.Param(jnp.zeros((), jnp.float32))
        widths = (2 * config.factors, *[config.dim] * config.rating_layers)
        self.network = nnx.List(
            [nnx.Linear(a, b, kernel_init=xavier, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.rating = nnx.Linear(config.dim, 1, kernel_init=init, rngs=rngs)
        self.start = nnx.Linear(
            2 * config.factors + RATES, config.dim, kernel_init=xavier, rngs=rngs
        )
        self.layer = GRU(config.word_dim, config.dim, kernel_init=xavier, rngs=rngs)
        self.head = nnx.Param(init(rngs.params(), (sizes.vocab, config.dim), jnp.float32))

    def _start(self, inputs: Inputs) -> tuple[Array, Array]:
        """The rating [B], and the state [B D] before the first word."""
        both = jnp.concatenate([self.users(inputs.users), self.items(inputs.items)], axis=-1)
        x = both
        for layer in self.network:
            x = jax.nn.sigmoid(layer(x))
        rating = self.mean[...].astype(jnp.float32) + self.rating(x)[:, 0]
        rounded = stars(jax.lax.stop_gradient(rating)).astype(both.dtype)
        attributes = jnp.concatenate([both, rounded], axis=-1)
        return rating, jnp.tanh(self.start(attributes))

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
        rating, start = self._start(inputs)
        x = dropout(self.words(tokens), self.config.dropout, **drop)
        states = unrolled(self.layer, x, start)
        return Outputs(dropout(states, self.config.dropout, **drop), rating)

    def begin(self, inputs: Inputs, slots: int) -> tuple[Array, Any]:
        """See the contract."""
        del slots
        return self._start(inputs)

    def step(self, tokens: Array, cache: Any) -> tuple[Array, Any]:
        """See the contract."""
        state = self.layer.step(self.words(tokens), cache)
        return self.layer.output(state), state
