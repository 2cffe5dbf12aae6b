"""The interpreted data: a recommender's states of histories, and the titles they stand for.

Letters: n examples, B of them, L positions and D width of the states.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.frozen import Windows
from recjax.typing import Array


class Examples(Protocol):
    """n histories, each with the states before and after its newest item.

    `backs` and `lists` are those of a `recjax.text.tasks.Task`.
    """

    def __len__(self) -> int: ...

    def states(self, rows: np.ndarray, backs: Sequence[int] = (0,)) -> Array:
        """States [B n L D] of the histories, each without its newest 0 or 1 items (`backs`)."""
        ...

    def titles(self, rows: np.ndarray, *, lists: bool = False) -> list[list[str]]:
        """The newest item's title, or with `lists` all titles of the history, newest first."""
        ...


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
    """Checks states, and gives them as float32 [B L D].

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
