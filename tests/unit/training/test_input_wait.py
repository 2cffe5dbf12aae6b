"""The time in which the devices wait for a batch."""

import threading
from concurrent.futures import Future

import jax.numpy as jnp
import pytest

from recjax.training.input_wait import InputWait


class Running:
    """An array that is computed after so many looks at it."""

    def __init__(self, looks):
        self.looks = looks

    def is_ready(self):
        self.looks -= 1
        return self.looks < 0


def made_after(seconds):
    future = Future()
    threading.Timer(seconds, future.set_result, ["batch"]).start()
    return future


@pytest.mark.parametrize(
    ("running", "least", "most"),
    [
        (jnp.ones(3), 0.15, 0.5),  # at rest all the time
        (Running(10**6), 0.0, 0.0),  # at work all the time
        (Running(20), 0.02, 0.19),  # ready after 20 looks, 2 ms each
    ],
)
def test_only_idle_devices_count(running, least, most):
    waited = InputWait()
    assert waited.result(made_after(0.2), running) == "batch"
    assert least <= waited.seconds <= most


def test_a_batch_that_is_there_costs_nothing_and_an_error_is_raised():
    waited, done, failed = InputWait(), Future(), Future()
    done.set_result("batch")
    assert waited.result(done, jnp.ones(3)) == "batch" and waited.seconds == 0
    failed.set_exception(TimeoutError("of the maker"))
    with pytest.raises(TimeoutError, match="of the maker"):
        waited.result(failed, jnp.ones(3))
