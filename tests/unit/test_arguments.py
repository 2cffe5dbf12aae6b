"""Flags' values: whole numbers in their range."""

import pytest

from recjax.arguments import Parser, count, positive
from recjax.errors import InputError


def test_whole_numbers():
    parser = Parser()
    parser.add_argument("--n", type=count)
    parser.add_argument("--m", type=positive)
    args = parser.parse_args(["--n=0", "--m=07"])
    assert (args.n, args.m) == (0, 7)
    for flag, least in (("--m=0", 1), ("--n=-1", 0), ("--n=1.0", 0), ("--m=", 1), ("--n=²", 0)):
        with pytest.raises(InputError, match=f"{flag[:3]}: expected a whole number from {least}"):
            parser.parse_args([flag])
