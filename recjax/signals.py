"""SIGINT and SIGTERM while something is at work that must not be torn apart.

    with stopping() as stop:
        with stop.at_once():
            read_files()            # interrupted where it is
        for batch in batches:
            step(batch)             # never interrupted; a compiler that is may crash
            if stop.received:
                ...                 # save, and leave

A second SIGINT ends the process at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 128 + signal.SIGINT  # exit status, as shells have it


class Stopped(KeyboardInterrupt):
    """A signal arrived where nothing is lost by leaving.

    Attributes:
        number: the signal.
        status: the exit status of a process that it ends, as shells have it.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number, self.status = number, 128 + number


class Stop:
    """Which signal has arrived.

    Attributes:
        received: its number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._at_once = False

    @property
    def name(self) -> str:
        """Name of the received signal."""
        return "" if self.received is None else signal.Signals(self.received).name

    def check(self, *_: Any) -> None:
        """Raises `Stopped` if a signal has arrived."""
        if self.received is not None:
            raise Stopped(self.received)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A context in which a signal raises `Stopped` when it arrives."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def note(self, number: int, frame: Any) -> None:
        """The signals' handler."""
        del frame
        if self.received is not None:
            if number == signal.SIGINT:
                os.write(2, b"recjax: quit\n")
                os._exit(INTERRUPTED)
            return
        self.received = number
        if self._at_once:
            raise Stopped(number)
        if sys.stderr.isatty():
            os.write(2, b"\nrecjax: stopping as soon as all is saved; Ctrl-C quits at once\n")

    def install(self) -> dict[int, Any]:
        """Takes the signals, also from libraries that have taken them; returns their handlers."""
        return {number: signal.signal(number, self.note) for number in SIGNALS}


_active: Stop | None = None


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Notes SIGINT and SIGTERM; inside of another one, that one. In other threads than the main
    one, which gets no signals, it notes nothing."""
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        yield _active or Stop()
        return
    _active = stop = Stop()
    old = stop.install()
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        _active = None
