"""The vectors of a refined recommender: its items' and users' guided part, around any model.

`refined(base)` is a model's class with `RefinedItems` in the place of its table and, where
`RefineConfig.user` asks, `GuidedUsers` beside its states. `recjax.guided.refine` has the run.

Letters: B rows, L places, I items and padding, U users, A columns, G guided width, D model width.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.errors import InputError
from recjax.models.recommender import Learned, SequentialRecommender
from recjax.nn.places import newest
from recjax.nn.table import Embedding
from recjax.ranges import Amount, Checked, Count, FieldError, Positive
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class RefineConfig(Checked):
    """Section `refine`: how the guided part joins a model's vectors."""

    alpha: Positive = 1.0  # weight of the guided part (equation 9); the paper's best is 1
    form: Literal["normalised", "linear"] = "normalised"  # A.5, or equation 8
    dim: Count = 0  # G of the linear form; 0 = the number of columns
    deviation: Amount = 0.0  # of the normalised guided part; 0 = Xavier's, sqrt(2 / (I + D))
    # "none": items alone; "joined": equation 9b; "added": to the state's guided coordinates.
    user: Literal["none", "joined", "added"] = "none"

    def __post_init__(self):
        super().__post_init__()
        if self.dim and self.form != "linear":
            raise FieldError("dim", "expected 0: only the linear form changes the guided width")

    def width(self, columns: int) -> int:
        """G for A columns."""
        return self.dim or columns


class _Form(nnx.Module):
    """The map from standardised columns [... A] to the guided part [... G].

    Args:
        config: weight and form.
        columns: A.
        deviation: of the guided part.
        rngs: initialiser keys (`params`).
    """

    def __init__(self, config: RefineConfig, columns: int, deviation: float, *, rngs: nnx.Rngs):
        self.alpha, self.deviation = config.alpha, deviation
        self.linear = config.form == "linear"
        if self.linear:
            width = config.width(columns)
            init = nnx.initializers.normal(deviation / math.sqrt(columns))
            self.map = nnx.Linear(columns, width, kernel_init=init, rngs=rngs)
            if width == columns:  # starts as the normalised form
                self.map.kernel[...] = deviation * jnp.eye(columns)

    def guide(self, standardised: Array) -> Array:
        """alpha times the guided part."""
        if self.linear:
            return self.alpha * self.map(standardised)
        return self.alpha * self.deviation * standardised


class RefinedItems(_Form):
    """Item vectors [I D]: learned ones [I D - G] beside the guided part [I G].

    It takes the place of a model's table.

    Args:
        table: the model's own; its first columns are where the learned vectors start.
        config, columns, deviation: see `_Form`.
        rows: of the learned vectors; those behind the table's are zeros (so that devices divide
            them).
        guided_rows: of the guided part's columns.
        rngs: initialiser keys (`params`).
    """

    def __init__(
        self,
        table: nnx.Embed,
        config: RefineConfig,
        columns: int,
        deviation: float,
        rows: int,
        guided_rows: int,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, columns, deviation, rngs=rngs)
        width, behind = table.features - config.width(columns), rows - table.num_embeddings
        self.own = Embedding(rows, width, rngs=rngs)
        own = table.embedding[...][:, :width]
        self.own.embedding[...] = jnp.pad(own, ((0, behind), (0, 0)))
        self.guided = nnx.Variable(jnp.zeros((guided_rows, columns), jnp.float32))

    @property
    def embedding(self) -> Array:
        """All vectors [I D]."""
        own, guided = self.own.embedding[...], self.guide(self.guided[...])
        guided = jnp.pad(guided, ((0, len(own) - len(guided)), (0, 0)))
        return jnp.concatenate([own, guided], axis=-1)

    def __call__(self, ids: Array) -> Array:
        """Vectors [... D] of ids [...]."""
        return jnp.concatenate([self.own(ids), self.guide(self.guided[...][ids])], axis=-1)


class GuidedUsers(_Form):
    """The guided part of users, from their own scores [U A] or from their newest items."""

    def __init__(self, config: RefineConfig, columns: int, deviation: float, users: int, *, rngs):
        super().__init__(config, columns, deviation, rngs=rngs)
        if users:
            self.guided = nnx.Variable(jnp.zeros((users, columns), jnp.float32))

    def vectors(self, users: Array | None, count: int) -> Array:
        """Standardised scores [B A] of user numbers [B] from 1 on; the average (0) for 0 and None.

        Args:
            users: [B].
            count: B, where there are no users.
        """
        return rows_of(self.guided[...], users, count)


def rows_of(table: Array, users: Array | None, count: int) -> Array:
    """Rows [B A] of users' scores [U A]; see `GuidedUsers.vectors`."""
    if users is None:
        return jnp.zeros((count, table.shape[1]), table.dtype)
    return jnp.where(users[:, None] > 0, table[jnp.maximum(users - 1, 0)], 0.0)


def users_at(users: Array | None, last: Array | None) -> Array | None:
    """The user of each example [B], of user numbers [R L] at the newest items (`places.newest`)."""
    return None if users is None else newest(users, last)


def recent_means(
    scores: Array, ids: Array, segments: Array, count: int, *, masked: bool = False
) -> Array:
    """The mean scores of the last items up to each place of packed rows: [B L A].

    Args:
        scores: [I A] standardised.
        ids: [B L] items; 0 (padding) and I (a mask) count nothing.
        segments: [B L] number of the sequence in a row, 0 = padding.
        count: places that are looked back at; 0 = to the sequence's first.
        masked: the place itself does not count: it is what is asked for.

    Returns:
        [B L A]; 0 where there is no item.
    """
    n_items, length = scores.shape[0], ids.shape[1]
    real = (segments > 0) & (ids > 0) & (ids < n_items)
    # In float32: a difference of two long sums in 16 bits would be rounding.
    item_scores = scores[jnp.minimum(ids, n_items - 1)].astype(jnp.float32)
    item_scores = jnp.where(real[..., None], item_scores, 0.0)
    scores_and_counts = jnp.concatenate(
        [item_scores, real[..., None].astype(item_scores.dtype)], axis=-1
    )
    sums = jnp.pad(jnp.cumsum(scores_and_counts, axis=1), ((0, 0), (1, 0), (0, 0)))
    place = jnp.arange(length)
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    first = jax.lax.cummax(jnp.where(segments != before, place, 0), axis=1)
    stop = jnp.broadcast_to(place if masked else place + 1, ids.shape)
    start = jnp.maximum(first, stop - count) if count else first

    def upto(at: Array) -> Array:
        return jnp.take_along_axis(sums, at[..., None], axis=1)

    total = upto(stop) - upto(jnp.minimum(start, stop))
    return (total[..., :-1] / jnp.maximum(total[..., -1:], 1.0)).astype(scores.dtype)


class Refined(SequentialRecommender):
    """A model with refined item vectors and a user side; `refined` mixes it into a model's class.

    Args:
        config, n_items, rngs, sizes: of the model.
        refine: how the guided part joins.
        columns: A.
        recent: newest items whose mean is a user's vector; 0 = all, None = own scores.
        users: U, those with own scores.
        rows: of the table of items, those that pad it included.

    Raises:
        InputError: a width of which the guided part leaves nothing.
    """

    def __init__(
        self,
        config: Any,
        n_items: int,
        refine: RefineConfig,
        columns: int,
        recent: int | None,
        users: int,
        rows: int,
        *,
        rngs: nnx.Rngs,
        **sizes: int,
    ):
        model: Any = super()
        model.__init__(config, n_items, rngs=rngs, **sizes)
        width = self.guided_width = refine.width(columns)
        deviation = refine.deviation or math.sqrt(2 / (n_items + config.dim))
        for name, guided_rows in (("items", rows), ("outputs", n_items)):
            table = getattr(self, name, None)
            if table is None:
                continue
            if table.features <= width:
                raise InputError(
                    f"config.model.dim: {table.features}, of which {width} are the guided "
                    "part's; expected more"
                )
            items = RefinedItems(table, refine, columns, deviation, rows, guided_rows, rngs=rngs)
            setattr(self, name, items)
        self.side, self.recent = refine.user, recent
        if self.side != "none":
            self.guided_users = GuidedUsers(refine, columns, deviation, users, rngs=rngs)

    @property
    def _own_scores(self) -> bool:
        """Whether users have scores of their own."""
        return self.side != "none" and self.recent is None

    def join(self, h: Array, vectors: Array) -> Array:
        """States [... D] with the guided part of users' standardised vectors [... A]."""
        guided = self.guided_users.guide(vectors)
        if self.side == "added":
            guided += h[..., -self.guided_width :]
        return jnp.concatenate([h[..., : -self.guided_width], guided], axis=-1)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        **mode: Any,
    ) -> Array:
        """See `SequentialRecommender.encode`; with the mean scores of the users' newest items."""
        h = super().encode(ids, positions=positions, segments=segments, **mode)
        if self.side == "none" or self.recent is None:
            return h
        _, segments = self.layout(ids, positions, segments)
        items: Any = self.items
        means = recent_means(items.guided[...], ids, segments, self.recent, masked=self.masked)
        return self.join(h, means)

    def learn(self, batch: Any, rngs: nnx.Rngs) -> Learned:
        """See `SequentialRecommender.learn`; with the users' own scores."""
        learned = super().learn(batch, rngs)
        if not self._own_scores:
            return learned
        users = batch["owners"][learned.sequences]
        vectors = self.guided_users.vectors(users, len(users))
        return learned._replace(vectors=self.join(learned.vectors, vectors))

    def predict(
        self,
        ids: Array,
        *,
        last: Array | None = None,
        users: Array | None = None,
        **layout: Any,
    ) -> Array:
        """See `SequentialRecommender.predict`; with the users' own scores."""
        personal: dict[str, Any] = {"users": users} if self.personal else {}
        h = super().predict(ids, last=last, **layout, **personal)
        if not self._own_scores:
            return h
        return self.join(h, self.guided_users.vectors(users_at(users, last), len(h)))


@functools.cache
def refined(base: type[SequentialRecommender]) -> Any:
    """A model's class with refined item vectors and a user side.

    Args:
        base: the `Recommender` of a module of `recjax.models`.
    """
    make: Any = type(base)  # NNX's metaclass
    return make(f"Refined_{base.__module__.rpartition('.')[2]}", (Refined, base), {})
