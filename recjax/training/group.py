"""The processes of one run: they agree, watch each other, and end together.

Process 0 listens; every process, itself included, holds a connection to it and sends a sign of life
every two seconds. A process that is killed breaks its connection, one that hangs falls silent: all
others then end with one line that says which process is gone and how to go on. JAX's own heartbeat
takes longer and ends in a stack dump; it stays as a second guard.

    group = join(index, count, host, key_values)
    group.gather("step", 7)          # [7, 7, ...], one value of each process
    group.agreed(wanted=True)        # whether any process wanted it, a call before

One process alone needs no connection: `current()` then is a group of one.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from recjax.errors import InputError, one_line
from recjax.signals import INTERRUPTED, Stopped

BEAT = 2.0  # seconds between signs of life
SILENCE = 20.0  # seconds without one after which a process counts as gone
PATIENCE = 600.0  # seconds that a process waits for the others
_GRACE = 3.0  # seconds in which a process tells an error that another one has told already
_PLACE = "recjax/group"  # in JAX's store of keys and values


class GroupError(RuntimeError):
    """The processes do not agree, or one of them is missing."""


class KeyValues(Protocol):
    """JAX's key-value store, which all processes share."""

    def key_value_set(self, key: str, value: str) -> None: ...

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str: ...


class Group:
    """A group of one process, which agrees with itself.

    Attributes:
        index: of this process.
        count: of all processes.
    """

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count

    def gather(self, name: str, value: Any = None, timeout: float = PATIENCE) -> list[Any]:
        """The values of all processes; returns when each has given its own.

        Args:
            name: of the value. All processes call `gather` equally often by a name; threads may
                gather different names at the same time.
            value: this process's, of JSON's types.
            timeout: seconds.

        Raises:
            GroupError: naming the processes that gave no value in time.
        """
        del name, timeout
        return [value]

    def agreed(self, wanted: bool) -> bool:
        """Whether any process had `wanted` to leave at the call before; the same on all of them.

        All processes call it equally often. The answer to one call arrives while the next one is
        on its way, so it costs no waiting.
        """
        return wanted

    def fail(self, line: str, status: int) -> None:
        """Tells the others that this process ends with an error line and an exit status."""

    def close(self) -> None:
        """Waits for all processes, then ends the connection."""


class _Connection:
    """JSON lines over a socket; several threads may send."""

    def __init__(self, channel: socket.socket):
        channel.settimeout(SILENCE)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel, self._lock = channel, threading.Lock()

    def send(self, **message: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """The other side's messages; they end where the connection does.

        Raises:
            TimeoutError: it was silent for too long.
        """
        try:
            with self._channel.makefile("rb") as file:
                for line in file:
                    yield json.loads(line)
        except TimeoutError:
            raise
        except (OSError, ValueError):
            return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()


class _Hub:
    """Process 0's end of all connections."""

    def __init__(self, count: int):
        dual = socket.has_dualstack_ipv6()
        self._server = socket.create_server(
            ("", 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual
        )
        self.port, self.token = self._server.getsockname()[1], secrets.token_hex(16)
        self._count, self._lock = count, threading.Lock()
        self._members: dict[int, _Connection] = {}
        self._left: set[int] = set()
        self._values: dict[str, dict[int, Any]] = {}
        for work in (self._accept, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                channel, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: socket.socket) -> None:
        connection, index, who, reason = _Connection(channel), None, "", "its connection broke"
        try:
            for message in connection.messages():
                if index is None:
                    if message.get("token") != self.token:
                        break
                    index, who = message["index"], message["who"]
                    with self._lock:
                        self._members[index] = connection
                elif "key" in message:
                    self._gathered(message["key"], index, message["value"])
                elif "failed" in message:
                    self._left.add(index)
                    self._tell(failed=message["failed"], status=message["status"], index=index)
                elif "bye" in message:
                    self._left.add(index)
        except TimeoutError:
            reason = f"no sign of life for {SILENCE:.0f} s"
        if index is not None and index not in self._left:
            self._left.add(index)
            self._tell(gone=index, who=who, reason=reason)
        connection.close()

    def _gathered(self, key: str, index: int, value: Any) -> None:
        with self._lock:
            values = self._values.setdefault(key, {})
            values[index] = value
            if len(values) < self._count:
                return
            del self._values[key]
        self._tell(key=key, values=[values[k] for k in range(self._count)])

    def missing(self, key: str) -> list[int]:
        """Processes that have not given a value."""
        with self._lock:
            return [k for k in range(self._count) if k not in self._values.get(key, {})]

    def _tell(self, **message: Any) -> None:
        with self._lock:
            members = list(self._members.values())
        for member in members:
            member.send(**message)

    def _beat(self) -> None:
        while self._server.fileno() >= 0:
            self._tell(beat=1)
            time.sleep(BEAT)

    def close(self) -> None:
        """Waits until all have left, `2 * BEAT` seconds at the most, then stops listening."""
        end = time.monotonic() + 2 * BEAT
        while len(self._left) < self._count and time.monotonic() < end:
            time.sleep(0.01)
        self._server.close()


class _Joined(Group):
    """One of several processes."""

    def __init__(
        self,
        index: int,
        count: int,
        connection: _Connection,
        token: str,
        hub: _Hub | None,
        end: Callable[[str, int], None],
    ):
        super().__init__(index, count)
        self._connection, self._hub, self._end = connection, hub, end
        self._answers: dict[str, list[Any]] = {}
        self._arrived = threading.Condition()
        self._rounds: Counter[str] = Counter()
        self._leaving = False
        who = f"process {index} (pid {os.getpid()} on {socket.gethostname()})"
        connection.send(index=index, token=token, who=who)
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def _listen(self) -> None:
        reason = "its connection broke"
        try:
            for message in self._connection.messages():
                if "key" in message:
                    with self._arrived:
                        self._answers[message["key"]] = message["values"]
                        self._arrived.notify_all()
                elif "gone" in message and message["gone"] != self.index:
                    self._gone(message["who"], message["reason"])
                elif "failed" in message and message["index"] != self.index:
                    time.sleep(_GRACE)  # most errors meet all processes alike
                    self._leave(
                        f"process {message['index']} ended: {message['failed']}", message["status"]
                    )
        except TimeoutError:
            reason = f"no sign of life for {SILENCE:.0f} s"
        self._gone("process 0", reason)

    def _gone(self, who: str, reason: str) -> None:
        self._leave(
            f"{who} is gone: {reason}; all processes end. Start the same command on all hosts "
            "again: it resumes from the newest checkpoint",
            1,
        )

    def _leave(self, line: str, status: int) -> None:
        with self._arrived:
            if self._leaving:
                return
            self._leaving = True
        self._end(line, status)

    def _beat(self) -> None:
        while not self._leaving:
            self._connection.send(beat=1)
            time.sleep(BEAT)

    def _next(self, name: str) -> int:
        with self._arrived:
            self._rounds[name] += 1
            return self._rounds[name]

    def _wait(self, key: str, name: str, timeout: float) -> list[Any]:
        with self._arrived:
            if self._arrived.wait_for(lambda: key in self._answers, timeout):
                return self._answers.pop(key)
        late = f" of processes {self._hub.missing(key)}" if self._hub else ""
        raise GroupError(f"{name}: no answer{late} after {timeout:.0f} s")

    def gather(self, name: str, value: Any = None, timeout: float = PATIENCE) -> list[Any]:
        key = f"{name}/{self._next(name)}"
        self._connection.send(key=key, value=value)
        return self._wait(key, name, timeout)

    def agreed(self, wanted: bool) -> bool:
        name = "whether to go on"
        number = self._next(name)
        self._connection.send(key=f"{name}/{number}", value=bool(wanted))
        return number > 1 and any(self._wait(f"{name}/{number - 1}", name, PATIENCE))

    def fail(self, line: str, status: int) -> None:
        with self._arrived:
            self._leaving = True
        self._connection.send(failed=line, status=status)

    def close(self) -> None:
        self.gather("the end", timeout=SILENCE)
        with self._arrived:
            self._leaving = True
        self._connection.send(bye=1)
        if self._hub is not None:
            self._hub.close()
        self._connection.close()


def _end(line: str, status: int) -> None:
    """Ends this process at once: its other threads wait for messages that will never come."""
    print(f"recjax: {one_line(line)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def join(
    index: int,
    count: int,
    host: str,
    store: KeyValues,
    end: Callable[[str, int], None] = _end,
) -> Group:
    """Connects a process with the others.

    Args:
        index, count: of this process and of all.
        host: where process 0 is reached.
        store: where process 0 says on which port.
        end: `(line, status)`, ends this process.

    Raises:
        GroupError: process 0 cannot be reached there, or others do not come.
    """
    hub = None
    if index == 0:
        hub = _Hub(count)
        store.key_value_set(_PLACE, json.dumps({"port": hub.port, "token": hub.token}))
        address = {"port": hub.port, "token": hub.token}
        host = "localhost"
    else:
        address = json.loads(store.blocking_key_value_get(_PLACE, int(PATIENCE * 1000)))
    try:
        channel = socket.create_connection((host, address["port"]), timeout=SILENCE)
    except OSError as error:
        raise GroupError(
            f"process 0 at {host}:{address['port']}: cannot be reached ({error}); the processes "
            "need to connect to each other on any port"
        ) from None
    group = _Joined(index, count, _Connection(channel), address["token"], hub, end)
    group.gather("all processes")  # from now on each would be missed
    return group


_current: Group = Group()


def current() -> Group:
    """The group that this process belongs to."""
    return _current


@contextlib.contextmanager
def belonging(group: Group) -> Iterator[Group]:
    """Makes `group` the current one inside the block, and closes it at the end."""
    global _current
    _current = group
    try:
        yield group
        group.close()
    except Stopped as stopped:
        group.fail(f"stopped by {stopped}", INTERRUPTED if stopped.number == signal.SIGINT else 0)
        raise
    except BaseException as error:
        if group.count > 1 and not isinstance(error, InputError):
            time.sleep(_GRACE)  # it may be that another process is gone, which is told elsewhere
        group.fail(f"{one_line(str(error))}", 2 if isinstance(error, InputError) else 1)
        raise
    finally:
        _current = Group()
