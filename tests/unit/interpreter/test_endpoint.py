"""A judge behind HTTP: a server on loopback that answers, declines, fails and stays silent."""

import email.utils
import http.server
import json
import threading
import time

import pytest

from recjax.errors import InputError
from recjax.interpreter import endpoint
from recjax.interpreter.endpoint import EndpointJudge, named_option
from recjax.interpreter.judge import Ballot, Question, hold

OPTIONS = ("Alien", "Brazil", "Cat People")
QUESTION = Question(0, "Which?", OPTIONS)
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


def failure(judge, questions=(QUESTION,)):
    with pytest.raises(InputError) as caught:
        judge(list(questions))
    message = str(caught.value)
    assert "\n" not in message and f"{judge.url}/chat/completions" in message
    return message


def test_the_request_and_the_answer(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    server.reply = lambda body, attempt: (200, completion("I would pick **Brazil**."))
    judge = EndpointJudge(f"{server.url}/", "some-model", api_key_env="JUDGE_KEY")
    assert judge([QUESTION]) == [1]
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert body["model"] == "some-model" and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": "Which?"}]
    assert 32 <= body["max_tokens"] <= 256
    assert KEY not in repr(judge)


def test_no_key_is_sent_where_none_is_named(server):
    EndpointJudge(server.url, "m")([QUESTION])
    assert "Authorization" not in server.requests[0][1]


def test_a_vote_with_a_judge_who_refuses_some(server):
    """Each answer goes to its own ballot, however the requests overlap."""
    sources = ("random", "SASRec", "DreamRec")
    given = [Ballot([f"Film {n}"], dict(zip(sources, OPTIONS, strict=True))) for n in range(12)]

    def reply(body, attempt):
        number = int(body["messages"][0]["content"].split("Film ")[1].split(".")[0])
        time.sleep(0.01 * (number % 3))
        said = ["Cat People, surely.", "Alien or Brazil", None, "cat people"][number % 4]
        return 200, completion(said)

    server.reply = reply
    verdict = hold(given, EndpointJudge(server.url, "m"))
    assert verdict.chosen == (("DreamRec",), (), (), ("DreamRec",)) * 3
    assert verdict.refusals == 6 and verdict.ties == 0
    assert verdict.share("DreamRec").value == 1
    assert verdict.share_of_all("DreamRec").value == 0.5
    assert len(server.requests) == 12


def test_at_most_so_many_at_a_time(server):
    def reply(body, attempt):
        time.sleep(0.05)
        return 200, completion("Alien")

    server.reply = reply
    asked = [Question(n, f"Which? {n}", OPTIONS) for n in range(12)]
    assert EndpointJudge(server.url, "m", concurrency=3)(asked) == [0] * 12
    assert 2 <= server.most <= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_recovers(server, status):
    server.reply = lambda body, attempt: (
        (200, completion("Brazil")) if attempt == 3 else (status, "busy")
    )
    assert EndpointJudge(server.url, "m")([QUESTION]) == [1]
    assert len(server.requests) == 3


def test_a_server_that_does_not_recover(server):
    server.reply = lambda body, attempt: (500, "oh no")
    message = failure(EndpointJudge(server.url, "m", retries=2))
    assert message.endswith("status 500, after 3 attempts") and len(server.requests) == 3


def test_waits_double_and_follow_retry_after(server, monkeypatch):
    waits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    # Only the judge's own event: those of threads are of `threading`.
    shim = type("threading", (), {"Event": Event})
    monkeypatch.setattr(endpoint, "threading", shim)
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 1.0)
    asked = {1: {"Retry-After": "7"}, 2: {}, 3: {"Retry-After": "3600"}, 4: {"Retry-After": "x"}}
    server.reply = lambda body, attempt: (429, "", asked[attempt])
    failure(EndpointJudge(server.url, "m", retries=3))
    assert waits == [7.0, 2.0, 60.0]
    waits.clear()
    server.requests.clear()
    server.reply = lambda body, attempt: (503, "", {"Retry-After": "soon"})
    failure(EndpointJudge(server.url, "m", retries=7))
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 15 < endpoint._retry_after(date) < 21
    assert endpoint._retry_after(email.utils.formatdate(0, usegmt=True)) == 0
    assert endpoint._retry_after("-5") == 0
    for wrong in (None, "", "nan", "inf", "soon"):
        assert endpoint._retry_after(wrong) is None


@pytest.mark.parametrize("status", [400, 404, 302])
def test_other_statuses_are_not_tried_again(server, status):
    content = json.dumps({"error": {"message": "max_tokens\nis not known"}})
    elsewhere = {"Location": f"{server.url}/other"}
    server.reply = lambda body, attempt: (status, content, elsewhere)
    message = failure(EndpointJudge(server.url, "m"))
    assert message.endswith(f"status {status} (max_tokens is not known)")
    assert len(server.requests) == 1  # neither again, nor elsewhere with the key


@pytest.mark.parametrize(("status", "told"), [(400, KEY), (401, KEY[:8]), (403, KEY[-8:])])
def test_a_key_is_in_no_error(server, monkeypatch, status, told):
    """Servers that deny the key may tell a part of it."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    content = json.dumps({"error": {"message": f"a wrong key: {told}"}})
    server.reply = lambda body, attempt: (status, content)
    message = failure(EndpointJudge(server.url, "m", api_key_env="JUDGE_KEY"))
    assert f"status {status} (" in message and told not in message


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY}\n{KEY}", f"{KEY}é"])
def test_a_key_that_is_none(server, monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    judge = EndpointJudge(server.url, "m", api_key_env="JUDGE_KEY")
    with pytest.raises(InputError, match="environment variable JUDGE_KEY: expected a key") as error:
        judge([QUESTION])
    assert KEY not in str(error.value) and not server.requests


@pytest.mark.parametrize(
    "content",
    [
        "<html>",
        "",
        b"\xff\xfe{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"text": "Alien"}]}',
        completion(["Alien"]),
        completion("Alien" + " " * (1 << 20)),
    ],
    ids=range(10),
)
def test_answers_of_another_form(server, content):
    server.reply = lambda body, attempt: (200, content)
    assert "expected JSON with choices[0]" in failure(EndpointJudge(server.url, "m"))
    assert len(server.requests) == 1


def test_a_silent_server(server):
    released = threading.Event()

    def reply(body, attempt):
        released.wait(20)
        return 200, completion("Alien")

    server.reply = reply
    judge = EndpointJudge(server.url, "m", timeout=0.1, retries=1)
    start = time.monotonic()
    message = failure(judge)
    assert time.monotonic() - start < 10
    released.set()
    assert "timed out, after 2 attempts" in message and len(server.requests) == 2


def test_a_server_that_was_slow_once(server):
    def reply(body, attempt):
        time.sleep(1.0 if attempt == 1 else 0.0)
        return 200, completion("Brazil")

    server.reply = reply
    assert EndpointJudge(server.url, "m", timeout=0.3)([QUESTION]) == [1]


def test_nobody_listens(server):
    server.http.server_close()
    message = failure(EndpointJudge(server.url, "m", retries=1))
    assert "refused, after 2 attempts" in message


def test_the_first_error_ends_all(server):
    """Whoever waits before a retry stops waiting, and what has not begun is not sent."""
    server.reply = lambda body, attempt: (
        (400, "") if body["messages"][0]["content"] == "bad" else (429, "", {"Retry-After": "30"})
    )
    asked = [Question(n, "bad" if n == 0 else f"slow {n}", OPTIONS) for n in range(50)]
    start = time.monotonic()
    assert "status 400" in failure(EndpointJudge(server.url, "m"), asked)
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
        EndpointJudge(url, "m")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"retries": -1}, {"concurrency": 0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(InputError, match="expected timeout > 0"):
        EndpointJudge("https://host/v1", "m", **wrong)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Brazil", OPTIONS, 1),
        ("brazil.", OPTIONS, 1),
        ("Based on the history, this person would prefer **Cat People** (1982).", OPTIONS, 2),
        ("I pick Alien: Resurrection!", ("Alien", "Alien Resurrection", "Brazil"), 1),
        ("I pick Alien!", ("Alien", "Alien Resurrection", "Brazil"), 0),
        ("Alien, not Alien Resurrection", ("Alien", "Alien Resurrection"), None),
        ("Alien Resurrection Alien Resurrection", ("Alien", "Alien Resurrection"), 1),
        ("The Omen it is", ("Omen", "Brazil"), 0),
        ("pick the matrix", ("The Matrix", "Brazil"), 0),
        ("Schindler\u2019s List & You", ("Schindlers List and You", "Brazil"), 0),
        ("1984", ("1984", "Brazil"), 0),
        ("???", ("???", "Brazil"), 0),
        ("What???", ("???", "Brazil"), None),
        (".*", ("Alien", "Brazil"), None),
        ("Al.en", ("Al.en (x)", "Alien"), None),
        ("Aliens", OPTIONS, None),
        ("Alien or Brazil", OPTIONS, None),
        ("As a language model I cannot say.", OPTIONS, None),
        ("", OPTIONS, None),
    ],
)
def test_what_an_answer_names(text, options, expected):
    assert named_option(text, options) == expected
