"""The recommender contract: what every sequential recommender of recjax answers to.

Models are NNX modules with
- `encode(ids [B L], *, positions, segments, deterministic, rngs) -> h [B L D]`,
- `item_table() -> [I D]`, the item vectors,
- `predict(ids [B L], ...) -> [B D]`, what is scored for the item after each row,
- `score(predicted [B D], item_ids=None) -> [B I]` or `[B C]`,
- `learn(batch, rngs) -> Learned`, what training compares,
- a module-level `PARAM_AXES`: an ordered list of (regex over the parameter path, logical axes).

Most models need `encode` and `item_table` alone: the others have defaults. BERT4Rec learns and
predicts at masked positions, DreamRec by denoising, Caser has several targets a position.

`positions` and `segments` default to those of left-padded rows; packed rows pass their own (see
`recjax.data.sequences`).
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx

from recjax.models.given_items import FeaturedItems, JoinedItems
from recjax.models.named import named_module, read_section
from recjax.nn.places import newest
from recjax.typing import Array, check_shapes

# Config name -> module of `recjax.models`, with `Config`, `PRESETS`, `PARAM_AXES`, `Recommender`.
NAMES = (
    "gru4rec",
    "caser",
    "sasrec",
    "bert4rec",
    "dreamrec",
    "hgn",
    "fdsa",
    "s3rec",
    "bpr",
    "simplex",
    "ligr",
    "filtered",
    "wearec",
    "hstu",
)


class Learned(NamedTuple):
    """A model's output for an objective: T vectors and the items they should find.

    Attributes:
        vectors: [T D].
        targets: [T] item ids, 0 = none.
        sequences: [T] number of the training sequence each comes from.
        states: [T D] of a generative model, the states that guided it.
        seen: `(ids [T L], bias [])`: what the scores of the histories' items get, each id once; 0 =
            none. Of models with `repeats`.
    """

    vectors: Array
    targets: Array
    sequences: Array
    states: Array | None = None
    seen: tuple[Array, Array] | None = None


class SequentialRecommender(nnx.Module):
    """The models' common part: defaults of the packed layout, and scoring by inner product.

    Args:
        config: the model's own.
        n_items: I.
        n_users: U, of a `personal` model.
        n_attributes: A, of an `attributed` model.
        rngs: initialiser keys.
    """

    config: Any  # the model's own frozen Config; all have `dim` and `max_length`
    items: nnx.Embed | FeaturedItems | JoinedItems  # [I D]
    # A model that sees both sides learns at masked items, and predicts at a mask (id I) that
    # follows the history; its batches are made for that.
    masked: ClassVar[bool] = False
    # It makes the vector that is scored (`Learned.states`): it has `oracle` and `encode_ending`.
    generative: ClassVar[bool] = False
    # It has vectors of users: it is made with `n_users`, and `encode` and `predict` take `users`
    # [B L], numbers from 1 on at every place; 0 or None = somebody else.
    personal: ClassVar[bool] = False
    # It reads attributes of the items: it is made with `n_attributes`, and its `attributes/values`
    # [I A] come from data (`recjax.models.attributed`).
    attributed: ClassVar[bool] = False
    reads_history: ClassVar[bool] = True  # off = its state is the user's alone
    one_target: ClassVar[bool] = True  # `learn` has one target for each place at most
    one_state: ClassVar[bool] = False  # the newest state is all that stands for a history

    @property
    def timed(self) -> bool:
        """Whether it reads when the items were met: `encode`, `predict` and `scores` take `times`
        [B L], the seconds since any start that a row's items share; None = nobody knows."""
        return False

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Hidden states [B L D] of item ids [B L].

        Args:
            ids: 0 = padding, newest item last.
            positions: [B L] positions in the window; by default those of left-padded rows.
            segments: [B L] number of the sequence in a packed row, 0 = padding.
            deterministic: no dropout.
            rngs: its `dropout` stream, needed in training.
        """
        raise NotImplementedError

    @classmethod
    def reads_attributes(cls, config: Any) -> bool:
        """Whether a model of this config has `attributes/values`."""
        del config
        return cls.attributed

    @classmethod
    def by_cosine(cls, config: Any) -> bool:
        """Whether states and item vectors have length 1, so that scores are cosines."""
        del config
        return False

    @classmethod
    def shifted(cls, config: Any) -> bool:
        """Whether training's targets are the next items: the newest one is then no input."""
        del config
        return not cls.masked and cls.reads_history

    def input_vectors(self, ids: Array) -> Array:
        """Item vectors [B L D] as a model reads them.

        For models with a table `items`; times sqrt(D) where the config says `scale_embedding`, as
        in the code of SASRec's authors (Kang and McAuley 2018).
        """
        x = self.items(ids)
        return x * jnp.sqrt(self.config.dim).astype(x.dtype) if self.config.scale_embedding else x

    def item_table(self) -> Array:
        """The item vectors [I D]; row 0 (padding) takes part in no ranking."""
        raise NotImplementedError

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
        """Vectors [B D] to score the next item with.

        Args:
            ids: [B L] histories, newest item last.
            positions, segments: see `encode`.
            last: where rows are packed, places of the newest items in the flattened ids: [B], or
                [S b] of S equal parts of the rows (see `recjax.nn.places`).
            users: [B L], of a `personal` model.
            rngs: randomness of a generative model.
        """
        del rngs
        own: dict[str, Any] = {"users": users} if self.personal else {}
        h = self.encode(ids, positions=positions, segments=segments, **own)
        return newest(h, last)

    @property
    def repeats(self) -> bool:
        """Whether items of the history have scores of their own: see `scores`."""
        return False

    def scores(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        last: Array | None = None,
        users: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Scores [B I] of all items for the item after each history: see `predict`."""
        layout: dict[str, Any] = {"positions": positions, "segments": segments, "last": last}
        return self.score(self.predict(ids, users=users, rngs=rngs, **layout))

    def oracle(self, ids: Array, key: Array) -> Array:
        """The vector [B D] that a generative model makes for each history [B L]."""
        raise NotImplementedError

    def encode_ending(self, ids: Array, newest: Array) -> Array:
        """Hidden states [B L D] of histories whose newest item has a vector of its own.

        Args:
            ids: [B L]; the newest id only says that there is an item.
            newest: [B D] of `oracle`.
        """
        raise NotImplementedError

    def score(self, predicted: Array, item_ids: Array | None = None) -> Array:
        """Inner products with items, higher is better.

        Args:
            predicted: [B D] of `predict`.
            item_ids: [B C] or [C] candidates; None means the whole catalogue.

        Returns:
            [B I] or [B C].
        """
        table = self.item_table()
        if item_ids is None:
            return jnp.einsum("BD,ID->BI", predicted, table)
        if item_ids.ndim == 1:
            return jnp.einsum("BD,CD->BC", predicted, table[item_ids])
        return jnp.einsum("BD,BCD->BC", predicted, table[item_ids])

    def learn(self, batch: dict[str, Array], rngs: nnx.Rngs) -> Learned:
        """Vectors that an objective compares; by default each position's state and the next item.

        Args:
            batch: `ids`, `targets`, `positions`, `segments`, `sequences`, all [B L], of
                `recjax.data.pipeline.TrainBatches`; `users` for a `personal` model, `times` for a
                `timed` one.
            rngs: its `dropout` stream, and `noise` for models that draw more.
        """
        own: dict[str, Any] = {"users": batch["users"]} if self.personal else {}
        own |= {"times": batch.get("times")} if self.timed else {}
        h = self.encode(
            batch["ids"],
            positions=batch["positions"],
            segments=batch["segments"],
            deterministic=False,
            rngs=rngs,
            **own,
        )
        targets, sequences = batch["targets"].reshape(-1), batch["sequences"].reshape(-1)
        return Learned(h.reshape(-1, h.shape[-1]), targets, sequences)

    def loss(self, batch: dict[str, Array], rngs: nnx.Rngs) -> tuple[Array, Array] | None:
        """A loss of the model's own, (sum, weight), in place of the objective; None = it has none.

        Args:
            batch, rngs: see `learn`.
        """
        del batch, rngs
        return None

    def layout(
        self, ids: Array, positions: Array | None, segments: Array | None
    ) -> tuple[Array, Array]:
        """`(positions, segments)`, by default those of left-padded rows.

        Rows shorter than the window are as if padded on the left: the newest item always has
        position `max_length - 1`.

        Raises:
            ValueError: other shapes; rows without a place, or longer than the model's window.
        """
        check_shapes("BL, BL, BL", ids=ids, positions=positions, segments=segments)
        longest, length = self.config.max_length, ids.shape[-1]
        if not 1 <= length <= longest:
            raise ValueError(f"rows of {length} items; the model's max_length is {longest}")
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(longest - length, longest), ids.shape)
        if segments is None:
            segments = (ids != 0).astype(jnp.int32)
        return positions, segments


def model_module(name: str) -> Any:
    """The module of a model by its config name."""
    return named_module(name, "", NAMES, "recommender")


def read_config(section: Any) -> tuple[Any, Any]:
    """The module of a model and the model's own `Config`; see `recjax.models.named`."""
    return read_section(section, "", NAMES, "recommender")


def make_recommender(
    section: Any,
    n_items: int,
    rngs: nnx.Rngs,
    *,
    features: int = 0,
    known: int = 0,
    n_users: int = 1,
    n_attributes: int = 1,
    rows: int = 0,
) -> SequentialRecommender:
    """A recommender from its config section.

    Args:
        section: see `read_config`.
        n_items: I.
        rngs: initialiser keys (`params`).
        features: A, the width of given features of the items (`FeaturedItems`); 0 = none.
        known: A, given numbers that an item's vector begins with (`JoinedItems`); 0 = none.
        n_users: U, for a `personal` model.
        n_attributes: A, for an `attributed` model.
        rows: of tables of items, where that is more than I: rows of zeros stand behind the items,
            so that devices divide them. `item_table` and `score` then have so many.
    """
    module, config = read_config(section)
    sizes = {"n_users": n_users} if module.Recommender.personal else {}
    sizes |= {"n_attributes": n_attributes} if module.Recommender.attributed else {}
    model = module.Recommender(config, n_items, **sizes, rngs=rngs)
    behind = max(0, rows - n_items)
    for _, table in nnx.iter_modules(model):
        if behind and isinstance(table, nnx.Embed) and table.num_embeddings == n_items:
            table.embedding = nnx.Param(jnp.pad(table.embedding[...], ((0, behind), (0, 0))))
            table.num_embeddings += behind
    if features:
        model.items = FeaturedItems(model.items, features, rngs=rngs)
    if known:
        model.items = JoinedItems(model.items, known)
    return model
