"""Named evaluation protocols over (history, target) examples.

- `full`: the target is ranked in the whole catalogue, without the other items of the example's
  history. This is what S3-Rec's table and those that follow it call full ranking (their code gives
  these items the score 0, so that they stay above items of negative scores), and what RecTools
  recommends with `filter_viewed`. A target that the history holds too still takes part, though a
  list of new items never has it (`Evaluator.note` tells of many).
- `full_with_seen`: in the whole catalogue, items of the history included, as RecBole does. Lower,
  and above all where nobody meets an item twice: a model's nearest items are the ones just seen.
- `uni100`: among itself and 100 different items, drawn uniformly from those that the user never
  met (Kang and McAuley 2018, section IV-B; their code draws with replacement, from all items but
  the training's). Not comparable with the others (Krichene and Rendle 2020).

Metric names carry the protocol: `test/full/ndcg@10`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from recjax.config import nearest
from recjax.data.negatives import sort_positives, uniform_negatives
from recjax.data.pipeline import EvalBatches, in_order
from recjax.data.ragged import row_numbers
from recjax.data.rows import some_rows
from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.evaluation.ranking import (
    EXACT,
    coverage,
    least_tie,
    marginal_relevance,
    rank_catalogue,
    rank_values,
    ranks_of,
    seen_pairs,
    wide,
)
from recjax.evaluation.shards import fetch, over_items, pipelined, shards_of, split_batch
from recjax.ranges import Checked, Count, FieldError, Range, Seed, Share, Size
from recjax.sharded import Split, placing, rows_of
from recjax.typing import Array

PROTOCOLS = ("full", "full_with_seen", "uni100")
_NEGATIVES = 100
_REPEATED = 0.05  # of the targets may stand in their own histories before it is told
_ITEMS = 1 << 20  # that are looked at together

# (params, batch) -> (h [B D] of each example's newest item, table [I D]), or (scores [B I], None).
EncodeFn = Callable[[Any, dict[str, Array]], tuple[Array, Array | None]]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Checked):
    """Section `evaluation` of recommenders."""

    protocols: tuple[str, ...] = ("full",)  # of PROTOCOLS
    cutoffs: tuple[Annotated[int, Range(1)], ...] = (1, 5, 10, 20)  # the k of every metric
    batch_size: Size = 256  # examples at a time; uni100 draws the negatives of a batch together
    item_chunk: Annotated[int, Range(1)] = 16384  # items scored at a time
    max_examples: Count = 0  # evaluate a seeded sample of this many; 0 = all
    mmr_balance: Share = 0.5  # lambda of marginal relevance
    seed: Seed = 0  # of the sampled negatives and the sample of examples

    def __post_init__(self):
        super().__post_init__()
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise FieldError("protocols", f"no protocol '{name}'; {nearest(name, PROTOCOLS)}")
        for name in ("protocols", "cutoffs"):
            if not getattr(self, name):
                raise FieldError(name, "expected at least one")


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Results of an evaluation of n examples.

    Attributes:
        name: of the part of the split.
        examples: [n] places of the targets in the store's flat `items`.
        users: [n] int32, 0-based; a user may have several examples.
        targets: [n] item ids.
        values: by protocol and metric, [n] each: `rank`, and what `metrics` has means of; NaN where
            the example was not asked.
        metrics: by full name (`test/full/ndcg@10`); coverage, too, which no example has alone.
    """

    name: str
    examples: np.ndarray
    users: np.ndarray
    targets: np.ndarray
    values: dict[str, dict[str, np.ndarray]]
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluates a recommender on one set of examples.

    Attributes:
        config: protocols and metrics.
        name: prefix of the metric names (`validation`, `test`).
        items: the store's flat item ids.
        offsets: [U+1] the store's offsets.
        examples: history `items[start:stop]`, target `items[stop]`.
        n_items: I.
        length: L, the model's window.
        encode: the model.
        sharding: how a batch is split over devices (`recjax.evaluation.shards`).
        table: how the table of items is, where it is.
        packed: several histories a row.
        closing: id of a mask that follows every history; 0 = none.
        vectors: `encode` gives vectors; of scores alone there is no marginal relevance.
        personal: `encode` reads whose histories they are.
    """

    config: EvaluationConfig
    name: str
    items: np.ndarray
    offsets: np.ndarray
    examples: Spans
    n_items: int
    length: int
    encode: EncodeFn
    sharding: NamedSharding | None = None
    table: Split | None = None
    packed: bool = True
    closing: int = 0
    vectors: bool = True
    personal: bool = False

    def _placing(self) -> contextlib.AbstractContextManager[None]:
        if self.table is None:
            return contextlib.nullcontext()
        return placing(self.table.mesh, {"items": self.table.axes})

    def __post_init__(self):
        if not len(self.examples):
            raise InputError(
                f"config.split leaves no example for {self.name}; expected users with more items"
            )

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        out = []
        for protocol in self.config.protocols:
            ranked = ("hr", "recall", "ndcg", "mrr")
            listed = ("mmr", "coverage") if self.vectors else ("coverage",)
            kinds = ranked if protocol == "uni100" else ranked + listed
            names = [f"{kind}@{k}" for kind in kinds for k in self.config.cutoffs] + ["mrr"]
            out += [f"{self.name}/{protocol}/{name}" for name in names]
        return out

    @functools.cached_property
    def _chosen(self) -> Spans:
        limit, seed = self.config.max_examples, self.config.seed
        return self.examples[some_rows(len(self.examples), limit, seed)] if limit else self.examples

    @property
    def count(self) -> int:
        """How many examples are evaluated."""
        return len(self._chosen)

    @functools.cached_property
    def _fewest(self) -> int:
        """The smallest number of items that a user never met."""
        users = np.unique(self._chosen.users)
        offsets, _ = sort_positives(self.items, self.offsets[users], self.offsets[users + 1])
        return int(self.n_items - 1 - np.diff(offsets).max())

    @functools.cached_property
    def repeated(self) -> float:
        """The share of targets that stand in their own histories."""
        spans, found, first = self._chosen[np.argsort(self._chosen.users)], 0, 0
        while first < len(spans):
            begin = int(self.offsets[spans.users[first]])
            # The users whose items are looked at together: one at least.
            stop = max(
                int(np.searchsorted(self.offsets, begin + _ITEMS, "right")) - 1,
                int(spans.users[first]) + 1,
            )
            last = first + int(np.searchsorted(spans.users[first:], stop))
            lengths = np.diff(self.offsets[spans.users[first] : stop + 1])
            items = np.asarray(self.items[begin : self.offsets[stop]], np.int64)
            keys = row_numbers(lengths) * self.n_items + items
            order = np.argsort(keys, kind="stable")
            before = np.full(len(keys), -1)  # the place of the same user's same item, the last time
            again = keys[order[1:]] == keys[order[:-1]]
            before[order[1:][again]] = order[:-1][again]
            part = spans[first:last]
            found += int((before[part.stops - begin] >= part.starts - begin).sum())
            first = last
        return found / self.count

    @property
    def note(self) -> str:
        """A line for people where many targets are no new items; "" elsewhere."""
        if self.repeated <= _REPEATED:
            return ""
        return (
            f"{self.repeated:.0%} of the {self.name} targets are in the user's own history: "
            "`recommend` lists such items only with --with-seen. config.data.deduplicate=last "
            "leaves repeats out, as a table's option `where` may (where=event=buy)"
        )

    def check(self) -> None:
        """Checks that each protocol has the items that it needs, as `run` would.

        Raises:
            InputError: too few for `uni100`.
        """
        if "uni100" in self.config.protocols and self._fewest < _NEGATIVES:
            raise InputError(
                f"config.evaluation.protocols: 'uni100' ranks among {_NEGATIVES} items that the "
                f"user never met; of {self.n_items - 1} items a user of the {self.name} split "
                f"leaves {self._fewest}: leave it out, or take 'full'"
            )

    @functools.cached_property
    def batches(self) -> EvalBatches:
        """Batches of the examples."""
        config = self.config
        return EvalBatches(
            self.items,
            self._chosen,
            self.length,
            config.batch_size,
            packed=self.packed,
            closing=self.closing,
            shards=shards_of(self.sharding),
            users=self.personal,
        )

    @functools.cached_property
    def _ranks(self):
        """`(rank, stacked)`: jitted functions that rank a batch by one set of parameters, by M."""
        config = self.config
        k = min(max(config.cutoffs), self.n_items - 1)

        def rank(params, batch, *, lists: tuple[str, ...], sampled: bool):
            h, table = self.encode(params, batch)
            out = {}
            nothing = (jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32))
            for name in lists:
                seen = (batch["seen_rows"], batch["seen_items"]) if name == "full" else nothing
                vectors = None
                if table is not None:
                    with self._placing():
                        vectors = rows_of(table, batch["targets"], "items")
                ranks, top = over_items(
                    lambda table, h, to, vectors, seen, split: rank_catalogue(
                        h, table, to, seen, k, config.item_chunk,
                        items=self.n_items, split=split, vectors=vectors,
                    ),
                    self.sharding, self.table, (table,), h, batch["targets"], vectors, seen,
                )  # fmt: skip
                out[name] = {"ranks": ranks, "top": top}
                if table is not None:
                    with self._placing():
                        out[name]["mmr"] = marginal_relevance(
                            h, table, top, config.cutoffs, config.mmr_balance
                        )
            if sampled:
                candidates = jnp.concatenate([batch["targets"][:, None], batch["negatives"]], 1)
                first, least = jnp.zeros(len(h), jnp.int32), None
                if table is None:
                    scores = jnp.take_along_axis(h, candidates, axis=1)
                else:
                    with self._placing():
                        vectors = rows_of(table, candidates, "items")
                    scores = jnp.einsum("BD,BCD->BC", wide(h), vectors, precision=EXACT)
                    least = least_tie(wide(h) * vectors[:, 0])
                out["uni100"] = {"ranks": ranks_of(scores, first, least)}
            return out

        def stacked(params, batch, **asked):
            return jax.vmap(lambda params: rank(params, batch, **asked))(params)

        static = ("lists", "sampled")
        return jax.jit(rank, static_argnames=static), jax.jit(stacked, static_argnames=static)

    def _batch(self, index: int) -> dict[str, np.ndarray]:
        batch = self.batches(index)
        chosen = self._chosen[batch["examples"]]
        if "full" in self.config.protocols:
            batch["seen_rows"], batch["seen_items"] = seen_pairs(
                self.items, chosen, shards_of(self.sharding)
            )
        if "uni100" in self.config.protocols:
            # Drawn in the examples' order: they are the same on any number of devices.
            order, examples = in_order(batch), np.zeros(self.batches.size, np.int64)
            examples[: len(order)] = batch["examples"][order]
            chosen = self._chosen[examples]
            starts, stops = self.offsets[chosen.users], self.offsets[chosen.users + 1]
            offsets, positives = sort_positives(self.items, starts, stops)
            rng = np.random.default_rng([self.config.seed, index])
            negatives = uniform_negatives(
                rng, _NEGATIVES, offsets, positives, self.n_items, distinct=True
            )
            batch["negatives"] = np.zeros((len(batch["examples"]), _NEGATIVES), np.int32)
            batch["negatives"][order] = negatives[: len(order)]
        return batch

    def rank(self, params: Any, *, stacked: bool = False) -> Iterator[dict[str, Any]]:
        """Raw results, batch by batch.

        Args:
            params: the model's parameters; with `stacked` each has a leading axis [M].
            stacked: rank by M sets of parameters at once.

        Yields:
            `examples` [b], numbers of the evaluated examples; for each protocol `ranks` [b], and
            for those over the whole catalogue `top` [b k] and `mmr` [b cutoffs]; with `stacked`
            [M b ...].
        """
        lists = tuple(p for p in self.config.protocols if p != "uni100")
        sampled = "uni100" in self.config.protocols
        self.check()
        one, many = self._ranks
        ranks = many if stacked else one

        def launched() -> Iterator[tuple[np.ndarray, Any, Any]]:
            for index in range(len(self.batches)):
                batch = self._batch(index)
                order = in_order(batch)
                examples = batch.pop("examples")[order]
                del batch["weights"]
                arrays = split_batch(batch, self.sharding)
                result = ranks(params, arrays, lists=lists, sampled=sampled)
                yield examples, np.s_[:, order] if stacked else order, result

        for examples, order, result in pipelined(launched()):
            host = jax.tree.map(lambda x: x[order], fetch(result))  # noqa: B023 - called at once
            yield {"examples": examples, **host}

    def measure(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> Measured:
        """Evaluates, and keeps the values of each example.

        Args:
            params: the model's parameters.
            progress: called with the number of examples done.
        """
        parts = []
        for part in self.rank(params):
            parts.append(part)
            progress(len(part["examples"]))
        return self._summed(parts)

    def measure_stacked(self, params: Any) -> list[Measured]:
        """`measure` of M sets of parameters at once, for models too small to fill a device.

        Args:
            params: by path, each [M ...].
        """
        parts = list(self.rank(params, stacked=True))
        protocols = self.config.protocols
        count = len(next(iter(parts[0][protocols[0]].values())))

        def of_model(m: int, part: dict[str, Any]) -> dict[str, Any]:
            return {p: {key: values[m] for key, values in part[p].items()} for p in protocols}

        return [self._summed([of_model(m, part) for part in parts]) for m in range(count)]

    def _summed(self, parts: list[dict[str, Any]]) -> Measured:
        cutoffs, by_protocol = self.config.cutoffs, {}
        metrics: dict[str, float] = {}
        for protocol in self.config.protocols:
            columns = {
                key: np.concatenate([part[protocol][key] for part in parts])
                for key in parts[0][protocol]
            }
            values = rank_values(columns["ranks"], cutoffs)
            if "mmr" in columns:
                mmr = columns["mmr"].T.astype(np.float64)
                values |= {f"mmr@{k}": column for k, column in zip(cutoffs, mmr, strict=True)}
            means = {key: float(value.mean()) for key, value in values.items()}
            if "top" in columns:
                means |= coverage(columns["top"], self.n_items, cutoffs)
            by_protocol[protocol] = {"rank": columns["ranks"]} | values
            metrics |= {f"{self.name}/{protocol}/{key}": value for key, value in means.items()}
        chosen = self._chosen
        targets = self.items[chosen.stops]
        return Measured(self.name, chosen.stops, chosen.users, targets, by_protocol, metrics)

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by full name (`test/full/ndcg@10`), means over the examples; see `measure`."""
        return self.measure(params, progress).metrics
