"""Measures how long the devices wait for the next batch."""

import time
from concurrent.futures import Future, wait
from typing import Any

import jax

_TICK = 0.002  # seconds between two looks at the devices


class InputWait:
    """Adds up the time between the end of a call and the batch of the next one.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def result(self, made: Future, running: Any) -> Any:
        """Waits for the batch, and returns it.

        Args:
            made: the batch, from the thread that makes it.
            running: arrays of the call that the devices work on.
        """
        idle = None
        while not wait([made], timeout=0 if idle is None and _ready(running) else _TICK).done:
            if idle is None and _ready(running):
                idle = time.perf_counter()
        if idle is not None:
            self.seconds += time.perf_counter() - idle
        return made.result()


def _ready(arrays: Any) -> bool:
    """Whether all arrays are computed; numpy's always are."""
    return all(getattr(a, "is_ready", lambda: True)() for a in jax.tree.leaves(arrays))
