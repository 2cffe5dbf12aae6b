"""Processes that agree and watch each other; here each is a thread."""

import socket
import threading
import time

import pytest

from recjax.training import group as groups
from recjax.training.group import Group, GroupError, belonging, current, join


class Store:
    """JAX's keys and values."""

    def __init__(self):
        self.values, self.there = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self.there:
            self.values[key] = value
            self.there.notify_all()

    def blocking_key_value_get(self, key, timeout_ms):
        with self.there:
            assert self.there.wait_for(lambda: key in self.values, timeout_ms / 1000)
        return self.values[key]


@pytest.fixture
def joined(monkeypatch):
    """`joined(count) -> (groups, ends)`: the lines with which processes would have ended."""
    monkeypatch.setattr(groups, "_GRACE", 0.05)
    monkeypatch.setattr(groups, "BEAT", 0.05)
    ends, all_groups = {}, []

    def make(count):
        store, found = Store(), {}

        def one(index):
            found[index] = join(
                index, count, "localhost", store,
                lambda line, status: ends.setdefault(index, (line, status)),
            )  # fmt: skip

        on_each(range(count), one)
        all_groups.extend(found.values())
        return [found[k] for k in range(count)], ends

    yield make
    for one in all_groups:
        one._leaving = True
        one._connection.close()
        if one._hub:
            one._hub._server.close()


def on_each(things, function):
    """In threads; returns the results."""
    out = {}
    threads = [
        threading.Thread(target=lambda k=k, x=x: out.__setitem__(k, function(x)), daemon=True)
        for k, x in enumerate(things)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return [out[k] for k in range(len(threads))]


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_values_of_all(joined):
    all_groups, ends = joined(3)
    assert on_each(all_groups, lambda g: g.gather("x", g.index * 2)) == [[0, 2, 4]] * 3
    assert on_each(all_groups, lambda g: g.gather("y")) == [[None] * 3] * 3
    on_each(all_groups, lambda g: g.close())
    time.sleep(0.2)
    assert not ends, "an orderly end is no loss"


def test_all_leave_at_the_same_call(joined):
    """One of them wanted to: the answer comes a call later, for all."""
    all_groups, _ = joined(3)
    calls = on_each(all_groups, lambda g: [g.agreed(g.index == 1 and k >= 2) for k in range(5)])
    assert calls == [[False, False, False, True, True]] * 3


def test_a_killed_process_is_named_to_all_others(joined):
    all_groups, ends = joined(3)
    all_groups[2]._connection.close()
    all_groups[2]._leaving = True
    until(lambda: {0, 1} <= ends.keys())
    for index in (0, 1):
        line, status = ends[index]
        assert line.startswith("process 2 (pid ") and status == 1
        assert "is gone: its connection broke" in line and "resumes from the newest" in line


def test_process_0_is_missed_too(joined):
    all_groups, ends = joined(2)
    all_groups[0]._hub._members[1].close()
    until(lambda: 1 in ends)
    assert ends[1][0].startswith("process 0 is gone: its connection broke")


def test_silence(joined, monkeypatch):
    monkeypatch.setattr(groups, "SILENCE", 0.5)
    all_groups, ends = joined(2)
    monkeypatch.setattr(all_groups[1]._connection, "send", lambda **message: None)
    until(lambda: 0 in ends)
    assert "is gone: no sign of life for 0 s" in ends[0][0]


def test_an_error_of_one_ends_all(joined):
    all_groups, ends = joined(2)
    with pytest.raises(ValueError, match="broken"), belonging(all_groups[1]):
        assert current() is all_groups[1]
        raise ValueError("broken")
    until(lambda: 0 in ends)
    assert ends == {0: ("process 1 ended: broken", 1)}
    assert current().count == 1


def test_who_is_late_is_named(joined):
    all_groups, _ = joined(2)
    with pytest.raises(GroupError, match=r"the rope: no answer of processes \[1\] after 0 s"):
        all_groups[0].gather("the rope", timeout=0.2)


def test_strangers_are_no_members(joined):
    (group, _), ends = joined(2)
    with socket.create_connection(("localhost", group._hub.port)) as stranger:
        stranger.sendall(b'{"index": 1, "token": "guess", "who": "x"}\nnonsense\n')
    with socket.create_connection(("localhost", group._hub.port)) as stranger:
        stranger.sendall(b"\xff\xfe\n")
    time.sleep(0.2)
    assert not ends and set(group._hub._members) == {0, 1}


def test_a_process_alone_agrees_with_itself():
    alone = Group()
    assert alone.gather("x", 3) == [3]
    assert alone.agreed(True) and not alone.agreed(False)
    with belonging(alone):
        assert current() is alone


def test_process_0_cannot_be_reached():
    store = Store()
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    store.key_value_set(groups._PLACE, f'{{"port": {port}, "token": ""}}')
    with pytest.raises(GroupError, match=f"process 0 at localhost:{port}: cannot be reached"):
        join(1, 2, "localhost", store)
