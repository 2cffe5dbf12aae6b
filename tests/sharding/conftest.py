"""Reads compiled programs."""

import pytest

from recjax.training.hlo import Program


@pytest.fixture
def program():
    """`program(function, *given, **named)`: a call on one device."""
    return lambda function, *given, **named: Program(function.lower(*given, **named).compile())
