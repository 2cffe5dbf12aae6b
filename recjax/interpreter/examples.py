"""What is interpreted: a recommender's states of histories, and the titles they stand for.

Letters: n examples, B of them, W items of a history, L positions and D width of the states.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.training.recommender import RecommenderRun
from recjax.typing import Array, Params


class Examples(Protocol):
    """n histories, each with the states before and after its newest item.

    `backs` and `lists` are those of a `recjax.text.tasks.Task`.
    """

    def __len__(self) -> int: ...

    def states(self, rows: np.ndarray, backs: Sequence[int] = (0,)) -> Array:
        """[B n L D] states of the histories without so many of their newest items (0 or 1)."""
        ...

    def titles(self, rows: np.ndarray, *, lists: bool = False) -> list[list[str]]:
        """The title of the newest item, or those of the history from the newest on."""
        ...


class Encoder:
    """A frozen recommender's hidden states.

    Args:
        run: of the recommender.
        params: its parameters.
        window: W.

    Attributes:
        length, dim: L and D of the states.

    Raises:
        InputError: a recommender that reads fewer than W items.
    """

    def __init__(self, run: RecommenderRun, params: Params, window: int):
        name = run.config.model["name"]
        if run.window < window:
            raise InputError(
                f"{run.workdir}: {name} reads {run.window} items, config.ask.window is {window}"
            )
        self._params = params
        # Caser's representation has no positions (section 4.1.2): the newest one is all of it.
        last = name == "caser"

        def encode(params: Params, ids: Array) -> Array:
            h = run.model.merge(params).encode(ids)
            h = jnp.where((ids != 0)[..., None], h, 0)  # padding has no state
            return h[:, -1:] if last else h

        self._encode = jax.jit(encode)
        shape = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((1, window), jnp.int32)).shape
        self.length, self.dim = shape[1:]

    def __call__(self, histories: np.ndarray) -> Array:
        """[B L D] states of histories [B W], newest item last, 0 = padding."""
        return self._encode(self._params, histories)


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
        """These, and as many more as `share` of them whose newest item is another.

        That item is drawn evenly from the catalogue: rare ones are seen as often as popular ones,
        and after histories that do not suggest them.

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
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Windows(items, first, first + 2 + inside, window)


@dataclasses.dataclass(frozen=True, eq=False)
class Histories:
    """Examples out of a store, encoded as they are asked for.

    Attributes:
        windows: n histories.
        encoder: of the recommender.
        names: [I] titles by item id.
    """

    windows: Windows
    encoder: Callable[[np.ndarray], Array]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.windows)

    def states(self, rows: np.ndarray, backs: Sequence[int] = (0,)) -> Array:
        """See `Examples`."""
        chosen = self.windows[rows]
        ids = np.stack([chosen.ids(back) for back in backs], axis=1)
        h = self.encoder(ids.reshape(-1, ids.shape[-1]))
        return h.reshape(*ids.shape[:2], *h.shape[1:])

    def titles(self, rows: np.ndarray, *, lists: bool = False) -> list[list[str]]:
        """See `Examples`."""
        chosen = self.windows[rows]
        if not lists:
            return [[self.names[item]] for item in chosen.newest]
        return [[self.names[item] for item in row[::-1] if item] for row in chosen.ids()]


def check_states(h: Any, what: str, *, length: int = 0, dim: int = 0) -> np.ndarray:
    """States from anywhere as float32 [B L D].

    Args:
        h: [B L D] or [B D].
        what: name for errors.
        length, dim: L and D that are expected; 0 = any.

    Raises:
        InputError: another shape or type, another width, NaN or infinity (naming the row).
    """
    try:
        array = np.asarray(h)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: not an array of numbers ({error})") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise InputError(f"{what}: an array of {array.dtype}; expected floating-point numbers")
    with np.errstate(over="ignore"):  # infinity is refused below
        states = array.astype(np.float32, copy=False)
    if states.ndim == 2:
        states = states[:, None]
    if states.ndim != 3 or not states.size:
        raise InputError(f"{what}: shape {np.shape(h)}, expected [B L D] or [B D]")
    for name, got, wanted in (
        ("positions", states.shape[1], length),
        ("width", states.shape[2], dim),
    ):
        if wanted and got != wanted:
            raise InputError(f"{what}: {name} {got}, expected {wanted}: states of another model?")
    bad = ~np.isfinite(states).all(axis=(1, 2))
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"{what}: row {row} has NaN or infinity; expected finite float32 numbers")
    return states


def _title(title: Any, what: str) -> str:
    """A title, blanks collapsed."""
    words = " ".join(title.split()) if isinstance(title, str) else ""
    if not words:
        raise InputError(f"{what} is {title!r}, expected a text that is not empty")
    return words


class States:
    """Examples out of arrays: the states of any recommender.

    Args:
        before, after: [n L D] or [n D] of histories without and with their newest item.
        added: [n] title of that item.
        histories: [n] titles of each history, oldest first; only recovery needs them.

    Raises:
        InputError: arrays that do not fit each other, NaN, an empty title or history.
    """

    def __init__(
        self,
        before: Any,
        after: Any,
        added: Sequence[str],
        histories: Sequence[Sequence[str]] | None = None,
    ):
        self.after = check_states(after, "hidden_after")
        length, dim = self.after.shape[1:]
        self.before = check_states(before, "hidden_before", length=length, dim=dim)
        self._added = [_title(title, f"titles: row {row}") for row, title in enumerate(added)]
        self._histories = None
        if histories is not None:
            self._histories = [
                [_title(title, f"histories: row {row}: a title") for title in some]
                for row, some in enumerate(histories)
            ]
        count = len(self.after)
        for name, values in (
            ("hidden_before", self.before),
            ("titles", self._added),
            ("histories", self._histories),
        ):
            if values is not None and len(values) != count:
                raise InputError(f"{name}: {len(values)} rows, expected {count}")
        for row, some in enumerate(self._histories or []):
            if not some:
                raise InputError(f"histories: row {row} is empty")

    def __len__(self) -> int:
        return len(self.after)

    def states(self, rows: np.ndarray, backs: Sequence[int] = (0,)) -> Array:
        """See `Examples`."""
        shown = (self.after, self.before)
        return jnp.asarray(np.stack([shown[back][rows] for back in backs], axis=1))

    def titles(self, rows: np.ndarray, *, lists: bool = False) -> list[list[str]]:
        """See `Examples`."""
        if not lists:
            return [[self._added[row]] for row in rows]
        if self._histories is None:
            raise InputError("config.ask.recovery: needs the titles of histories")
        return [self._histories[row][::-1] for row in rows]
