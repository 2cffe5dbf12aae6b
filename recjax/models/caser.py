"""Caser: convolutional sequence embedding (Tang and Wang, WSDM 2018).

The last `window` item vectors are an image [window D]. Horizontal filters of every height 1 ..
`window` slide down it and keep their maximum (section 3.2.1); vertical ones are weighted sums of
its rows (3.2.2). A fully connected layer makes the state of both (equation 9), and items have
output vectors of their own (equation 10). With `projection` False the state is the two
convolutions' output itself, [D n_v + n_h window] wide: the hidden state that RecInterpreter reads
(section 4.1.2).

The filters of all windows of a sequence are shared work: a row is convolved once, and every
position has its state.

Deviations: no user vector, so that any history can be encoded, also a new user's (the paper joins
one to z in equation 10); no output bias; vertical filters have none, either. A shorter history
stands in its window as if zeros came before it, as the paper pads; the first positions of a longer
one train so, too, where the authors' code begins with its first whole window. `scale_embedding` and
`recency` are not the paper's: with them a state holds its newest item in plain sight, and with
several vertical filters its whole window, too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.recommender import Learned, SequentialRecommender
from recjax.nn.conv import sliding_max, windows
from recjax.nn.dropout import dropout
from recjax.nn.masks import shift
from recjax.nn.places import at_places
from recjax.nn.table import Table
from recjax.ranges import Checked, Dropout, Few, FieldError, Positive, Share, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of Caser."""

    dim: Size = 64  # D of the item vectors; the paper uses 50
    window: Few = 5  # L of the paper, items that a state has seen (section 4.1.4)
    targets: Few = 3  # T of the paper, the next items that a state is trained on (section 3.4)
    horizontal: Size = 16  # n_h, filters of each height (section 4.1.4)
    vertical: Size = 4  # n_v
    max_length: Size = 50  # items of a history that are read; states see the window alone
    dropout: Dropout = 0.5  # on the convolutions' output (section 3.4)
    projection: bool = True  # the fully connected layer of equation 9
    tied: bool = False  # output vectors = item embeddings; needs the projection
    init_std: Positive = 0.02  # of the embeddings
    scale_embedding: bool = False  # rows of the image times sqrt(D), as SASRec's authors do
    # The first vertical filter starts as weights recency^k of the k-th newest row, the last of
    # several as equal weights; 0: at random.
    recency: Share = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.tied and not self.projection:
            raise FieldError("tied", "needs projection=True: a state of width dim")
        if self.window > self.max_length:
            raise FieldError("window", f"{self.window}; expected 1 to max_length {self.max_length}")

    @property
    def features(self) -> int:
        """Width of the convolutions' output."""
        return self.dim * self.vertical + self.horizontal * self.window


PRESETS = {
    "paper": Config(dim=50),
    # Hidden state [D + n_f s_f]: one vertical filter, no projection; windows of ten items.
    "recinterpreter": Config(window=10, targets=1, vertical=1, projection=False, max_length=10),
}

PARAM_AXES = (
    (r"(items|outputs)/embedding", ("items", "width")),
    (r".*", (None,)),
)


def _leaning(recency: float) -> nnx.Initializer:
    """Vertical filters of length 1 whose rows [window] fade from the newest, the last, on.

    The first fades as `recency` says, the last of several not at all, others between them.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        del key
        ages = jnp.arange(shape[0], dtype=dtype)[::-1]
        weights = recency ** (ages[:, None] * jnp.linspace(1, 0, shape[1], dtype=dtype))
        return weights / jnp.linalg.norm(weights, axis=0)

    return init


class Recommender(SequentialRecommender):
    """Caser under the recommender contract."""

    one_target = False
    one_state = True  # its convolutions have no positions (RecInterpreter, section 4.1.2)

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        size, width, filters = config.window, config.dim, config.horizontal
        embedding = nnx.initializers.normal(config.init_std)
        kernel = nnx.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        self.items = Table(n_items, width, embedding_init=embedding, rngs=rngs)
        self.horizontal = nnx.List(
            [
                nnx.Param(kernel(rngs.params(), (height, width, filters), jnp.float32))
                for height in range(1, size + 1)
            ]
        )
        self.horizontal_bias = nnx.Param(jnp.zeros((size, filters), jnp.float32))
        vertical = _leaning(config.recency) if config.recency else nnx.initializers.lecun_normal()
        self.vertical = nnx.Param(vertical(rngs.params(), (size, config.vertical), jnp.float32))
        if config.projection:
            self.project = nnx.Linear(config.features, width, rngs=rngs)
        if not config.tied:
            out = width if config.projection else config.features
            self.outputs = Table(n_items, out, embedding_init=embedding, rngs=rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """States [B L D'] of item ids [B L]; h_t has seen the `window` items up to t.

        D' is `dim`, or without projection `dim * vertical + horizontal * window`.
        """
        _, segments = self.layout(ids, positions, segments)
        size = self.config.window
        image = windows(self.input_vectors(ids), segments, size)  # [B L window D]
        down = jnp.einsum("BLwD,wv->BLvD", image, self.vertical[...])
        features = [down.reshape(*ids.shape, -1), *self._across(image, segments)]
        drop = {"rate": self.config.dropout, "deterministic": deterministic, "rngs": rngs}
        h = dropout(jnp.concatenate(features, axis=-1), **drop)
        return jax.nn.relu(self.project(h)) if self.config.projection else h

    def _across(self, image: Array, segments: Array) -> list[Array]:
        """Maximum [B L n_h] of the horizontal filters of each height."""
        size = self.config.window
        # One product for all heights: lower filters see zeros above.
        kernels = [
            jnp.pad(kernel[...], ((size - height, 0), (0, 0), (0, 0)))
            for height, kernel in enumerate(self.horizontal, start=1)
        ]
        bias = self.horizontal_bias[...]
        ends = jnp.einsum("BLwD,wDhF->BLhF", image, jnp.stack(kernels, axis=2))
        ends, start = jax.nn.relu(ends + bias[None, None]), jax.nn.relu(bias)
        return [
            sliding_max(ends[:, :, k], segments, size - k, start[k])  # height k + 1
            for k in range(size)
        ]

    def predict(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        last: Array | None = None,
        users: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """States [B D'] of the newest items alone; see `SequentialRecommender.predict`."""
        size = self.config.window
        if last is None:
            ids, segments = ids[:, -size:], None if segments is None else segments[:, -size:]
        else:
            _, segments = self.layout(ids, positions, segments)
            length, before = ids.shape[1], jnp.arange(size - 1, -1, -1)

            def window(last: Array, ids: Array, segments: Array) -> tuple[Array, Array]:
                places = last[:, None] - before
                inside = last[:, None] % length >= before  # of the row
                same = inside & (segments[places] == segments[last][:, None])
                return jnp.where(same, ids[places], 0), same.astype(jnp.int32)

            ids, segments = at_places(window, last, ids, segments)
        return super().predict(ids, segments=segments, rngs=rngs)

    def item_table(self) -> Array:
        """Output vectors [I D']."""
        table = self.items if self.config.tied else self.outputs
        return table.embedding[...]

    def learn(self, batch: dict[str, Array], rngs: nnx.Rngs) -> Learned:
        """The next `targets` items are targets of every state (equation 11)."""
        h, targets, sequences, *_ = super().learn(batch, rngs)
        segments = batch["segments"]
        every = [targets]
        for ahead in range(1, self.config.targets):
            same = shift(segments, -ahead) == segments
            every.append(jnp.where(same, shift(batch["targets"], -ahead), 0).reshape(-1))
        count = self.config.targets
        return Learned(jnp.tile(h, (count, 1)), jnp.concatenate(every), jnp.tile(sequences, count))
