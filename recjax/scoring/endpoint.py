"""A language model behind an OpenAI-compatible endpoint, with the standard library alone.

    endpoint = Endpoint("https://api.example.com/v1", "some-model", api_key_env="EXAMPLE_KEY")
    answers = endpoint.ask(["Which of the two?", "And which of these?"])

The key is read from the environment variable when questions are asked. It goes into the header of
the request and nowhere else: not into the object, nor into an error or an answer (a server may send
it back), nor to where a server redirects.
"""

import dataclasses
import email.utils
import http.client
import json
import math
import os
import queue
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recjax.errors import InputError, shorten
from recjax.scoring._http import LARGEST, Guard, Reply, post

Messages = Sequence[Mapping[str, str]]  # each with `role` and `content`
_MAX_TOKENS = 128  # a sentence with a long title
_FIRST_WAIT = 1.0  # seconds before the first retry; doubled before each further one
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_LONGEST_TIMEOUT = 86_400.0  # seconds
_MOST_THREADS = 256
_DENIED = (401, 403)
_FILTERED = ("content_filter", "content_policy_violation")  # codes of an error about one question
_LAST_NUMBER = re.compile(r"[\d.,]+\Z")
_GRACE = 2.0  # seconds after the deadline until a thread is given up (looking up a name may hang)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Asks `POST {url}/chat/completions` at temperature 0.

    Statuses 429 and 5xx, broken connections, bodies cut short and timeouts are tried again, after
    the time that the server's Retry-After asks for or after 1, 2, 4, ... seconds, a minute at most.
    A question that the server's content filter refuses is declined. Everything else ends all
    questions with one error, at once.

    Attributes:
        url: up to and without `/chat/completions`, such as `http://127.0.0.1:8000/v1`.
        model: its name there.
        api_key_env: the environment variable that holds the key; "" sends none.
        timeout: seconds of one attempt, from connecting to the last byte. A question has
            (retries + 1) * timeout seconds for all of its attempts and the waits between them.
        retries: after the first attempt, at most.
        concurrency: questions at a time.

    Raises:
        InputError: another kind of URL, or numbers out of range.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout: float = 60.0
    retries: int = 3
    concurrency: int = 4

    def __post_init__(self):
        try:
            parts = urllib.parse.urlsplit(self.url)
            fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            fine = fine and not (parts.query or parts.fragment) and self.url.isprintable()
        except ValueError:
            fine = False
        if not fine or "@" in self.url or " " in self.url or not self.url.isascii():
            # Not repeated: what does not belong into a URL may be a key.
            raise InputError("endpoint: expected a URL http(s)://HOST[:PORT]/PATH, no key in it")
        if not 0 < self.timeout <= _LONGEST_TIMEOUT:
            raise InputError(f"endpoint: expected 0 < timeout <= {_LONGEST_TIMEOUT:.0f} seconds")
        if self.retries < 0 or not 0 < self.concurrency <= _MOST_THREADS:
            raise InputError(
                f"endpoint: expected retries >= 0 and 1 <= concurrency <= {_MOST_THREADS}"
            )

    def ask(
        self,
        prompts: Sequence[str | Messages],
        *,
        max_tokens: int = _MAX_TOKENS,
        done: Callable[[int, str], None] | None = None,
        names: Sequence[str] = (),
    ) -> list[str]:
        """The answer to each prompt, in their order; "" where the model declines.

        Args:
            prompts: each the one message of a chat, or all of its messages.
            max_tokens: of an answer; one that ends there loses the number at its end, which may be
                half of one.
            names: of the prompts, for errors; by default their numbers.
            done: gets each answer when it is there, with its place among the prompts; so those
                before an error are not lost.

        Raises:
            InputError: one line that names the URL: the status, a connection that fails, an answer
                of another form, and where it is about one prompt, its name; or the variable, where
                it holds no key.
        """
        call = _Call(self, self._key(), max_tokens, names)
        pending: queue.SimpleQueue[tuple[int, str | Messages]] = queue.SimpleQueue()
        for pair in enumerate(prompts):
            pending.put(pair)
        answered: queue.Queue[tuple[int, str | BaseException]] = queue.Queue()
        for _ in range(min(self.concurrency, len(prompts))):
            # Daemons: neither an error nor an interrupt waits for them.
            threading.Thread(target=call.work, args=(pending, answered), daemon=True).start()
        answers: dict[int, str] = {}
        try:
            while len(answers) < len(prompts):
                try:
                    place, answer = answered.get(timeout=0.25)
                except queue.Empty:
                    call.check_time()
                    continue
                if isinstance(answer, BaseException):
                    while done is not None and not answered.empty():
                        place, other = answered.get()
                        if isinstance(other, str):
                            done(place, other)
                    raise answer
                answers[place] = answer
                if done is not None:
                    done(place, answer)
        finally:  # after an error nothing more is sent, and nobody waits
            call.end()
        return [answers[place] for place in range(len(prompts))]

    @property
    def address(self) -> str:
        """URL of the requests."""
        return f"{self.url.rstrip('/')}/chat/completions"

    def _key(self) -> str:
        if not self.api_key_env:
            return ""
        key = os.environ.get(self.api_key_env, "").strip()
        # http.client would quote a key with a line break in its error.
        if not key or not key.isascii() or not key.isprintable():
            raise InputError(f"environment variable {self.api_key_env}: expected a key in it")
        return key


class _Call:
    """One call of `Endpoint.ask`: what its threads share."""

    def __init__(self, endpoint: Endpoint, key: str, max_tokens: int, names: Sequence[str]):
        self._endpoint, self._max_tokens, self._names = endpoint, max_tokens, names
        self._headers = {"Content-Type": "application/json"}
        self._secret: re.Pattern | None = None
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
            forms = {key, urllib.parse.quote(key, safe=""), json.dumps(key)[1:-1]}
            ordered = sorted(map(re.escape, forms), key=len, reverse=True)
            self._secret = re.compile("|".join(ordered), re.IGNORECASE)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._guards: set[Guard] = set()
        self._ends: dict[int, float] = {}

    def work(self, pending: queue.SimpleQueue, done: queue.Queue) -> None:
        """Asks until nothing is left to ask."""
        while not self._stop.is_set():
            try:
                place, prompt = pending.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((place, self._ask(place, prompt)))
            except BaseException as error:
                done.put((place, error))
                return
            finally:
                with self._lock:
                    self._ends.pop(place, None)

    def end(self) -> None:
        """Wakes all threads; each ends with an error that nobody reads."""
        self._stop.set()
        with self._lock:
            for guard in self._guards:
                guard.cut()

    def check_time(self) -> None:
        """Raises where a question's time is long over: its thread hangs where nothing wakes it."""
        with self._lock:
            late = any(time.monotonic() > end + _GRACE for end in self._ends.values())
        if late:
            raise self._failed("timed out")

    def _ask(self, place: int, prompt: str | Messages) -> str:
        """The answer to one prompt."""
        one = isinstance(prompt, str)
        body = json.dumps({
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}] if one else [*prompt],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }).encode()  # fmt: skip
        endpoint = self._endpoint
        end = time.monotonic() + endpoint.timeout * (endpoint.retries + 1)
        with self._lock:
            self._ends[place] = end
        for attempt in range(endpoint.retries + 1):
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT, endpoint.timeout)
            # Errors are made outside of `except`: those of the library may hold what a server says.
            reply, reason = self._post(body, min(endpoint.timeout, end - time.monotonic()))
            if reply is not None and (reply.status == 429 or reply.status >= 500):
                reason = f"status {reply.status}"
                asked = _retry_after(reply.headers.get("Retry-After"))
                wait = wait if asked is None else asked
            elif reply is not None and _at(reply.content, "error", "code") in _FILTERED:
                return ""
            elif reply is not None and not 200 <= reply.status < 300:
                where = "" if reply.status in _DENIED else self._name(place)
                raise self._failed(f"{where}status {reply.status}{_told(reply)}")
            elif reply is not None and _is_cut(reply.content):
                reason = "an answer that was cut short"
            elif reply is not None:
                return self._text(reply.content, place)
            if attempt == endpoint.retries or wait >= end - time.monotonic():
                break
            if _pause(self._stop, wait):
                break
        raise self._failed(f"{reason}, after {attempt + 1} attempts")

    def _post(self, body: bytes, seconds: float) -> tuple[Reply | None, str]:
        """The reply; or None, and why there is none."""
        if seconds <= 0:
            return None, "timed out"
        with Guard(seconds) as guard:
            with self._lock:
                self._guards.add(guard)
            try:
                if self._stop.is_set():
                    return None, "ended"
                return post(self._endpoint.address, body, self._headers, guard, seconds), ""
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, http.client.IncompleteRead):
                    return None, "an answer that was cut short"
                cause = getattr(error, "reason", error)
                return None, str(cause) or type(cause).__name__
            finally:
                with self._lock:
                    self._guards.discard(guard)

    def _text(self, content: bytes, place: int) -> str:
        """The text in a response; one without text (a model that declines) is ""."""
        if len(content) > LARGEST:
            raise self._failed(f"{self._name(place)}an answer of more than {LARGEST:,} bytes")
        text = _at(content, "choices", 0, "message", "content")
        if text is not None and not isinstance(text, str):
            form = "JSON with choices[0].message.content"
            raise self._failed(f"{self._name(place)}an answer of another form, expected {form}")
        if _at(content, "choices", 0, "finish_reason") == "length":
            text = _LAST_NUMBER.sub("", text or "")
        return self._clean(text or "")

    def _name(self, place: int) -> str:
        return f"{self._names[place] if self._names else f'question {place + 1}'}: "

    def _failed(self, reason: str) -> InputError:
        reason = shorten(self._clean(" ".join(reason.split())))
        return InputError(f"{self._clean(self._endpoint.address)}: {reason}")

    def _clean(self, text: str) -> str:
        """Text without the key."""
        return self._secret.sub("***", text) if self._secret else text


def _pause(stop: threading.Event, seconds: float) -> bool:
    """Waits; True where it was told to stop."""
    return stop.wait(seconds)


def _at(content: bytes, *path: str | int) -> Any:
    """The value of JSON at a path; ... where there is none, or where it is no JSON."""
    try:
        value = json.loads(content)
        for key in path:
            value = value[key]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ...
    return value


def _is_cut(content: bytes) -> bool:
    """Whether a body is empty or the beginning of a JSON object: its length is not always told."""
    known, content = len(content), content.strip()
    return known <= LARGEST and content[:1] in b"{" and content[-1:] != b"}"


def _told(reply: Reply) -> str:
    """A server's words about an error; none where it is about the key."""
    if reply.status in _DENIED:
        return " (is the key right?)"
    message = _at(reply.content, "error", "message")
    return f" ({message})" if isinstance(message, str) and message else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds from a header (seconds or a date), at most a minute; None where it has neither."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, TypeError, LookupError, ArithmeticError, OSError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None
