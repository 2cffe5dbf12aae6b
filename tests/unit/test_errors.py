"""Messages: one line, of bounded length, that no terminal obeys."""

import pickle
import re

import pytest

from recjax.errors import InputError, TrainingStopped, one_line, printable, run_script, shorten
from recjax.ranges import FieldError

HOSTILE = {
    "\x1b[2J\x1b]0;title\x07": r"\x1b[2J\x1b]0;title\x07",
    "a\nrecjax: done": r"a\nrecjax: done",
    "a\r\t\x00\x08\x7fb": r"a\r\t\x00\x08\x7fb",
    "\x9b31m\x85": r"\x9b31m\x85",
    "a\u2028b\u2029": r"a\u2028b\u2029",
    "\u202etxt.exe\u202c \u2066x\u2069": r"\u202etxt.exe\u202c \u2066x\u2069",
    "half \ud83d of a pair": r"half \ud83d of a pair",
}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_terminals_obey_is_spelled(text):
    assert printable(text) == HOSTILE[text]
    assert printable(printable(text)) == printable(text)
    assert str(InputError(f"title {text!s}: bad")) == f"title {HOSTILE[text]}: bad"


@pytest.mark.parametrize(
    "text",
    [
        "Amélie (2001)",
        "e\u0301",
        "千と千尋の神隠し",
        "नमस्ते",
        "\u200f\u05e9\u05dc",
        "\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f3f4\U000e0067\U000e007f",
        "C:\\x1b",
    ],
)
def test_text_of_all_scripts_stays(text):
    assert printable(text) == text


def test_long_texts_lose_their_middle():
    assert shorten("x" * 200) == "x" * 200
    short = shorten("a" * 5000 + "b" * 5000)
    assert len(short) <= 200
    assert re.fullmatch(r"a{100,} \.\.\. \(10,000 characters\) \.\.\. b{40,}", short)


def test_an_error_keeps_both_ends_whatever_it_repeats():
    key = "\x1b" * 10_000_000
    error = InputError(f"log.csv:7: item '{key}'; expected one of the catalogue")
    text = str(error)
    assert len(text) <= 1000 and "\x1b" not in text
    assert text.startswith("log.csv:7: item '") and text.endswith("one of the catalogue")
    assert one_line(text) == text == str(pickle.loads(pickle.dumps(error)))


def test_exceptions_travel_between_processes():
    for error in (FieldError("dim", "7 is odd"), TrainingStopped("runs/mine: stopped", 12)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_script_ends_with_one_line(capsys):
    for status, expected in ((3, 3), (None, None)):
        with pytest.raises(SystemExit) as end:
            run_script(lambda status=status: status)
        assert end.value.code == expected

    def fails():
        raise InputError("log.csv: no such file")

    with pytest.raises(SystemExit) as end:
        run_script(fails)
    assert end.value.code == 2 and capsys.readouterr().err == "recjax: log.csv: no such file\n"
