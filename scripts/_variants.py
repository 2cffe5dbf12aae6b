"""Variants of a recommender with a guided part, of which every one is arrays of one program.

The variants of a study differ in arrays alone: which columns of the item vectors are learned and
which are given, what is given, and how a user's vector is made of it. Each is the model that
`recjax.guided.refine` or `recjax.guided.fusion` makes of its config (tests compare them).

Letters: I items and padding, U users, A columns, D model width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.guided.fusion import last_means
from recjax.guided.sources import GuidedConfig
from recjax.guided.vectors import RefineConfig, recent_means, rows_of, users_at
from recjax.models.recommender import read_config
from recjax.training.recommender import RecommenderRun

_FROZEN = r"items/(columns|learned|alpha|linear)|side/(users|gain|on|kept)"
_RULES = ((_FROZEN, "frozen"), (r".*", "trained"))


def _held(free, value):
    """`value`, with a gradient where `free` is 1."""
    return free * value + (1 - free) * jax.lax.stop_gradient(value)


class _Items(nnx.Module):
    """Item vectors: the learned columns of a table, and alpha times mapped columns elsewhere."""

    def __init__(self, table, columns):
        rows, width = table.num_embeddings, table.features
        self.own = table
        self.map = nnx.Param(jnp.zeros((columns, width)))
        self.bias = nnx.Param(jnp.zeros(width))
        self.columns = nnx.Variable(jnp.zeros((rows, columns)))
        self.learned = nnx.Variable(jnp.ones(width))  # 1 = a learned column
        self.alpha, self.linear = (nnx.Variable(jnp.zeros(1)) for _ in range(2))

    def mapped(self, columns, weights, bias):
        """[... D] of columns [... A]; 0 in learned columns."""
        free = self.linear[...]
        found = columns @ _held(free, weights) + _held(free, bias) * free
        return self.alpha[...] * found * (1 - self.learned[...])

    def _joined(self, own, columns):
        guided = self.mapped(columns, self.map[...], self.bias[...])
        return own * self.learned[...] + guided

    @property
    def embedding(self):
        return self._joined(self.own.embedding[...], self.columns[...])

    def __call__(self, ids):
        return self._joined(self.own(ids), self.columns[...][ids])


class _Side(nnx.Module):
    """The term of the state: mapped columns of the last items, or of the user's own."""

    def __init__(self, users, columns, width):
        self.map = nnx.Param(jnp.zeros((columns, width)))
        self.bias = nnx.Param(jnp.zeros(width))
        self.users = nnx.Variable(jnp.zeros((users, columns)))
        self.gain, self.on = (nnx.Variable(jnp.zeros(1)) for _ in range(2))
        self.kept = nnx.Variable(jnp.ones(width))  # of the encoder's state


@functools.cache
def mixed(base):
    """A model's class whose guided part is all in arrays."""

    class Mixed(base):
        def __init__(self, config, n_items, users, columns, count, *, rngs):
            super().__init__(config, n_items, rngs=rngs)
            self.items = _Items(self.items, columns)
            self.side, self.count = _Side(users, columns, config.dim), count

        def mapped(self, columns):
            side = self.side
            return side.on[...] * self.items.mapped(columns, side.map[...], side.bias[...])

        def encode(self, ids, *, positions=None, segments=None, **mode):
            h = super().encode(ids, positions=positions, segments=segments, **mode)
            _, segments = self.layout(ids, positions, segments)
            columns = self.items.columns[...]
            means = recent_means(columns, ids, segments, self.count, masked=self.masked)
            return h * self.side.kept[...] + self.mapped(self.side.gain[...] * means)

        def learn(self, batch, rngs):
            learned = super().learn(batch, rngs)
            own = rows_of(self.side.users[...], batch["owners"][learned.sequences], 0)
            return learned._replace(vectors=learned.vectors + self._of_users(own))

        def predict(self, ids, *, last=None, users=None, **layout):
            h = super().predict(ids, last=last, **layout)
            own = rows_of(self.side.users[...], users_at(users, last), len(h))
            return h + self._of_users(own)

        def _of_users(self, columns):
            side = self.side
            free = self.items.linear[...]
            # The bias is added with the history's part.
            found = columns @ _held(free, side.map[...]) * (1 - self.items.learned[...])
            return side.on[...] * self.items.alpha[...] * found

    return Mixed


class MixedRun(RecommenderRun):
    """A recommender of which every variant is an array; see `Study`.

    Args:
        config: of the base, with the study's width.
        store: the data.
        users: U with scores of their own; 0 = no variant has them.
        columns: A.
        count: items that a user's vector is the mean of.
    """

    def __init__(self, config, store, users, columns, count):
        self._sizes = (max(users, 1), columns, count)
        width = config.model["dim"]
        arrays = {
            "items/columns": np.zeros((store.n_items, columns), np.float32),
            "items/learned": np.ones(width, np.float32),
            "side/users": np.zeros((max(users, 1), columns), np.float32),
            "side/kept": np.ones(width, np.float32),
        } | {name: np.zeros(1, np.float32) for name in _NUMBERS}
        super().__init__(config, store, arrays=arrays, rules=_RULES)
        self.personal = users > 0

    def build(self, rngs):
        module, model = read_config(self.config.model)
        return mixed(module.Recommender)(model, self.store.n_items, *self._sizes, rngs=rngs)

    @functools.cached_property
    def data(self):
        owners = self.split.train.users.astype(np.int32) + 1 if self.personal else None
        none = np.zeros(len(self.split.train), np.int32)
        return jax.device_put({**self.objective.data, "owners": none if owners is None else owners})

    def loss_fn(self, params, batch, data, key):
        return super().loss_fn(params, {**batch, "owners": data["owners"]}, data, key)

    def encode(self, params, batch):
        own = {key: value for key, value in batch.items() if key != "users" or self.personal}
        h, table = super().encode(params, own)
        late, (_, _, count) = params["late/items"], self._sizes
        means = last_means(late, batch, count, masked=self.masked)
        users = users_at(own.get("users"), batch["last"])
        vectors = params["late/gain"] * means + rows_of(params["late/users"], users, len(h))
        joined = jnp.concatenate([h, params["late/weight"] * vectors], axis=-1)
        return joined, jnp.concatenate([table, late], axis=-1)


_NUMBERS = ("items/alpha", "items/linear", "side/gain", "side/on")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the study's table: what a run's config says of the guided part.

    Attributes:
        name: of the row.
        guided, refine: the sections; without `guided` the row is a base.
        late: the guided part is added to the scores of a trained base.
        dim: learned numbers an item of a base; 0 = all.
    """

    name: str
    guided: GuidedConfig | None = None
    refine: RefineConfig = dataclasses.field(default_factory=RefineConfig)
    late: bool = False
    dim: int = 0


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row with a seed."""

    row: Row
    seed: int

    @property
    def name(self):
        return f"{self.row.name}/{self.seed}"
