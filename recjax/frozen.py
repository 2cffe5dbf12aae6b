"""Another run's recommender, frozen: its states, its items' vectors, and histories out of its data.

run = open_recommender("runs/sasrec")
windows = split_windows(run, "test", 10, newest=True)
encoder = Encoder(run, run.restore(run.best_step()), 10, "config.ask.window")
encoder(windows.ids())                                          # [n L D]

Letters: n histories, B of them, W items of a history, I items, L positions and D width of states.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.prepare import is_gone, prepare
from recjax.data.ragged import row_positions
from recjax.data.splits import Spans
from recjax.data.store import Store, open_store
from recjax.errors import InputError
from recjax.paths import home
from recjax.training.recommender import RecommenderRun, RunConfig
from recjax.training.workdir import open_run, read_run_config
from recjax.typing import Array, Params

_ROWS = 1024  # histories that are encoded at a time


def open_recommender(workdir: str | Path, **evaluation: Any) -> RecommenderRun:
    """Opens a recommender's run from its workdir; `InputError` for another system's."""
    run = open_run(workdir, **evaluation)
    if not isinstance(run, RecommenderRun):
        raise InputError(f"{workdir}: a run of another kind; expected a recommender's")
    return run


def recommender_store(workdir: str | Path, may_prepare: bool, key: str) -> Store:
    """The data of a recommender's run that a config names.

    Args:
        workdir: of the run.
        may_prepare: prepare it where it is missing.
        key: of the config, for errors.

    Raises:
        InputError: no run there or another system's, or what `prepare` and `open_store` refuse.
    """
    if not str(workdir):
        raise InputError(f"{key}: is empty; expected the workdir of a recommender's run")
    try:
        config = read_run_config(home(workdir))
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    if not isinstance(config, RunConfig):
        raise InputError(f"{key}: {workdir}: a run of another kind; expected a recommender's")
    if may_prepare and not is_gone(config.data.path):
        return prepare(config.data)
    return open_store(config.data.store)


class Encoder:
    """A frozen recommender's hidden states.

    Args:
        run: of the recommender.
        params: its parameters.
        window: W.
        key: of the config that names W, for errors.

    Attributes:
        length, dim: L and D of the states.

    Raises:
        InputError: a recommender that reads fewer than W items.
    """

    def __init__(self, run: RecommenderRun, params: Params, window: int, key: str):
        name = run.config.model["name"]
        if run.window < window:
            raise InputError(f"{run.workdir}: {name} reads {run.window} items, {key} is {window}")
        self._run, self._params = run, params

        def encode(params: Params, ids: Array) -> Array:
            model = run.model.merge(params)
            h = model.encode(ids)
            h = jnp.where((ids != 0)[..., None], h, 0)  # padding has no state
            return h[:, -1:] if model.one_state else h

        self._encode = jax.jit(encode)
        shape = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((1, window), jnp.int32)).shape
        self.length, self.dim = shape[1:]

    @property
    def item_vectors(self) -> Array:
        """[I D'] the items' vectors by id; row 0 stands for padding."""
        return self._run.model.merge(self._params).item_table()

    def __call__(self, histories: np.ndarray) -> Array:
        """[B L D] states of histories [B W], newest item last, 0 = padding.

        More than 1,024 are encoded in parts of as many, by one program.
        """
        if len(histories) <= _ROWS:
            return self._encode(self._params, histories)
        out = []
        for first in range(0, len(histories), _ROWS):
            part = histories[first : first + _ROWS]
            padded = part[np.minimum(np.arange(_ROWS), len(part) - 1)]
            out.append(self._encode(self._params, padded)[: len(part)])
        return jnp.concatenate(out)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """n histories out of runs of a store's items.

    Attributes:
        items: the store's flat item ids.
        starts: [n] where the run of each begins.
        stops: [n] one after its newest item; at least one older item is before it.
        window: W.
        drawn: [n] an item that stands in place of the newest; 0, or None for all = its own.
    """

    items: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    window: int
    drawn: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.stops)

    def __getitem__(self, rows: Any) -> "Windows":
        drawn = None if self.drawn is None else self.drawn[rows]
        starts, stops = self.starts[rows], self.stops[rows]
        return dataclasses.replace(self, starts=starts, stops=stops, drawn=drawn)

    def ids(self, back: int = 0) -> np.ndarray:
        """[n W] the newest W items that are at least `back` old; 0 where there are none."""
        places = (self.stops - back)[:, None] + np.arange(-self.window, 0)
        inside = places >= self.starts[:, None]
        ids = np.where(inside, self.items[np.maximum(places, 0)], 0).astype(np.int32)
        if not back:
            ids[:, -1] = self.newest
        return ids

    @property
    def newest(self) -> np.ndarray:
        """[n] the newest item of each."""
        own = self.items[self.stops - 1]
        return own if self.drawn is None else np.where(self.drawn > 0, self.drawn, own)

    def with_drawn(self, share: float, n_items: int, seed: int) -> "Windows":
        """These histories, and copies of a `share` of them with another newest item.

        That item is drawn uniformly from the catalogue: rare items are seen as often as popular
        ones, and after histories that do not suggest them.

        Args:
            share: 0.5 for half as many again; at most 1.
            n_items: I.
            seed: of all draws.
        """
        rng = np.random.default_rng([seed, 3])
        more = np.sort(rng.choice(len(self), round(share * len(self)), replace=False))
        drawn = rng.integers(1, n_items, len(more))
        both = self[np.concatenate([np.arange(len(self)), more])]
        own = np.zeros(len(self), np.int64) if self.drawn is None else self.drawn
        return dataclasses.replace(both, drawn=np.concatenate([own, drawn]))


def windows_of(items: np.ndarray, spans: Spans, window: int, *, newest: bool) -> Windows:
    """Histories of at least two items that end anywhere in runs.

    Args:
        items: the store's flat item ids.
        spans: the runs.
        window: W.
        newest: only the one that ends with the run.
    """
    long = np.flatnonzero(spans.stops - spans.starts >= 2)
    starts, stops = spans.starts[long], spans.stops[long]
    if newest:
        return Windows(items, starts, stops, window)
    counts = stops - starts - 1
    first = np.repeat(starts, counts)
    return Windows(items, first, first + 2 + row_positions(counts), window)


def holds_sequences(run: RecommenderRun) -> bool:
    """Whether a run's split holds out whole sequences, and not only targets at their ends."""
    return run.config.split.name == "chronological_sequences"


def split_windows(
    run: RecommenderRun, part: Literal["train", "validation", "test"], window: int, *, newest: bool
) -> Windows:
    """Histories of one part of a run's split; the targets of validation and test are the newest.

    Args:
        run: of the recommender.
        part: of the split.
        window: W.
        newest: only those that end with their sequence (its target), not anywhere in it. Where a
            split does not hold out whole sequences, what is older is trained on, and there are no
            others.
    """
    spans = getattr(run.split, part)
    if part != "train":
        spans = dataclasses.replace(spans, stops=spans.stops + 1)
        newest |= not holds_sequences(run)
    return windows_of(run.store.items, spans, window, newest=newest)


def popular(trained: Windows, n_items: int, count: int) -> np.ndarray:
    """[count] the most frequent items of the newest training windows (ties: smaller ids first).

    Args:
        trained: the newest window of every training sequence.
        n_items: I.
        count: how many.
    """
    frequency = np.bincount(trained.ids().reshape(-1), minlength=n_items)
    frequency[0] = 0
    return np.argsort(-frequency, kind="stable")[:count]
