"""A judge behind an OpenAI-compatible endpoint, with the standard library alone.

    judge = EndpointJudge("https://api.example.com/v1", "some-model", api_key_env="EXAMPLE_KEY")
    verdict = hold(ballots, judge)

The key is read from the environment variable when questions are asked. It goes into the header of
the request and nowhere else: not into the object, nor into an error, nor to where a server
redirects.
"""

import dataclasses
import email.utils
import http.client
import json
import math
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recjax.errors import InputError
from recjax.evaluation.titles import normalise
from recjax.interpreter.judge import Choice, Question

_MAX_TOKENS = 128  # a sentence with a long title
_FIRST_WAIT = 1.0  # seconds before the first retry; doubled before each further one
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_LARGEST = 1 << 20  # bytes of an answer that are read
_DENIED = (401, 403)


@dataclasses.dataclass(frozen=True)
class EndpointJudge:
    """Asks `POST {url}/chat/completions` at temperature 0; what the answer names is the choice.

    See `named_option` for how answers are read. Statuses 429 and 5xx, broken connections and
    timeouts are tried again, after the time that the server's Retry-After asks for or after 1, 2,
    4, ... seconds, a minute at most. Everything else ends the ballots with one error.

    Attributes:
        url: up to and without `/chat/completions`, such as `http://127.0.0.1:8000/v1`.
        model: its name there.
        api_key_env: the environment variable that holds the key; "" sends none.
        timeout: seconds that a server may stay silent.
        retries: after the first attempt.
        concurrency: questions at a time.

    Raises:
        InputError: another kind of URL, or numbers out of range. When called, one line that names
            the URL: the status, a connection that fails, an answer of another form; or the
            variable, where it is not set.
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
        if not fine or "@" in self.url or " " in self.url:
            # Not repeated: what does not belong into a URL may be a key.
            raise InputError("judge: expected a URL http(s)://HOST[:PORT]/PATH without a key in it")
        if not self.timeout > 0 or self.retries < 0 or self.concurrency < 1:
            raise InputError("judge: expected timeout > 0, retries >= 0 and concurrency >= 1")

    def __call__(self, questions: Sequence[Question]) -> list[Choice]:
        headers = {"Content-Type": "application/json", **self._authorization()}
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = [pool.submit(self._ask, q.prompt, headers, stop) for q in questions]
            try:
                texts = [future.result() for future in asked]
            finally:  # after an error nothing more is sent
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        named = [named_option(t, q.options) for t, q in zip(texts, questions, strict=True)]
        return ["refusal" if place is None else place for place in named]

    @property
    def _address(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"

    def _authorization(self) -> dict[str, str]:
        if not self.api_key_env:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        # http.client would quote a key with a line break in its error.
        if not key or not key.isascii() or not key.isprintable():
            raise InputError(f"environment variable {self.api_key_env}: expected a key in it")
        return {"Authorization": f"Bearer {key}"}

    def _ask(self, prompt: str, headers: dict[str, str], stop: threading.Event) -> str:
        """The answer to one prompt."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }
        request = urllib.request.Request(
            self._address, json.dumps(body).encode(), headers, method="POST"
        )
        opener = urllib.request.build_opener(_NoRedirect)
        for attempt in range(self.retries + 1):
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
            try:
                with opener.open(request, timeout=self.timeout) as response:
                    content = response.read(_LARGEST)
                return self._read(content)
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"status {error.code}"
                    if error.code != 429 and error.code < 500:
                        told = _told(error, headers.get("Authorization", ""))
                        raise InputError(self._failed(reason + told)) from None
                    asked = _retry_after(error.headers.get("Retry-After"))
                    wait = wait if asked is None else asked
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)
                reason = str(cause) or type(cause).__name__
            if attempt < self.retries and stop.wait(wait):
                break
        raise InputError(self._failed(f"{reason}, after {attempt + 1} attempts"))

    def _read(self, content: bytes) -> str:
        """The text in a response; one without text (a model that declines) is ""."""
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            text = 0
        if text is not None and not isinstance(text, str):
            form = "JSON with choices[0].message.content"
            raise InputError(self._failed(f"an answer of another form, expected {form}"))
        return text or ""

    def _failed(self, reason: str) -> str:
        return f"{self._address}: {' '.join(reason.split())}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would send the key on to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _told(error: urllib.error.HTTPError, authorization: str) -> str:
    """What a server says of an error, in brief; nothing where it is about the key."""
    if error.code in _DENIED:
        return " (is the key right?)"
    try:
        message = str(json.loads(error.read(_LARGEST))["error"]["message"])
    except (ValueError, LookupError, TypeError, RecursionError, OSError, http.client.HTTPException):
        return ""
    key = authorization.removeprefix("Bearer ")
    return f" ({(message.replace(key, '***') if key else message)[:200]})"


def _retry_after(value: str | None) -> float | None:
    """Seconds from a header (seconds or a date), at most a minute; None where it has neither."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value or "").timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None


def named_option(text: str, options: Sequence[str]) -> int | None:
    """Which option a text names, or None: it names none, or several.

    Text and titles are compared in their normal forms, whole words only, also inside a sentence.
    Longer titles are looked for first and taken out of the text, so that "Alien" is not found in
    "Alien Resurrection". A title of marks alone ("???") must be the whole answer. A title that is
    an everyday word ("It") is found where the word is meant: nothing tells the two apart.

    >>> named_option("I would pick Alien: Resurrection.", ["Alien", "Alien Resurrection"])
    1
    """
    left = f" {normalise(text)} "
    found = []
    for place, name in sorted(enumerate(map(normalise, options)), key=lambda pair: -len(pair[1])):
        if f" {name} " in left:
            found.append(place)
            while f" {name} " in left:  # twice over a shared blank, too
                left = left.replace(f" {name} ", " | ")
    return found[0] if len(found) == 1 else None
