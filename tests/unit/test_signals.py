"""Signals are noted where leaving would tear something apart, and obeyed elsewhere."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from recjax.signals import Stopped, stopping


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted(number):
    before = signal.getsignal(number)
    with stopping() as stop, stopping() as inner:
        assert inner is stop and stop.received is None
        stop.check()
        send(number)
        assert (stop.received, stop.name) == (number, signal.Signals(number).name)
        send(signal.SIGTERM)  # schedulers repeat themselves
        with pytest.raises(Stopped, match=stop.name):
            stop.check()
        with pytest.raises(Stopped), stop.at_once():
            raise AssertionError("it had arrived before")
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_once(number):
    with stopping() as stop:
        with pytest.raises(Stopped) as info, stop.at_once():
            send(number)
            raise AssertionError("it went on")
        assert info.value.number == number and isinstance(info.value, KeyboardInterrupt)


def test_other_threads_get_no_signals():
    seen = []

    def work():
        with stopping() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_second_sigint_ends_the_process():
    code = """
import os, signal
from recjax.signals import stopping
with stopping():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "recjax: quit\n")


@pytest.mark.parametrize("module", ["recjax.cli", "recjax.interpreter.command"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_is_imported(number, module):
    code = f"""
import os, runpy, sys
class Sender:
    def find_spec(self, name, *rest):
        if name == "{module}":
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Sender())
sys.argv = ["recjax", "--help"]
runpy.run_module("recjax", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = f"recjax: stopped by {signal.Signals(number).name}\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", said)
