"""The states of a form: whether tokens that a model writes freely keep to it, token by token.

    states = form_states(form, ends)
    walked = states.walk(tokens)                         # [N T], inside a jitted function
    walked.chosen, walked.whole                          # the options, and which answers are whole

An answer leaves the form at its first token that the form does not allow there; nothing after that
is read. This reading is the strictest one, and the role of every token is known. A model that keeps
to the form writes the text of `Form.text`.

Letters: N rows, T tokens, S states, K edges of a state, A places, R options, W tokens of a text.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.scoring.form_tokens import FormTokens
from recjax.typing import Array


class Walked(NamedTuple):
    """The reading of N rows of tokens by a form.

    Attributes:
        at: [N T] the state before each token.
        real: [N T] bool, tokens up to the answer's end, or to the one that leaves the form.
        kept: [N T] bool, real tokens that the form has there.
        choice: [N T] bool, real tokens of which an option is made; the others belong to the words.
        chosen: [N A] the options, -1 where none is read.
        whole: [N] bool, answers that are read to their end.
    """

    at: Array
    real: Array
    kept: Array
    choice: Array
    chosen: Array
    whole: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FormStates:
    """A form as an automaton; state 0 begins, state S is its end, S + 1 is off the form.

    Attributes:
        tokens: [S+2 K] that a state allows, -1 fills up.
        targets: [S+2 K] the states that they lead to.
        options: [S+2 K] the option that is complete with the token, or -1.
        place: [S+2] the place whose option a state belongs to, or -1.
        table: [A R W] the words before each place and an option, as tokens.
        used: [A R W] bool, the tokens of `table` there are.
        end: a token that ends an answer.
    """

    tokens: Array
    targets: Array
    options: Array
    place: Array
    table: Array
    used: Array
    end: int = dataclasses.field(metadata={"static": True})

    @property
    def count(self) -> int:
        """S."""
        return len(self.place) - 2

    @property
    def longest(self) -> int:
        """Tokens of the longest answer, its end among them."""
        return int(np.asarray(self.used).sum(-1).max(-1).sum()) + 1

    def walk(self, tokens: Array) -> Walked:
        """Reads answers [N T] up to their ends."""
        places, form = jnp.arange(self.table.shape[0]), jax.tree.map(jnp.asarray, self)

        def step(carry: tuple[Array, Array], token: Array) -> tuple[tuple[Array, Array], tuple]:
            at, chosen = carry
            allowed = form.tokens[at] == token[:, None]
            inside, edge = at < self.count, allowed.argmax(-1)
            kept = allowed.any(-1) & inside
            to = jnp.where(kept, form.targets[at, edge], self.count + 1)
            option = jnp.where(kept, form.options[at, edge], -1)
            is_chosen = (form.place[at][:, None] == places) & (option >= 0)[:, None]
            chosen = jnp.where(is_chosen, option[:, None], chosen)
            return (jnp.where(inside, to, at), chosen), (at, kept)

        rows = len(tokens)
        start = (jnp.zeros(rows, jnp.int32), jnp.full((rows, len(places)), -1, jnp.int32))
        (last, chosen), (at, kept) = jax.lax.scan(step, start, tokens.T)
        at, kept = at.T, kept.T
        real = at < self.count
        choice = real & (form.place[at] >= 0)
        return Walked(at, real, kept, choice, chosen, last == self.count)

    def write(self, chosen: Array) -> tuple[Array, Array]:
        """The tokens [N T] of whole answers with these options [N A], and which are real."""
        rows, places = jnp.arange(self.table.shape[0]), len(chosen)
        tokens = jnp.asarray(self.table)[rows, chosen].reshape(places, -1)
        real = jnp.asarray(self.used)[rows, chosen].reshape(places, -1)
        order = jnp.argsort(~real, axis=1, stable=True)[:, : self.longest - 1]
        tokens, real = (jnp.take_along_axis(a, order, axis=1) for a in (tokens, real))
        count = real.sum(1, keepdims=True)
        tokens, real = (jnp.pad(a, ((0, 0), (0, 1))) for a in (tokens, real))
        at_end = jnp.arange(tokens.shape[1]) == count
        return jnp.where(at_end, self.end, jnp.where(real, tokens, 0)), real | at_end


def form_states(form: FormTokens, ends: list[int]) -> FormStates:
    """The states of a form.

    Args:
        form: as tokens.
        ends: tokens of which one ends an answer; the first is the one that `write` takes.
    """
    words, options = form.words, form.options
    whole = {tuple(option): r for r, option in enumerate(options)}
    inner: list[tuple[int, ...]] = [(), *form.inner]
    names: list[tuple] = []
    for a, word in enumerate(words):
        names += [(a, i) for i in range(len(word))] + [(a, node) for node in inner]
    names.append((len(words), 0))
    number = {name: n for n, name in enumerate(names)}
    last = len(names)  # S, the end

    def after(a: int) -> list[tuple[int, int]]:
        """The tokens that may follow the option at place a, and where they lead."""
        if a + 1 == len(words):
            return [(token, last) for token in ends]
        return [(words[a + 1][0], number[a + 1, 1 if len(words[a + 1]) > 1 else ()])]

    edges: list[list[tuple[int, int, int]]] = []
    for a, name in names:
        if a == len(words):
            edges.append([(token, last, -1) for token in ends])
        elif isinstance(name, int):
            to = number[a, name + 1 if name + 1 < len(words[a]) else ()]
            edges.append([(words[a][name], to, -1)])
        else:
            leaving = []
            for token in form.following(name):
                below = (*name, token)
                if below in inner:
                    leaving.append((token, number[a, below], -1))
                else:
                    leaving.append((token, number[(a + 1, 0)], whole[below]))
            if name in whole:  # an option that begins another one, as "1" begins "10"
                leaving += [(token, to, whole[name]) for token, to in after(a)]
            edges.append(leaving)
    width = max(map(len, edges))
    arrays = np.full((3, last + 2, width), -1, np.int32)
    for state, leaving in enumerate(edges):
        for k, edge in enumerate(leaving):
            arrays[:, state, k] = edge
    place = [a if isinstance(name, tuple) else -1 for a, name in names] + [-1, -1]
    room = max(map(len, words)) + max(map(len, options))
    table = np.zeros((len(words), len(options), room), np.int32)
    used = np.zeros(table.shape, bool)
    for a, word in enumerate(words):
        for r, option in enumerate(options):
            text = [*word, *option]
            table[a, r, : len(text)], used[a, r, : len(text)] = text, True
    tokens, targets, complete = arrays
    places = np.array(place, np.int32)
    return FormStates(tokens, targets, complete, places, table, used, ends[0])  # type: ignore[arg-type]
