"""Processes of several machines meet before they train as one program."""

import os
import re
import socket
import threading
from typing import Any

import jax

from recjax.errors import InputError
from recjax.signals import stopping
from recjax.training.group import Group, join

MOST_PROCESSES = 1 << 20
MEETING = 300.0  # seconds in which all processes start


def start_distributed(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Group:
    """Joins the other processes (`jax.distributed`).

    Clusters that JAX knows (Slurm, TPU pods, GKE, Open MPI) need nothing. Elsewhere the arguments
    say who is who, or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
        coordinator: HOST:PORT of process 0.
        processes: how many there are.
        process: number of this one, from 0.

    Raises:
        InputError: a variable or argument that is no such number, or some of the three are missing
            where no cluster gives them; the others did not come in `MEETING` seconds.
        Stopped: a signal arrived before they have met.
    """
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number("JAX_NUM_PROCESSES", processes)
    index = _number("JAX_PROCESS_ID", process)
    if address is not None:
        named = re.fullmatch(r".+:(\d{1,5})", address)
        if named is None or not 1 <= int(named[1]) < 2**16:
            raise InputError(f"coordinator {address}: expected HOST:PORT, a port of 1 to 65535")
    if count is not None and not 1 <= count <= MOST_PROCESSES:
        raise InputError(f"{count} processes: expected 1 to {MOST_PROCESSES:,}")
    if index is not None and not 0 <= index < (count or MOST_PROCESSES):
        raise InputError(
            f"process {index}: expected a number from 0 to {(count or MOST_PROCESSES) - 1:,}"
        )
    if address is not None and index == 0:
        _check_free(int(address.rpartition(":")[2]))
    with stopping() as stop:
        with stop.at_once():
            _meet(address, count, index)
        stop.install()  # JAX has taken SIGTERM
        if jax.process_count() == 1:
            return Group()
        state = _distributed()
        host = str(state.coordinator_address).rpartition(":")[0].strip("[]")
        with stop.at_once():
            return join(jax.process_index(), jax.process_count(), host, state.client)


def _meet(address: str | None, count: int | None, index: int | None) -> None:
    """`jax.distributed.initialize` in a thread, so that signals arrive and errors are one line."""
    errors: list[BaseException] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(
                address, count, index,
                initialization_timeout=round(MEETING) + 60,  # then JAX ends the process
            )  # fmt: skip
        except BaseException as error:
            errors.append(error)

    meeting = threading.Thread(target=meet, daemon=True)
    meeting.start()
    meeting.join(MEETING)
    if meeting.is_alive():
        where = address or _distributed().coordinator_address
        raise InputError(f"--distributed: {_missing(str(where))} after {MEETING:.0f} s")
    for error in errors:
        if not isinstance(error, RuntimeError | ValueError):
            raise error
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"--distributed: {reason}; expected a cluster that JAX knows, or --coordinator "
            "HOST:PORT, --processes N and --process K on every process"
        ) from None


def _check_free(port: int) -> None:
    """Checks that process 0's port is free: JAX crashes if another program has it."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise InputError(f"coordinator: port {port} of process 0 is not free ({error})") from None


def _missing(address: str) -> str:
    """Says whether process 0 or another one is missing at the coordinator."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError as error:
        return f"process 0 does not answer at {address} ({error})"
    return f"process 0 answers at {address}, but not all processes have come"


def _distributed() -> Any:
    from jax._src import distributed  # the store of keys and values has no public name

    return distributed.global_state


def _number(variable: str, given: int | None) -> int | None:
    text = os.environ.get(variable)
    if given is not None or text is None:
        return given
    if not text.isdecimal():
        raise InputError(f"{variable}={text}: expected a whole number")
    return int(text)
