"""Entities in texts, and the inner positions that RecSysLLM gives them.

An entity (an item's title, an attribute) is read and written as a whole. Where a text is read, the
tokens of an entity that stands whole in it have 1, 2, ..., and all others 0. Where a text is
written, nothing after a token is known yet, so one rule holds in training and generation (Chu et
al. 2023, "Positional Encoding" and Figure 2): `<sop>` has 1 and the token after it 2; then the
position grows while the tokens since its last start, or since `<sop>`, still begin some entity, and
else starts at 1 again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recjax.data.ragged import row_starts
from recjax.errors import InputError
from recjax.generate.templates import Trie
from recjax.ranges import short


def _are_ids(entity: Any) -> bool:
    """Whether an entity is a list or an array of integers."""
    if isinstance(entity, np.ndarray):
        return entity.ndim == 1 and entity.dtype.kind in "iu"
    return isinstance(entity, list | tuple) and all(
        isinstance(token, int | np.integer) and not isinstance(token, bool) for token in entity
    )


class EntityPool:
    """The entities of a task, as a trie of their tokens.

    Args:
        entities: tokens of each; several may be equal.
        sop: the token that begins a span.
        context: T of the model, which no entity may be longer than.

    Attributes:
        trie: the entities.
        sop: as given.
        longest: tokens of the longest entity.
        root: [highest first token + 2] the node that a token leads to from the root, 0 = none.

    Raises:
        InputError: no entity, one that is no list of integers, without tokens or longer than the
            context, or one that holds `sop`.
    """

    def __init__(self, entities: Sequence[Sequence[int]], sop: int, context: int):
        if not isinstance(entities, Sequence | np.ndarray) or isinstance(entities, str):
            raise InputError("entity pool: expected a list of entities, each a list of token ids")
        if not len(entities):
            raise InputError("entity pool: empty; expected one entity or more")
        for number, entity in enumerate(entities):
            if not _are_ids(entity):
                raise InputError(
                    f"entity pool: entity {number} is {short(entity)}; expected a list of token ids"
                )
            if not 0 < len(entity) <= context:
                raise InputError(
                    f"entity pool: entity {number} has {len(entity)} tokens; expected 1 to "
                    f"{context}, the length of the context"
                )
            bad = sop if sop in entity else min(entity)
            if bad < 0 or bad == sop:
                raise InputError(
                    f"entity pool: entity {number} has token {bad}; expected none below 0, and "
                    f"not the one that begins a span ({sop})"
                )
        self.sop = int(sop)
        self.longest = max(map(len, entities))
        self.trie = Trie(entities)
        self._final = np.zeros(len(self.trie), bool)
        self._final[self.trie.nodes] = True
        heads = self.trie.tokens[: self.trie.offsets[1]]
        self.root = np.zeros(int(heads.max()) + 2, np.int64)
        self.root[heads] = 1 + np.arange(len(heads))
        # The edge at place e leads to node e + 1; its key is its node and token, and keys rise.
        source = np.repeat(np.arange(len(self.trie)), np.diff(self.trie.offsets))
        self._keys = (source << 32) + self.trie.tokens

    def first(self, tokens: np.ndarray) -> np.ndarray:
        """The nodes [n] that tokens [n] lead to from the root, or 0."""
        return self.root[np.minimum(tokens, len(self.root) - 1)]

    def child(self, node: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The nodes [n] that tokens [n] lead to from nodes [n], or 0."""
        keys = (node.astype(np.int64) << 32) + tokens
        place = np.searchsorted(self._keys, keys)
        there = self._keys[np.minimum(place, len(self._keys) - 1)] == keys
        return np.where(there, place + 1, 0)

    def read(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Inner positions of texts that are read: 1, 2, ... in an entity, 0 elsewhere.

        Of entities that overlap, the one that begins first counts, and of these the longest.

        Args:
            tokens: [n] of all texts, one after the other.
            lengths: [B] of each text.

        Returns:
            [n] int32.
        """
        total = len(tokens)
        stop = np.repeat(np.cumsum(lengths), lengths)
        node = self.first(tokens)
        begin, node = np.flatnonzero(node), node[node > 0]
        size = np.zeros(total, np.int64)
        for depth in range(1, self.longest + 1):
            size[begin[self._final[node]]] = depth
            inside = begin + depth < stop[begin]
            begin, node = begin[inside], node[inside]
            node = self.child(node, tokens[begin + depth])
            begin, node = begin[node > 0], node[node > 0]
            if not len(begin):
                break
        out = np.zeros(total, np.int32)
        free = 0
        for place in np.flatnonzero(size):
            if place >= free:
                free = place + size[place]
                out[place:free] = np.arange(1, size[place] + 1)
        return out

    def written(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Inner positions of texts that are written, by the rule at the head of this module.

        Args:
            tokens: [n] of all texts, one after the other; each begins with `sop`, or goes on as if
                after a token of no entity.
            lengths: [B] of each text.

        Returns:
            [n] int32.
        """
        out = np.zeros(len(tokens), np.int32)
        order = np.argsort(-lengths, kind="stable")
        first, lengths = row_starts(lengths)[order], lengths[order]
        node, inner = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
        started = np.zeros(len(order), bool)  # the token before was `sop`
        for place in range(int(lengths[0]) if len(lengths) else 0):
            count = int(np.searchsorted(-lengths, -place))  # texts that are longer than `place`
            node, inner, started = node[:count], inner[:count], started[:count]
            token = tokens[first[:count] + place]
            after = np.zeros(count, np.int64)
            within = np.flatnonzero(node)
            after[within] = self.child(node[within], token[within])
            sop = token == self.sop
            grows = ((after > 0) | started) & ~sop
            node = np.where(sop, 0, np.where(after > 0, after, self.first(token)))
            inner = np.where(grows, inner + 1, 1)
            started = sop
            out[first[:count] + place] = inner
        return out
