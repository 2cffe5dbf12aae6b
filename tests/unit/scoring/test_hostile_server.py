"""An endpoint whose server writes its own bytes: it drips, cuts, floods, sends the key back."""

import contextlib
import itertools
import json
import os
import signal
import socket
import threading
import time
import traceback

import pytest

from recjax.errors import InputError
from recjax.scoring import endpoint
from recjax.scoring.endpoint import Endpoint

KEY = "sk-secret/123+x"
ANSWER = json.dumps({"choices": [{"message": {"content": "Alien"}}]}).encode()
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
TIMEOUT = 0.25


class Server:
    """Answers connection after connection with the bytes that `script(number)` yields."""

    def __init__(self, script):
        self.script, self.connections, self.ended = script, 0, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.threads, self.open = [], []
        self._begin(self._accept)

    def _begin(self, target, *args):
        self.threads.append(threading.Thread(target=target, args=args, daemon=True))
        self.threads[-1].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(connection)
            self._begin(self._serve, connection, self.connections)

    def _serve(self, connection, number):
        with connection:
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    part = connection.recv(65536)
                    if not part:
                        return  # the client has gone, without a request or in the midst of TLS
                    data += part
                for part in self.script(number):
                    if self.ended.is_set():
                        return
                    connection.sendall(part)
            except OSError:
                pass  # a client that did not wait

    def close(self):
        """All threads end: one that went on reading would take half of all later tests' time."""
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()
        for connection in self.open:
            with contextlib.suppress(OSError):  # closed
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.01)
    running = []

    def start(script):
        running.append(Server(script))
        return running[-1]

    yield start
    for server in running:
        server.close()


def failure(server, prompts=("Which?",), **options):
    """The error's text, once it has come in time."""
    options = {"timeout": TIMEOUT, "retries": 1, "api_key_env": "SOME_KEY"} | options
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        Endpoint(server.url, "m", **options).ask(list(prompts))
    assert time.monotonic() - start < options["timeout"] * (options["retries"] + 1) + 1.5
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    everything = str(error) + "".join(traceback.format_exception(error))
    assert "secret" not in everything.lower() and "\x1b" not in everything
    return str(error)


def slowly(text, pause=0.02):
    for byte in text:
        yield bytes([byte])
        time.sleep(pause)


DRIPS = {
    "silence": lambda number: iter(lambda: time.sleep(0.05) or b"", None),
    "status line": lambda number: slowly(b"HTTP/1.1 200 OK" + b" " * 500),
    "header": lambda number: slowly(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500),
    "headers": lambda number: itertools.chain([b"HTTP/1.1 200 OK\r\n"], slowly(b"X: y\r\n" * 90)),
    "body": lambda number: itertools.chain(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"], slowly(ANSWER + b" " * 900)
    ),
    "body of no length": lambda number: itertools.chain(
        [b"HTTP/1.1 200 OK\r\n\r\n"], slowly(ANSWER + b" " * 900)
    ),
    "chunks": lambda number: itertools.chain(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], slowly(b"1\r\n \r\n" * 200)
    ),
    "100 continue, slowly": lambda number: iter(
        lambda: time.sleep(0.02) or b"HTTP/1.1 100 Continue\r\n\r\n", None
    ),
    "100 continue": lambda number: itertools.repeat(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 50),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_server_that_never_ends(serve, kind):
    server = serve(DRIPS[kind])
    assert "timed out, after 2 attempts" in failure(server)
    assert server.connections == 2


def test_a_server_that_never_speaks_tls(serve):
    server = serve(DRIPS["silence"])
    server.url = server.url.replace("http:", "https:")
    assert "timed out, after 2 attempts" in failure(server)


def test_an_error_that_drips_is_known_by_its_status(serve):
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\n"
    server = serve(lambda number: itertools.chain([head], slowly(b"x" * 1000)))
    assert failure(server).endswith("status 404")


CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + ANSWER,
    "length, nothing": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + ANSWER,
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER[:20],
    "header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "status line": b"HTTP/1.",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", CUT)
def test_what_was_cut_short_is_asked_again(serve, kind):
    server = serve(lambda number: [CUT[kind] if number < 3 else GOOD])
    assert Endpoint(server.url, "m", timeout=5).ask(["Which?"]) == ["Alien"]
    assert server.connections == 3
    server = serve(lambda number: [CUT[kind]])
    assert "after 2 attempts" in failure(server)


@pytest.mark.parametrize(
    "head", [b"", b"Content-Length: 999999999999999\r\n", b"Content-Length: -1\r\n"]
)
def test_an_endless_body_is_read_in_part(serve, head):
    script = itertools.chain(
        [b"HTTP/1.1 200 OK\r\n" + head + b"\r\n{"], itertools.repeat(b"x" * 65536)
    )
    message = failure(serve(lambda number: script), timeout=10)
    assert "an answer of more than 1,048,576 bytes" in message


@pytest.mark.parametrize("line", [b"X: " + b"x" * 65536 + b"\r\n", b"X: y\r\n" * 100])
def test_headers_without_end(serve, line):
    script = itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(line))
    message = failure(serve(lambda number: script), timeout=2, retries=0)
    assert "got more than" in message


ECHOES = {
    "no status line": b"%s\r\n\r\n",
    "status": b"HTTP/1.1 %s OK\r\n\r\n",
    "reason": b"HTTP/1.1 500 %s\r\n\r\n",
    "reason of an error": b"HTTP/1.1 418 \x1b[2J%s\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://[%s\r\nContent-Length: 0\r\n\r\n",
    "scheme": b"HTTP/1.1 301 Found\r\nLocation: file:///%s\r\nContent-Length: 0\r\n\r\n",
    "message": b'HTTP/1.1 400 Bad\r\n\r\n{"error": {"message": "not \x1b[2J %s"}}',
    "long message": b'HTTP/1.1 400 Bad\r\n\r\n{"error": {"message": "' + b"x" * 125 + b'%s"}}',
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n{}",
    "retry": b"HTTP/1.1 429 Busy\r\nRetry-After: %s\r\n\r\n",
    "denied": b'HTTP/1.1 401 %s\r\n\r\n{"error": {"message": "%s"}}',
}


@pytest.mark.parametrize("kind", ECHOES)
@pytest.mark.parametrize("spelled", [KEY, KEY.upper(), "sk-secret%2F123%2Bx"])
def test_a_key_that_comes_back_is_in_no_error(serve, kind, spelled):
    text = ECHOES[kind].replace(b"%s", spelled.encode())
    failure(serve(lambda number: [text]))


def test_a_key_that_comes_back_is_in_no_answer(serve):
    body = json.dumps({"choices": [{"message": {"content": f"You sent {KEY}."}}]}).encode()
    text = b"HTTP/1.1 200 OK\r\n\r\n" + body
    server = serve(lambda number: [text])
    assert Endpoint(server.url, "m", "SOME_KEY").ask(["Which?"]) == ["You sent ***."]


def test_the_first_error_waits_for_nobody(serve):
    """The first question is denied, three others drip for as long as they may."""

    def script(number):
        if number < 4:
            return DRIPS["body"](number)
        return [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]

    start = time.monotonic()
    message = failure(serve(script), prompts=map(str, range(20)), timeout=20)
    assert message.endswith("status 404") and time.monotonic() - start < 5


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also where this process was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_for_nobody(serve):
    server = serve(DRIPS["body"])
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Endpoint(server.url, "m", timeout=20).ask(["Which?"])
    assert time.monotonic() - start < 5


def test_a_name_that_is_never_found(monkeypatch):
    """Nothing wakes a thread that looks a name up; the call ends without it."""
    released = threading.Event()
    monkeypatch.setattr(endpoint, "_GRACE", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(30))
    start = time.monotonic()
    with pytest.raises(InputError, match="http://model.invalid/v1/chat/completions: timed out"):
        Endpoint("http://model.invalid/v1", "m", timeout=0.2, retries=0).ask(["Which?"])
    assert time.monotonic() - start < 5
    released.set()
