"""One request over HTTP that ends at one moment, whatever the server does.

A socket's timeout starts again with every byte, so a server that drips holds its client for ever.
Here a timer shuts the connection down, from the first address that is tried to the last byte.
"""

import contextlib
import email.message
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

LARGEST = 1 << 20  # bytes of a body that are read


class Reply(NamedTuple):
    """A server's reply.

    Attributes:
        status: of any kind; redirects are not followed.
        headers: names are of no case.
        content: at most LARGEST + 1 bytes.
    """

    status: int
    headers: email.message.Message
    content: bytes


class Guard:
    """Shuts a request's connections down when its time is over, or when `cut` is called.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float):
        self.over = False
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._handles: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True

    def __enter__(self) -> "Guard":
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def cut(self) -> None:
        """Whoever waits for the connections gets an error now."""
        with self._lock:
            self.over = True
            for handle in self._handles:
                with contextlib.suppress(OSError):  # not connected yet, or no more
                    handle.shutdown(socket.SHUT_RDWR)

    def connect(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """A socket to one of the addresses of (host, port): `http.client` asks for it."""
        failure: OSError = OSError("no address")
        places = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _name, place) in enumerate(places):
            sock = socket.socket(family, kind, protocol)
            try:
                with self._lock:  # a copy: TLS takes the socket itself over
                    self._handles.append(sock.dup())
                sock.settimeout(self._left() / (len(places) - number))
                sock.connect(place)
                sock.settimeout(self._left())
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if self.over or left <= 0:
            raise TimeoutError("timed out")
        return left


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections that a guard knows."""

    def __init__(self, guard: Guard):
        super().__init__()
        self._guard = guard

    def http_open(self, req: Any) -> Any:
        return self.do_open(self._plain, req)  # type: ignore[arg-type]

    def https_open(self, req: Any) -> Any:
        return self.do_open(self._tls, req)  # type: ignore[arg-type]

    def _plain(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._guarded(http.client.HTTPConnection(host, **options))

    def _tls(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._guarded(http.client.HTTPSConnection(host, **options))

    def _guarded(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        connection._create_connection = self._guard.connect  # type: ignore[attr-defined]
        return connection


def _opener(guard: Guard) -> urllib.request.OpenerDirector:
    """One that follows no redirect, for urllib would send the key on to another host."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(guard),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def post(url: str, body: bytes, headers: Mapping[str, str], guard: Guard, seconds: float) -> Reply:
    """Posts a body and reads the reply, as long as the guard lets it.

    Args:
        url: http or https.
        guard: of this request alone; entered.
        seconds: that a server may stay silent, at most.

    Raises:
        OSError, http.client.HTTPException: no connection, no HTTP, a body that ends too early; a
            `TimeoutError` where the guard cut it.
    """
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        try:
            with _opener(guard).open(request, timeout=seconds) as response:
                content = response.read(LARGEST + 1)
                if response.length and len(content) <= LARGEST:
                    raise http.client.IncompleteRead(content, response.length)
                reply = Reply(response.status, response.headers, content)
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, _rest(error))
    except ValueError as error:  # of what urllib cannot read
        raise http.client.HTTPException(str(error)) from None
    except (OSError, http.client.HTTPException):
        if guard.over:
            raise TimeoutError("timed out") from None
        raise
    if guard.over:  # a connection that is shut down looks like one that ended
        raise TimeoutError("timed out")
    return reply


def _rest(error: urllib.error.HTTPError) -> bytes:
    """The body beside a status that is no success, as far as it comes."""
    with error:
        try:
            return error.read(LARGEST)
        except (OSError, http.client.HTTPException):
            return b""
