"""Top lists without targets: recommendations, scored as `recjax.evaluation.protocols` ranks.

The batches, the scores and the items left out are those of protocol `full` (with seen items, of
`full_with_seen`), so that the lists of a history are the evaluator's.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from recjax.data.pipeline import EvalBatches, in_order
from recjax.data.requests import Request
from recjax.errors import InputError
from recjax.evaluation.protocols import EncodeFn
from recjax.evaluation.ranking import seen_pairs, top_items
from recjax.evaluation.shards import fetch, over_items, pipelined, shards_of, split_batch
from recjax.sharded import Split


@dataclasses.dataclass(frozen=True, eq=False)
class Recommendations:
    """Lists for n users or histories, in the order they were asked for, best item first.

    Attributes:
        ids: [n k] int32 item ids of the store; 0 where fewer than k items take part.
        scores: [n k] float32 inner products, comparable within a list; -inf where there is no item.
        catalog: records by item id (`Store.catalog`).
        users: [n] raw user keys, or None of histories.
        numbers: [n] of the histories, from 1, where some may have been left out; None = all.
    """

    ids: np.ndarray
    scores: np.ndarray
    catalog: Sequence[dict[str, Any] | None] = dataclasses.field(repr=False)
    users: Sequence[str] | None = dataclasses.field(default=None, repr=False)
    numbers: Sequence[int] | None = dataclasses.field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> Sequence[Any]:
        """[n] raw user keys, or the numbers of the histories."""
        return self.users or self.numbers or range(1, len(self) + 1)

    def _lists(self, field: str) -> list[list[Any]]:
        values = [record[field] if record else None for record in self.catalog]
        return [[values[id] for id in row if id] for row in self.ids.tolist()]

    @property
    def keys(self) -> list[list[str]]:
        """Raw item keys, a list for each; shorter than k where there are fewer items."""
        return self._lists("key")

    @property
    def titles(self) -> list[list[str | None]]:
        """Titles, a list for each; None where an item has none."""
        return self._lists("title")


@dataclasses.dataclass(frozen=True, eq=False)
class TopLists:
    """Makes lists with a recommender.

    Attributes:
        n_items: I.
        length: L, the model's window; of longer histories it reads the newest L items.
        encode: the model.
        batch_size: histories at a time.
        item_chunk: items scored at a time.
        sharding: how a batch is split over devices (`recjax.evaluation.shards`).
        table: how the table of items is, where it is.
        packed: several histories a row.
        closing: id of a mask that follows every history; 0 = none.
        personal: `encode` reads whose histories they are, where users were asked for.
    """

    n_items: int
    length: int
    encode: EncodeFn
    batch_size: int
    item_chunk: int
    sharding: NamedSharding | None = None
    table: Split | None = None
    packed: bool = True
    closing: int = 0
    personal: bool = False

    @functools.cached_property
    def _top(self):
        @functools.partial(jax.jit, static_argnames="k")
        def top(params, batch, allowed, *, k: int):
            h, table = self.encode(params, batch)
            nothing = jnp.zeros(0, jnp.int32)
            seen = batch.get("seen_rows", nothing), batch.get("seen_items", nothing)
            best = functools.partial(top_items, k=k, chunk=self.item_chunk, items=self.n_items)
            if allowed is not None:
                if table is not None:  # rows may stand behind the items
                    allowed = jnp.pad(allowed, (0, len(table) - len(allowed)))
                return over_items(
                    lambda table, allowed, h, seen, split: best(
                        h, table, seen, allowed=allowed, split=split
                    ),
                    self.sharding, self.table, (table, allowed), h, seen,
                )  # fmt: skip
            return over_items(
                lambda table, h, seen, split: best(h, table, seen, split=split),
                self.sharding, self.table, (table,), h, seen,
            )  # fmt: skip

        return top

    def stream(
        self, params: Any, request: Request, k: int = 10, *, filter_seen: bool = True
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`(ids [b k'], scores [b k'])` of one batch after another, in the request's order.

        Args:
            params: of the model.
            request: histories and candidates.
            k: length of the lists; k' is I - 1 where that is less.
            filter_seen: leave out the items of each whole history.

        Raises:
            InputError: k below 1, or scores that are no numbers.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k: expected a whole number from 1, got {k!r}")
        return self._stream(params, request, min(int(k), self.n_items - 1), filter_seen)

    def _stream(
        self, params: Any, request: Request, k: int, filter_seen: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        shards = shards_of(self.sharding)
        batches = EvalBatches(
            request.items, request.spans, self.length, self.batch_size,
            packed=self.packed, closing=self.closing, targeted=False, shards=shards,
            users=self.personal and request.keys is not None,
        )  # fmt: skip

        def launched() -> Iterator[tuple[np.ndarray, Any]]:
            for index in range(len(batches)):
                batch = batches(index)
                order = in_order(batch)
                examples = batch.pop("examples")
                del batch["weights"]
                if filter_seen:
                    pairs = seen_pairs(request.items, request.spans[examples], shards)
                    batch["seen_rows"], batch["seen_items"] = pairs
                arrays = split_batch(batch, self.sharding)
                yield order, self._top(params, arrays, request.allowed, k=k)

        for order, result in pipelined(launched()):
            yield _checked(order, result)


def _checked(order: np.ndarray, result: Any) -> tuple[np.ndarray, np.ndarray]:
    ids, scores = (array[order] for array in fetch(result))
    if not (scores < np.inf).all():  # NaN too
        raise InputError("the model's scores are no numbers (NaN or inf): its training diverged")
    return ids, scores
