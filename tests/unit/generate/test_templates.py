"""Tries and templates: against sets of sequences, written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.errors import InputError
from recjax.generate.templates import Slot, Template, Trie

ALIEN, ALIENS, HEAT, HEAT_AGAIN = (5, 6), (5, 6, 7), (8,), (8,)
TITLES = [ALIEN, ALIENS, HEAT, HEAT_AGAIN]
titles = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8)


def language(automaton, longest):
    """All texts up to a length that lead from node 0 to a final node."""
    out, open_nodes = set(), [((), 0)]
    for _ in range(longest + 1):
        out |= {text for text, node in open_nodes if automaton.final[node]}
        open_nodes = [
            ((*text, int(automaton.tokens[e])), int(automaton.targets[e]))
            for text, node in open_nodes
            for e in range(automaton.offsets[node], automaton.offsets[node + 1])
        ]
    return out


def is_deterministic(automaton):
    """Every node's tokens rise, and every node can be reached at most by what is there."""
    pairs = zip(automaton.offsets[:-1], automaton.offsets[1:], strict=True)
    return all((np.diff(automaton.tokens[a:b]) > 0).all() for a, b in pairs)


def test_a_small_trie_by_hand():
    trie = Trie(TITLES)
    assert len(trie) == 5 and trie.offsets.tolist() == [0, 2, 3, 3, 4, 4]
    assert trie.tokens.tolist() == [5, 8, 6, 7]
    assert trie.nodes.tolist() == [3, 4, 2, 2]
    assert trie.find(ALIEN).tolist() == [0] and trie.find(ALIENS).tolist() == [1]
    assert trie.find(HEAT).tolist() == [2, 3]  # one title, two items
    for tokens in ((), (5,), (6,), (5, 6, 7, 7), (9,)):
        assert trie.find(tokens).size == 0
    assert trie.walk((5, 6, 9, 7)) == [1, 3]


@settings(deadline=None, max_examples=150)
@given(titles, st.lists(st.integers(0, 4), max_size=5))
def test_a_trie_is_the_set_of_its_titles(titles, other):
    trie = Trie(titles)
    prefixes = {tuple(t[:n]) for t in titles for n in range(len(t) + 1)}
    assert len(trie) == len(prefixes)
    for tokens in [*titles, other]:
        assert trie.find(tokens).tolist() == [n for n, t in enumerate(titles) if t == tokens]
        longest = max(n for n in range(len(tokens) + 1) if tuple(tokens[:n]) in prefixes)
        assert len(trie.walk(tokens)) == longest
    assert language(Template(trie).automaton, 4) == {tuple(t) for t in titles}


@settings(deadline=None, max_examples=150)
@given(
    titles,
    st.lists(st.integers(0, 3), min_size=1, max_size=2),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
def test_a_template_is_its_sentences(titles, before, after):
    """Titles and literals of the same few tokens: every clash of an end and a continuation."""
    template = Template(Trie(titles), [before, Slot(), after])
    sentences = {(*before, *title, *after) for title in titles}
    assert language(template.automaton, 9) == sentences
    assert is_deterministic(template.automaton)
    for sentence in sentences:
        (found,) = template.parse(sentence)
        named = {tuple(titles[n]) for n in found}
        assert len(named) == 1 and (*before, *named.pop(), *after) == sentence
    assert template.parse(before) is None and template.parse((*before, *after)) is None


@settings(deadline=None, max_examples=80)
@given(titles, st.lists(st.integers(0, 3), min_size=1, max_size=2), st.integers(0, 3))
def test_several_titles(titles, separator, end):
    trie = Trie(titles)
    template = Template(trie, [Slot(tuple(separator)), [end]])
    expected, texts = set(), {tuple(t) for t in titles}
    for _ in range(4):
        expected |= {(*text, end) for text in texts}
        texts = {(*a, *separator, *b) for a in texts for b in map(tuple, titles)}
    short = {text for text in expected if len(text) <= 7}
    assert language(template.automaton, 7) == short
    assert is_deterministic(template.automaton)
    for text in short:
        found = [tuple(titles[one[0]]) for one in template.parse(text)]
        joined = list(found[0])
        for title in found[1:]:
            joined += [*separator, *title]
        assert (*joined, end) == text


def test_two_slots_and_who_was_named():
    template = Template(Trie(TITLES), [[1], Slot(), [2, 3], Slot(), [4]])
    assert language(template.automaton, 10) == {
        (1, *a, 2, 3, *b, 4) for a, b in itertools.product(TITLES, TITLES)
    }
    named = template.parse([1, *ALIENS, 2, 3, *HEAT, 4])
    assert [n.tolist() for n in named] == [[1], [2, 3]]
    assert template.parse([1, *ALIENS, 2, 3, *HEAT]) is None
    assert template.parse([1, 9, 2, 3, *HEAT, 4]) is None


def test_an_ambiguous_text_names_the_longest_title():
    """[5], [5 6 5] with 6 between: 5 6 5 is one title or two."""
    template = Template(Trie([[5], [5, 6, 5]]), [Slot((6,))])
    assert [n.tolist() for n in template.parse([5, 6, 5])] == [[1]]
    assert [n.tolist() for n in template.parse([5, 6, 5, 6, 5])] == [[1], [0]]


def test_bad_input():
    with pytest.raises(InputError, match="titles: none"):
        Trie([])
    with pytest.raises(InputError, match="title 1 has no tokens"):
        Trie([[1], [], [2]])
    with pytest.raises(InputError, match="token -4"):
        Trie([[1], [3, -4]])
    trie = Trie(TITLES)
    for parts, message in (
        ([], "no parts"),
        ([[1], []], "part 1 is empty"),
        ([[1, -2], Slot()], "part 0 is .1, -2."),
        ([Slot((-1,))], "part 0 is .-1,."),
        ([Slot(), Slot()], "parts 0 and 1 are slots"),
    ):
        with pytest.raises(InputError, match=message):
            Template(trie, parts)
