"""Exceptions: "the input is wrong", as opposed to "recjax is wrong", and "a signal stopped this".

And text that a terminal shows as text, for messages repeat what files and servers hold.
"""

import re
import sys
from collections.abc import Callable
from typing import NoReturn

# Control characters, marks that reverse the direction of what follows, further line breaks, and
# halves of surrogate pairs. Marks that scripts and emoji need (joiners, variation selectors) stay.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 1000  # characters of a message


def printable(text: str) -> str:
    r"""Text in one line that no terminal obeys: control characters are spelled, as Python does.

    Letters of all scripts, combining marks and emoji stay. Applied twice, it changes nothing more.

    >>> printable("Alien\x1b[2J\nrecjax: done")
    'Alien\\x1b[2J\\nrecjax: done'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten(text: str, longest: int = 200, known: int | None = None) -> str:
    """Text with its middle left out where it has more characters than `longest`.

    What is left has at most that many: the first two thirds, how many there were (`known`, or as
    many as the text has), the end.
    """
    if len(text) <= longest:
        return text
    gap = f" ... ({known or len(text):,} characters) ... "
    room = longest - len(gap)
    end = room // 3
    return text[: room - end] + gap + text[len(text) - end :]


def one_line(text: str) -> str:
    """A message as a terminal gets it: `printable`, and 1000 characters at most."""
    known = len(text)
    if known > 2 * _LONGEST:  # what `shorten` leaves out need not be spelled
        text = text[:_LONGEST] + text[-_LONGEST:]
    return shorten(printable(text), _LONGEST, known)


class InputError(ValueError):
    """Bad input or bad usage.

    The message is `one_line`, whatever it repeats, that names the file (and line), key or value
    at fault and says what was expected. The command line prints it without a traceback and exits
    with status 2.
    """

    def __init__(self, message: str = ""):
        super().__init__(one_line(message))


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Calls a script's `main` and exits with the status that it returns (None: 0).

    Bad input ends it as it ends the command: with one line and status 2.
    """
    try:
        raise SystemExit(main())
    except InputError as error:
        print(f"recjax: {error}", file=sys.stderr)
        raise SystemExit(2) from None


class TrainingStopped(SystemExit):
    """SIGINT or SIGTERM stopped a training early; what it had is saved.

    Uncaught, it ends the program with its one line and status 1: nothing after the training takes
    half of it for the whole.

    Attributes:
        step: of the last checkpoint.
    """

    def __init__(self, message: str, step: int = 0):
        super().__init__(one_line(message))
        self.step = step
