"""Processes that do not meet: one line, at once or after a stated time."""

import contextlib
import os
import signal
import socket
import threading

import jax
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.signals import Stopped
from recjax.training import claim, meeting, parallel, workdir
from recjax.training.group import Group, belonging
from recjax.training.meeting import start_distributed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:80", 0, 0), "0 processes: expected 1 to 1,048,576"),
        (("localhost:80", 2**40, 0), "1099511627776 processes: expected 1 to 1,048,576"),
        (("localhost:80", 2, 2), "process 2: expected a number from 0 to 1"),
        (("localhost:80", 2, -1), "process -1: expected a number from 0 to 1"),
        (("localhost", 2, 1), "coordinator localhost: expected HOST:PORT"),
        (("localhost:0", 2, 1), "coordinator localhost:0: expected HOST:PORT, a port of 1 to 6"),
        (("localhost:65536", 2, 1), "coordinator localhost:65536: expected HOST:PORT"),
    ],
)
def test_bad_numbers(given, message):
    with pytest.raises(InputError, match=message):
        start_distributed(*given)


@pytest.fixture
def alone(monkeypatch):
    """JAX's part never ends: the others do not come."""
    there = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: there.wait())
    yield
    there.set()


def test_a_port_that_another_program_has(alone):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=f"coordinator: port {port} of process 0 is not free"):
            start_distributed(f"localhost:{port}", 2, 0)


def test_the_others_do_not_come(alone, monkeypatch):
    monkeypatch.setattr(meeting, "MEETING", 0.2)
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        message = f"process 0 answers at {address}, but not all processes have come after 0 s"
        with pytest.raises(InputError, match=message):
            start_distributed(address, 2, 1)
    with pytest.raises(InputError, match=f"process 0 does not answer at {address} .* after 0 s"):
        start_distributed(address, 2, 1)


def test_a_signal_ends_the_waiting(alone):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped, match="SIGTERM"):
        start_distributed("localhost:1", 2, 1)


def test_an_error_of_jax_is_one_line(monkeypatch):
    def fails(*_, **__):
        raise ValueError("No cluster\nis here.")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(InputError, match="--distributed: No cluster is here; expected a cluster"):
        start_distributed()


class _Device:
    def __init__(self, process):
        self.process_index = process


class _Mesh:
    """Devices of processes, by their numbers, on the axes data, fsdp and tensor."""

    def __init__(self, processes, shape):
        self.devices = np.array([_Device(k) for k in processes]).reshape(shape)
        self.shape = dict(zip(parallel.MESH_AXES, shape, strict=True))


@pytest.mark.parametrize(
    ("processes", "shape", "of_process"),
    [
        ((0, 0, 1, 1), (4, 1, 1), {0: (2, (0, 2)), 1: (2, (1, 2))}),
        ((0, 0, 1, 1), (1, 2, 2), {0: (1, (0, 2)), 1: (1, (1, 2))}),
        ((0, 0, 1, 1), (1, 1, 4), {0: (1, (0, 1)), 1: (1, (0, 1))}),  # both hold all rows
        ((0, 1, 2, 3), (1, 2, 2), {1: (1, (0, 2)), 2: (1, (1, 2))}),  # pairs hold the same rows
        ((0, 1, 0, 1), (4, 1, 1), {0: (2, (0, 2)), 1: (2, (1, 2))}),  # as a pod may order them
    ],
)
def test_each_process_makes_the_rows_of_its_devices(monkeypatch, processes, shape, of_process):
    for process, (rows, part) in of_process.items():
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found = parallel.rows_of_process(_Mesh(processes, shape), 3)
        assert found == {"row_multiple": 3 * rows, "process": part}


@pytest.mark.parametrize(
    ("processes", "shape", "sizes"),
    [((0, 0, 1), (3, 1, 1), (2, 1)), ((0, 0, 1, 1, 1, 1), (1, 2, 3), (2, 4))],
)
def test_processes_of_other_sizes_are_refused(monkeypatch, processes, shape, sizes):
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    said = r"\(process 0 has {}, process 1 has {} devices\)".format(*sizes)
    with pytest.raises(InputError, match=said):
        parallel.rows_of_process(_Mesh(processes, shape))


class _Second(Group):
    """Process 1 of two; the first gave these values."""

    def __init__(self, **first):
        super().__init__(1, 2)
        self.first = first

    def gather(self, name, value=None, timeout=0.0):
        return [self.first.get(name.replace(" ", "_"), value), value]


def test_processes_see_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "_SEEN", 0.0)
    with belonging(_Second(the_workdir=[0, True])):
        with pytest.raises(InputError, match="run: process 1 does not see there what process 0 ha"):
            claim.Claim(tmp_path / "run")
        (tmp_path / "run").mkdir()  # another one
        with pytest.raises(InputError, match="expected a folder that all hosts share"):
            claim.Claim(tmp_path / "run")
        (tmp_path / "run" / ".lock").touch()
        assert claim.Claim(tmp_path / "run").folder == tmp_path / "run"


@pytest.mark.parametrize(
    ("rate", "data", "message"),
    [
        (0.5, "abc", r"process 1 has another config \(optim.rate\) than process 0; start the same"),
        (1.0, "abd", "process 1 has other data than process 0"),
        (1.0, "abc", None),
    ],
)
def test_processes_have_one_config_and_the_same_data(rate, data, message):
    first = [{"optim": {"rate": 1.0}, "data": {"store": "/a"}}, "abc"]
    own = {"optim": {"rate": rate}, "data": {"store": "/b"}}
    refused = pytest.raises(InputError, match=message) if message else contextlib.nullcontext()
    with belonging(_Second(the_config_and_the_data=first)), refused:
        workdir._check_alike(own, data, ("data.store",))
