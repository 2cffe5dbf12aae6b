"""The texts of constrained decoding: titles of a catalogue, alone or within a forced template.

Host side, numpy. A `Trie` holds the titles as token sequences; a `Template` puts it between literal
tokens, such as "This user has watched <title> in the previous.", and compiles the whole to a
deterministic automaton in CSR form, which `recjax.generate.trie` puts on the device.

A title's end and the text after it are told apart by what follows. Where a longer title goes on
with the very tokens that the template has next ("Alien" and "Alien in the previous life" before
" in the previous."), both readings stay open until they part (subset construction).
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over tokens; it starts at node 0.

    Attributes:
        offsets: [nodes + 1] int32, the edges of a node are offsets[node] .. offsets[node + 1].
        tokens: [edges] int32, rising within a node.
        targets: [edges] int32, the node that each edge leads to.
        final: [nodes] bool, True where the text may end.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    final: np.ndarray


class Trie:
    """Titles by their tokens.

    Nodes are numbered breadth first and by token, so the children of a node follow each other: the
    edge at place e leads to node e + 1. Node 0 is the root.

    Args:
        titles: tokens of each title; a title is named by its place here. Several may be equal.

    Attributes:
        offsets: [nodes + 1] int32, the edges of a node are offsets[node] .. offsets[node + 1].
        tokens: [nodes - 1] int32, of each edge; rising within a node.
        nodes: [titles] int32, where each title ends.

    Raises:
        InputError: no titles, one without tokens, or a negative token.
    """

    def __init__(self, titles: Iterable[Sequence[int]]):
        titles = list(titles)
        lengths = np.array([len(title) for title in titles], np.int64)
        if not lengths.all() or not len(lengths):
            empty = f"title {int(np.argmin(lengths))} has no tokens" if len(lengths) else "none"
            raise InputError(f"titles: {empty}; expected one or more tokens for each title")
        count, width = len(titles), int(lengths.max())
        real = np.arange(width) < lengths[:, None]
        padded = np.full((count, width), -1, np.int32)
        padded[real] = np.fromiter((t for title in titles for t in title), np.int32, lengths.sum())
        if (padded[real] < 0).any():
            raise InputError(f"titles: token {padded[real].min()}; expected tokens from 0 on")
        order = np.lexsort(padded.T[::-1])
        rows, real = padded[order], real[order]
        # Each row has the nodes of the row before up to where the two part, and new ones after.
        differs = rows[1:] != rows[:-1]
        common = np.where(differs.any(1), differs.argmax(1), width)
        new = real & (np.arange(width) >= np.append(0, common)[:, None])
        before = np.append(0, np.cumsum(new.sum(0))[:-1])  # nodes at lower depths, without the root
        node = before + np.cumsum(new, axis=0)  # [titles width]
        depth, row = np.nonzero(new.T)
        parent = np.where(depth > 0, node[row, depth - 1], 0)
        degree = np.bincount(parent, minlength=len(parent) + 1)
        self.offsets = np.append(0, np.cumsum(degree)).astype(np.int32)
        self.tokens = rows[row, depth]
        self.nodes = np.empty(count, np.int32)
        self.nodes[order] = node[np.arange(count), lengths[order] - 1]
        self._by_node = np.argsort(self.nodes, kind="stable")
        self._sorted = self.nodes[self._by_node]

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.offsets) - 1

    @functools.cached_property
    def automaton(self) -> Automaton:
        """The constraint to one title."""
        final = np.zeros(len(self), bool)
        final[self.nodes] = True
        targets = np.arange(1, len(self), dtype=np.int32)
        return Automaton(self.offsets, self.tokens, targets, final)

    def titles_at(self, node: int) -> np.ndarray:
        """The titles [n] that end at a node, in rising order; none for most nodes."""
        first, last = np.searchsorted(self._sorted, [node, node + 1])
        return self._by_node[first:last]

    def walk(self, tokens: Sequence[int]) -> list[int]:
        """The nodes after each of `tokens`, as far as some title begins so."""
        node, out = 0, []
        for token in tokens:
            first, last = self.offsets[node : node + 2]
            place = first + np.searchsorted(self.tokens[first:last], token)
            if place == last or self.tokens[place] != token:
                break
            node = int(place) + 1
            out.append(node)
        return out

    def find(self, tokens: Sequence[int]) -> np.ndarray:
        """The titles [n] with exactly these tokens."""
        nodes = self.walk(tokens)
        is_complete = len(nodes) == len(tokens) > 0
        return self.titles_at(nodes[-1]) if is_complete else self._by_node[:0]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for a title.

    Attributes:
        separator: tokens between titles; with them the slot holds one title or more.
    """

    separator: tuple[int, ...] = ()


class Template:
    """Literal tokens around titles.

    Args:
        trie: of the titles.
        parts: literals (sequences of tokens) and slots in their order; two slots need a literal
            between them. By default one slot: a title and nothing else.

    Attributes:
        automaton: what may be written.

    Raises:
        InputError: no parts, an empty or negative literal, or a slot right after another.
    """

    def __init__(self, trie: Trie, parts: Sequence[Slot | Sequence[int]] = (Slot(),)):
        self.trie = trie
        self.parts = tuple(p if isinstance(p, Slot) else tuple(map(int, p)) for p in parts)
        if not self.parts:
            raise InputError("template: no parts; expected literals and slots")
        for n, part in enumerate(self.parts):
            if isinstance(part, Slot) and n and isinstance(self.parts[n - 1], Slot):
                raise InputError(f"template: parts {n - 1} and {n} are slots; expected a literal")
            if not isinstance(part, Slot) and not part:
                raise InputError(f"template: part {n} is empty; expected tokens or a slot")
            literal = part.separator if isinstance(part, Slot) else part
            if min(literal, default=0) < 0:
                raise InputError(f"template: part {n} is {literal}; expected tokens from 0 on")
        self.automaton = _determinise(*self._edges())

    def parse(self, tokens: Sequence[int]) -> list[np.ndarray] | None:
        """The titles that a text names: for each one, its places [n] in the trie's list.

        Where a text can be read in several ways, the first title is the longest possible, then
        the second, and so on.

        Args:
            tokens: of the text, without the stop token.

        Returns:
            None where the text does not follow the template to its end.
        """
        tokens = tuple(map(int, tokens))

        @functools.cache
        def read(part: int, at: int) -> tuple[int, ...] | None:
            """Nodes of the titles from a part and a place on."""
            if part == len(self.parts):
                return () if at == len(tokens) else None
            piece = self.parts[part]
            if not isinstance(piece, Slot):
                after = at + len(piece)
                return read(part + 1, after) if tokens[at:after] == piece else None
            nodes = self.trie.walk(tokens[at:])
            for length in range(len(nodes), 0, -1):
                if not len(self.trie.titles_at(nodes[length - 1])):
                    continue
                after = at + length
                rest = read(part + 1, after)
                joined = after + len(piece.separator)
                if rest is None and piece.separator and tokens[after:joined] == piece.separator:
                    rest = read(part, joined)
                if rest is not None:
                    return (nodes[length - 1], *rest)
            return None

        nodes = read(0, 0)
        return None if nodes is None else [self.trie.titles_at(node) for node in nodes]

    def _edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Edges (source, token, target) and final nodes; a token may leave a node twice."""
        trie, edges, count = self.trie, [], 1
        parents = np.repeat(np.arange(len(trie)), np.diff(trie.offsets))
        ends = np.unique(trie.nodes)
        opened = np.zeros(1, np.int64)  # nodes where the next part begins

        def chain(starts: np.ndarray, literal: tuple[int, ...], last: int | None) -> int:
            """Adds a literal's edges; it ends at a new node, or at `last`."""
            nonlocal count
            for n, token in enumerate(literal):
                new = last is None or n < len(literal) - 1
                target = count if new else last
                count += new
                edges.append((starts, np.full(len(starts), token), np.full(len(starts), target)))
                starts = np.array([target])
            return int(starts[0])

        for part in self.parts:
            if not isinstance(part, Slot):
                opened = np.array([chain(opened, part, None)])
                continue
            root = int(opened[0])  # the root of this slot's own trie; the others follow `count`
            place = np.append(root, count + np.arange(len(trie) - 1))
            edges.append((place[parents], trie.tokens, place[1:]))
            count += len(trie) - 1
            opened = place[ends]
            if part.separator:
                chain(opened, part.separator, root)
        source, token, target = (np.concatenate(arrays) for arrays in zip(*edges, strict=True))
        final = np.zeros(count, bool)
        final[opened] = True
        return source, token, target, final


def _determinise(
    source: np.ndarray, token: np.ndarray, target: np.ndarray, final: np.ndarray
) -> Automaton:
    """The deterministic automaton of edges, several of which may leave a node by one token."""
    order = np.lexsort((target, token, source))
    source, token, target = source[order], token[order], target[order]
    rows = np.append(0, np.cumsum(np.bincount(source, minlength=len(final))))
    is_repeated = np.append(False, (source[1:] == source[:-1]) & (token[1:] == token[:-1]))
    merged: dict[frozenset[int], int] = {}  # nodes that are open at once -> a node of their own
    open_sets: list[frozenset[int]] = []

    def node(targets: frozenset[int]) -> int:
        if len(targets) == 1:
            return next(iter(targets))
        if targets not in merged:
            merged[targets] = len(final) + len(merged)
            open_sets.append(targets)
        return merged[targets]

    groups = np.flatnonzero(~is_repeated)
    bounds = np.append(groups, len(source))
    out_target = target[groups].copy()
    for n in np.flatnonzero(np.diff(bounds) > 1):
        out_target[n] = node(frozenset(target[bounds[n] : bounds[n + 1]].tolist()))
    new_edges: list[tuple[int, int, int]] = []
    while open_sets:
        members = open_sets.pop()
        leaving: dict[int, set[int]] = {}
        for member in members:
            for place in range(rows[member], rows[member + 1]):
                leaving.setdefault(int(token[place]), set()).add(int(target[place]))
        source_node = merged[members]
        new_edges += [
            (source_node, symbol, node(frozenset(to))) for symbol, to in sorted(leaving.items())
        ]
    added = np.array(new_edges, np.int64).reshape(-1, 3)
    added = added[np.argsort(added[:, 0], kind="stable")]
    source = np.append(source[groups], added[:, 0])
    degree = np.bincount(source, minlength=len(final) + len(merged))
    return Automaton(
        np.append(0, np.cumsum(degree)).astype(np.int32),
        np.append(token[groups], added[:, 1]).astype(np.int32),
        np.append(out_target, added[:, 2]).astype(np.int32),
        np.append(final, [bool(final[list(members)].any()) for members in merged]).astype(bool),
    )
