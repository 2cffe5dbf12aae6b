"""An endpoint over HTTP: a server on loopback that answers, fails and stays silent."""

import email.utils
import http.server
import json
import threading
import time

import pytest

from recjax.errors import InputError
from recjax.scoring import endpoint
from recjax.scoring.endpoint import Endpoint

KEY = "sk-secret-123"


def completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


class Server:
    """Answers with what `reply(body, attempt)` gives: `(status, content[, headers])`.

    Attributes:
        requests: `(path, headers, body)` of each.
    """

    def __init__(self):
        self.requests, self.lock = [], threading.Lock()
        self.active = self.most = 0
        self.reply = lambda body, attempt: (200, completion("Alien"))
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append((self.path, dict(self.headers), body))
                    attempt = sum(seen == body for *_, seen in outer.requests)
                    outer.active += 1
                    outer.most = max(outer.most, outer.active)
                status, content, *headers = outer.reply(body, attempt)
                with outer.lock:
                    outer.active -= 1
                content = content if isinstance(content, bytes) else content.encode()
                try:
                    self.send_response(status)
                    for name, value in (headers[0] if headers else {}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # a client that did not wait

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers), None))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(completion("Alien").encode())

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.01)
    running = Server()
    yield running
    running.close()


def failure(asked, prompts=("Which?",)):
    with pytest.raises(InputError) as caught:
        asked.ask(list(prompts))
    message = str(caught.value)
    assert "\n" not in message and f"{asked.url}/chat/completions" in message
    return message


def test_the_request_and_the_answer(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    server.reply = lambda body, attempt: (200, completion("I would pick **Brazil**."))
    asked = Endpoint(f"{server.url}/", "some-model", api_key_env="SOME_KEY")
    assert asked.ask(["Which?"]) == ["I would pick **Brazil**."]
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert body["model"] == "some-model" and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": "Which?"}]
    assert 32 <= body["max_tokens"] <= 256
    assert KEY not in repr(asked)


def test_no_key_is_sent_where_none_is_named(server):
    Endpoint(server.url, "m").ask(["Which?"])
    assert "Authorization" not in server.requests[0][1]


def test_at_most_so_many_at_a_time(server):
    def reply(body, attempt):
        time.sleep(0.05)
        return 200, completion("Alien")

    server.reply = reply
    asked = [f"Which? {n}" for n in range(12)]
    assert Endpoint(server.url, "m", concurrency=3).ask(asked) == ["Alien"] * 12
    assert 2 <= server.most <= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_recovers(server, status):
    server.reply = lambda body, attempt: (
        (200, completion("Brazil")) if attempt == 3 else (status, "busy")
    )
    assert Endpoint(server.url, "m").ask(["Which?"]) == ["Brazil"]
    assert len(server.requests) == 3


def test_a_server_that_does_not_recover(server):
    server.reply = lambda body, attempt: (500, "oh no")
    message = failure(Endpoint(server.url, "m", retries=2))
    assert message.endswith("status 500, after 3 attempts") and len(server.requests) == 3


def test_waits_double_and_follow_retry_after(server, monkeypatch):
    waits = []
    monkeypatch.setattr(endpoint, "_pause", lambda stop, seconds: waits.append(seconds))
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 1.0)
    asked = {1: {"Retry-After": "7"}, 2: {}, 3: {"Retry-After": "1e9"}, 4: {"Retry-After": "x"}}
    server.reply = lambda body, attempt: (429, "", asked[attempt])
    failure(Endpoint(server.url, "m", retries=3))
    assert waits == [7.0, 2.0, 60.0]
    waits.clear()
    server.requests.clear()
    server.reply = lambda body, attempt: (503, "", {"Retry-After": "soon"})
    failure(Endpoint(server.url, "m", retries=7))
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_a_wait_longer_than_the_time_left_is_not_waited_for(server):
    server.reply = lambda body, attempt: (429, "", {"Retry-After": "1e9"})
    start = time.monotonic()
    message = failure(Endpoint(server.url, "m", timeout=2, retries=3))
    assert message.endswith("status 429, after 1 attempts")
    assert time.monotonic() - start < 5


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 15 < endpoint._retry_after(date) < 21
    assert endpoint._retry_after(email.utils.formatdate(0, usegmt=True)) == 0
    assert endpoint._retry_after("-5") == 0
    assert endpoint._retry_after("1e9") == 60
    wrong_ones = ("nan", "inf", "soon", "Mon, 99 Foo 99999 99:99:99 GMT", "9" * 5000, "\x00", "()")
    for wrong in (None, "", *wrong_ones):
        assert endpoint._retry_after(wrong) is None


@pytest.mark.parametrize("status", [400, 404, 302])
def test_other_statuses_are_not_tried_again(server, status):
    content = json.dumps({"error": {"message": "max_tokens\nis not known"}})
    elsewhere = {"Location": f"{server.url}/other"}
    server.reply = lambda body, attempt: (status, content, elsewhere)
    message = failure(Endpoint(server.url, "m"))
    assert message.endswith(f"status {status} (max_tokens is not known)")
    assert len(server.requests) == 1  # neither again, nor elsewhere with the key


@pytest.mark.parametrize(("status", "told"), [(400, KEY), (401, KEY[:8]), (403, KEY[-8:])])
def test_a_key_is_in_no_error(server, monkeypatch, status, told):
    """Servers that deny the key may tell a part of it."""
    monkeypatch.setenv("SOME_KEY", KEY)
    content = json.dumps({"error": {"message": f"a wrong key: {told}"}})
    server.reply = lambda body, attempt: (status, content)
    message = failure(Endpoint(server.url, "m", api_key_env="SOME_KEY"))
    assert f"status {status} (" in message and told not in message


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY}\n{KEY}", f"{KEY}é"])
def test_a_key_that_is_none(server, monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    asked = Endpoint(server.url, "m", api_key_env="SOME_KEY")
    with pytest.raises(InputError, match="environment variable SOME_KEY: expected a key") as error:
        asked.ask(["Which?"])
    assert KEY not in str(error.value) and not server.requests


@pytest.mark.parametrize(
    "content",
    [
        "<html>",
        b"\xff\xfe{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"text": "Alien"}]}',
        completion(["Alien"]),
    ],
    ids=range(8),
)
def test_answers_of_another_form(server, content):
    server.reply = lambda body, attempt: (200, content)
    assert "expected JSON with choices[0]" in failure(Endpoint(server.url, "m"))
    assert len(server.requests) == 1


def test_a_silent_server(server):
    released = threading.Event()

    def reply(body, attempt):
        released.wait(20)
        return 200, completion("Alien")

    server.reply = reply
    asked = Endpoint(server.url, "m", timeout=0.1, retries=1)
    start = time.monotonic()
    message = failure(asked)
    assert time.monotonic() - start < 10
    released.set()
    assert "timed out, after 2 attempts" in message and len(server.requests) == 2


def test_a_server_that_was_slow_once(server):
    def reply(body, attempt):
        time.sleep(1.0 if attempt == 1 else 0.0)
        return 200, completion("Brazil")

    server.reply = reply
    assert Endpoint(server.url, "m", timeout=0.3).ask(["Which?"]) == ["Brazil"]


def test_nobody_listens(server):
    server.http.server_close()
    message = failure(Endpoint(server.url, "m", retries=1))
    assert "refused, after 2 attempts" in message


def test_the_first_error_ends_all(server):
    """Whoever waits before a retry stops waiting, and what has not begun is not sent."""
    server.reply = lambda body, attempt: (
        (400, "") if body["messages"][0]["content"] == "bad" else (429, "", {"Retry-After": "30"})
    )
    asked = ["bad" if n == 0 else f"slow {n}" for n in range(50)]
    start = time.monotonic()
    assert "status 400" in failure(Endpoint(server.url, "m"), asked)
    assert time.monotonic() - start < 10
    assert len(server.requests) < 50


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:80/v1", "file:///etc/passwd", "http://", "http://host:port/v1",
     f"https://user:{KEY}@host/v1", f"https://host/v1?key={KEY}", "http://a b/v1", "http://[::1/v1",
     "http://host/v1\r\nX: y"],
)  # fmt: skip
def test_urls_that_are_none(url):
    with pytest.raises(InputError, match="expected a URL") as error:
        Endpoint(url, "m")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_timeouts_out_of_range(timeout):
    with pytest.raises(InputError, match="expected 0 < timeout <= 86400 seconds"):
        Endpoint("https://host/v1", "m", timeout=timeout)


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"concurrency": 0}, {"concurrency": 10**6}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(InputError, match="expected retries >= 0 and 1 <= concurrency <= 256"):
        Endpoint("https://host/v1", "m", **wrong)
