"""The common part of runs whose models rank a catalogue: the split, the evaluator, item lists."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from recjax.data import splits
from recjax.data.prepare import date_seconds
from recjax.data.requests import Request
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.lists import Recommendations, TopLists
from recjax.evaluation.protocols import Evaluator
from recjax.ranges import Checked, Few, FieldError, Range
from recjax.sharded import Split
from recjax.training import parallel
from recjax.training.saved_run import SavedRun
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SplitConfig(Checked):
    """Section `split`."""

    name: Literal["leave_one_out", "rolling", "chronological_sequences", "chronological_time"] = (
        "leave_one_out"
    )
    last: Few = 10  # of rolling: test targets of a user
    held: Few = 1  # of rolling: validation targets of a user
    # Of the chronological splits.
    ratios: tuple[Annotated[int, Range(0, 1_000_000)], ...] = (8, 1, 1)
    by: Literal["end", "start", "user"] = "end"  # how chronological_sequences sorts
    # Of chronological_time in place of ratios: ISO dates or times (UTC), to the second.
    validation_from: str = ""
    test_from: str = ""

    def __post_init__(self):
        super().__post_init__()
        if len(self.ratios) != 3 or not self.ratios[0]:
            raise FieldError("ratios", f"expected (train, validation, test), got {self.ratios}")
        cuts = self.cuts()
        if cuts and self.name != "chronological_time":
            raise FieldError("validation_from", f"'{self.name}' reads neither it nor test_from")
        if cuts and cuts[0] > cuts[1]:
            raise FieldError("test_from", f"'{self.test_from}' is before validation_from")

    def cuts(self) -> tuple[int, int] | None:
        """The first second of validation and of test; None = the ratios say."""
        if not self.validation_from and not self.test_from:
            return None
        first = date_seconds("validation_from", self.validation_from)
        second = date_seconds("test_from", self.test_from)
        if first is None or second is None:
            missing, other = "validation_from", "test_from"
            if second is None:
                missing, other = other, missing
            raise FieldError(missing, f"expected a date, as {other} has one")
        return first, second


def make_split(store: Store, config: SplitConfig) -> splits.Split:
    """The split that a config names."""
    if config.name == "leave_one_out":
        return splits.leave_one_out(store.offsets)
    if config.name == "rolling":
        return splits.rolling(store.offsets, config.last, config.held)
    given = store.offsets, store.timestamps, config.ratios
    if config.name == "chronological_sequences":
        return splits.chronological_sequences(*given, config.by)
    return splits.chronological_time(*given, config.cuts())


class RankingRun(SavedRun):
    """A run that ranks the catalogue for histories.

    Attributes:
        config: has the sections `split` and `evaluation`.
        window: L, the items that the model reads of a history.
        packed: several histories a row.
        closing: id of a mask that follows every history; 0 = none.
        vectors: `encode` gives vectors and a table, not scores.
        personal: `encode` reads whose histories they are.
        timed: it reads when the items were met, where that is known.
    """

    store: Store
    window: int
    packed: bool = True
    closing: int = 0
    vectors: bool = True
    personal: bool = False
    timed: bool = False
    _kept: tuple[int, Params] | None = None  # a checkpoint that was recommended with

    def encode(self, params: Params, batch: dict[str, Array]) -> tuple[Array, Array | None]:
        """`(vectors [B D], table [I D])` whose inner products rank each example's next item, or
        `(scores [B I], None)`."""
        raise NotImplementedError

    @property
    def table(self) -> Split | None:
        """The split of the item table over devices; None if each has all of it."""
        return None

    @functools.cached_property
    def split(self) -> splits.Split:
        """Training runs, validation and test examples."""
        split, times = make_split(self.store, self.config.split), self.store.timestamps
        return split.timed(times) if self.timed and times is not None else split

    def check_sequences(self) -> None:
        """Raises `InputError` where no training sequence has two items."""
        train, lengths = self.split.train, np.diff(self.store.offsets)
        if (train.stops - train.starts > 1).any():
            return
        config = self.config.split
        held = {"leave_one_out": 2, "rolling": config.last + config.held}.get(config.name)
        needs = "two interactions in the part that is trained on"
        if held is not None:
            needs = f"{held + 2} interactions, of which {held} are held out"
        raise InputError(
            f"{self.store.path}: no training sequence has two items: under config.split.name "
            f"'{config.name}' a user needs {needs}; the longest history has {lengths.max()}"
        )

    def evaluator(self, name: Literal["validation", "test"]) -> Evaluator:
        """Evaluates on one part of the split."""
        return Evaluator(
            self.config.evaluation,
            name,
            self.store.items,
            self.store.offsets,
            getattr(self.split, name),
            self.store.n_items,
            self.window,
            self.encode,
            sharding=parallel.batch_sharding(self.mesh),
            table=self.table,
            packed=self.packed,
            closing=self.closing,
            vectors=self.vectors,
            personal=self.personal,
        )

    def measurer(self, name: Literal["validation", "test"]) -> Evaluator:
        """See `SavedRun.measurer`."""
        return self.evaluator(name)

    @functools.cached_property
    def lists(self) -> TopLists:
        """The maker of top lists; `recommend` is its usual door."""
        config = self.config.evaluation
        return TopLists(
            self.store.n_items,
            self.window,
            self.encode,
            config.batch_size,
            config.item_chunk,
            sharding=parallel.batch_sharding(self.mesh),
            table=self.table,
            packed=self.packed,
            closing=self.closing,
            personal=self.personal,
        )

    def request(
        self,
        asked: Iterable[Any] | None = None,
        among: Iterable[Any] | None = None,
        named: Mapping[str, str] | None = None,
        *,
        log: str | Path | None = None,
        skip_unknown: bool = False,
    ) -> Request:
        """See `SavedRun.request`; users' items have their times for a `timed` model, and histories
        that are given have none."""
        request = super().request(asked, among, named, log=log, skip_unknown=skip_unknown)
        times = request.spans.times if self.timed else None
        if request.users is not None:
            times = self.split.train.times
        spans = dataclasses.replace(request.spans, times=times)
        return dataclasses.replace(request, spans=spans)

    def recommend(
        self,
        asked: Iterable[Any] | None = None,
        k: int = 10,
        *,
        filter_seen: bool = True,
        among: Iterable[Any] | None = None,
        step: int | None = None,
        params: Params | None = None,
        log: str | Path | None = None,
        skip_unknown: bool = False,
    ) -> Recommendations:
        """The k best items for users or histories, as the evaluator ranks them.

        >>> import recjax
        >>> run = recjax.open_run("runs/sample")
        >>> history = [run.store.catalog[8]["key"], run.store.catalog[2]["key"]]  # of anybody
        >>> recommended = run.recommend([history], k=3)
        >>> recommended.scores.shape, len(recommended.keys[0]), len(recommended.titles[0])
        ((1, 3), 3, 3)
        >>> run.recommend(run.store.user_keys[:2], k=5).ids.shape  # users of the data
        (2, 5)

        Args:
            asked: user keys, or histories: lists of item keys, the newest last, of anybody; keys
                are those of the raw data. None = all users of the data. For a user all items in
                the data are the history, those held out for validation and test too. A history
                longer than the model's window counts with its newest items.
            k: length of the lists; they are shorter where fewer items take part.
            filter_seen: leave out the items of each whole history.
            among: item keys; no other item is recommended.
            step: checkpoint; None = the best one.
            params: in place of a checkpoint's.
            log: path of a new log: its users (or those of them that are asked for) with their
                whole histories there. It is read as the run's own was
                (`recjax.data.new_log.read_log`), and items that the run does not know are left out.
            skip_unknown: leave out unknown users, items and candidates; without it they are an
                error. `users` or `numbers` of the result say who is left.

        Raises:
            InputError: users or items that the data do not have (all of them in one error), an
                empty history, k below 1, no checkpoint, scores that are no numbers, a malformed
                log.
        """
        request = self.request(asked, among, log=log, skip_unknown=skip_unknown)
        if params is None:
            params = self._restored(self.best_step() if step is None else step)
        parts = list(self.lists.stream(params, request, k, filter_seen=filter_seen))
        ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        numbers = None if request.keys else request.names
        return Recommendations(ids, scores, self.store.catalog, request.keys, numbers)

    def _restored(self, step: int) -> Params:
        """The parameters of a checkpoint, kept for the next call."""
        if self._kept is None or self._kept[0] != step:
            self._kept = (step, self.restore(step))
        return self._kept[1]
