"""Tries on the device: of every node, what may follow and where it leads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.generate import trie as module
from recjax.generate.templates import Automaton, Slot, Template, Trie
from recjax.generate.trie import on_device


@functools.partial(jax.jit, static_argnames="vocab")
def tables(device, nodes, vocab):
    """Of nodes [n]: the mask [n V] and the children [n V]; those of the root [V]."""
    every = jnp.arange(vocab)
    mask = device.masked(nodes, jnp.zeros((len(nodes), vocab))) == 0
    follow = jax.vmap(lambda token: device.child(nodes, token + 0 * nodes))
    return mask, follow(every).T, device.begin(every)


def agrees(automaton, vocab, device):
    """Every node beside the edges of the automaton, every token; also nodes of padding."""
    count = len(automaton.final)
    expected = np.full((device.off + 1, vocab), -1)
    source = np.repeat(np.arange(count), np.diff(automaton.offsets))
    expected[source, automaton.tokens] = automaton.targets
    mask, children, first = tables(device, jnp.arange(device.off + 1), vocab)
    np.testing.assert_array_equal(mask, expected >= 0)
    np.testing.assert_array_equal(children, expected)
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(device.final[:count], automaton.final)


@pytest.mark.parametrize(("vocab", "short"), [(31, 1), (32, 32), (33, 4), (100, 8)])
def test_a_random_trie(monkeypatch, vocab, short):
    """Vocabularies around a word's 32 bits; nodes of many edges, and of few."""
    monkeypatch.setattr(module, "_SHORT", short)
    rng = np.random.default_rng(vocab)
    titles = [rng.integers(0, vocab, rng.integers(1, 4)).tolist() for _ in range(150)]
    automaton = Trie(titles).automaton
    device = on_device(automaton, vocab)
    degrees = np.diff(automaton.offsets)
    assert device.short == short and int(device.long.max()) == max((degrees > short).sum(), 1)
    agrees(automaton, vocab, device)


titles = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=10, deadline=None)
@given(titles, st.sampled_from([(Slot(),), ((2, 1), Slot((3,)), (1,))]))
def test_templates(listed, parts):
    template = Template(Trie(listed), parts)
    agrees(template.automaton, 4, on_device(template.automaton, 4))


def test_bits_stay_small(monkeypatch):
    """Where they would take too much, more edges are read one by one."""
    monkeypatch.setattr(module, "_SHORT", 1)
    monkeypatch.setattr(module, "_BITS", 4 * 4 * 2)
    rng = np.random.default_rng(0)
    automaton = Trie(rng.integers(0, 100, (300, 3)).tolist()).automaton
    device = on_device(automaton, 100)
    assert device.short > 1 and int(device.long.max()) <= 2
    agrees(automaton, 100, device)


def test_the_whole_vocabulary_at_the_root():
    """Every bit of every word, the highest, too."""
    one = Automaton(
        np.array([0, 64, *[64] * 64], np.int32), np.arange(64, dtype=np.int32),
        np.arange(1, 65, dtype=np.int32), np.arange(65) > 0,
    )  # fmt: skip
    agrees(one, 64, on_device(one, 64))
