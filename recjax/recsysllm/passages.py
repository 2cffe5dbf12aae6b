"""Texts whose entities are marked: what behaviour, profiles and tasks become before tokens.

A piece is plain text or an entity. Each entity is a piece of its own, and its tokens are always
those of a blank and its name, so they are the same in every text, in the entity pool and in
constrained decoding, whatever stands beside it.

    fill("Has watched {titles}.", {"titles": ("Alien", "Heat")})
    # (Piece("Has watched"), Piece("Alien", True), Piece(","), Piece("Heat", True), Piece("."))
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from recjax.errors import InputError
from recjax.text.tokenizers import Tokenizer

PLACE = re.compile(r"\{(\w+)\}")
_MOST_PLAIN = 1 << 16  # plain pieces whose tokens are kept


class Piece(NamedTuple):
    """Part of a text; an entity's blank before it is its own and not in `text`."""

    text: str
    entity: bool = False


Pieces = tuple[Piece, ...]
# What a place is filled with: plain text, names of entities with commas between them, or pieces.
Value = str | tuple[str, ...] | Pieces


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text to learn from.

    Attributes:
        kind: its name in the names of metrics.
        pieces: what is read.
        answer: what is written in the blank at its end; None where blanks are drawn.
        long: the blank is `[gMASK]`, else `[MASK]`.
        prompt: id of the template; "" without one.
        sources: places in the store's flat `items` that the text tells of.
        options: names of the candidates, where there are some.
    """

    kind: str
    pieces: Pieces
    answer: Pieces | None = None
    long: bool = False
    prompt: str = ""
    sources: tuple[int, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The read pieces as text."""
        return plain(self.pieces)


def plain(pieces: Iterable[Piece]) -> str:
    """Pieces as text."""
    return "".join(f" {p.text}" if p.entity else p.text for p in pieces).lstrip()


def named(names: Sequence[str]) -> Pieces:
    """Entities in a row, with commas between them."""
    out: list[Piece] = []
    for name in names:
        out += [Piece(","), Piece(name, True)] if out else [Piece(name, True)]
    return tuple(out)


def joined(pieces: Iterable[Piece]) -> Pieces:
    """The same text, with plain pieces beside each other made one."""
    out: list[Piece] = []
    for piece in pieces:
        if out and not (piece.entity or out[-1].entity):
            out[-1] = Piece(out[-1].text + piece.text)
        elif piece.entity or piece.text:
            out.append(piece)
    return tuple(out)


def _pieces(value: tuple[str, ...] | Pieces) -> Pieces:
    given = tuple(part for part in value if isinstance(part, Piece))
    return given or named([str(name) for name in value])


def fill(template: str, values: Mapping[str, Value], where: str = "template") -> Pieces:
    """A template with its places filled; the blank before an entity becomes the entity's own.

    Args:
        template: with places such as `{titles}`.
        values: by place; more than are asked for do not matter.
        where: what the template is, for errors.

    Raises:
        InputError: a place without a value.
    """
    out: list[Piece] = []
    parts = PLACE.split(template)
    for text, place in zip(parts[::2], [*parts[1::2], ""], strict=True):
        if place and place not in values:
            raise InputError(
                f"{where}: nothing is known of '{place}', which '{template}' asks for; "
                f"known: {', '.join(sorted(k for k, v in values.items() if v)) or 'nothing'}"
            )
        value = values[place] if place else ""
        if isinstance(value, str):
            out += [Piece(text), Piece(value)]
            continue
        pieces = _pieces(value)
        entity = bool(pieces) and pieces[0].entity
        out += [Piece(text.removesuffix(" ") if entity else text), *pieces]
    return joined(out)


def places(template: str) -> frozenset[str]:
    """The names of a template's places."""
    return frozenset(PLACE.findall(template))


def marked(text: str, spans: Sequence[tuple[int, int]], where: str = "entities") -> Pieces:
    """A text whose entities are known by their places.

    Args:
        text: any.
        spans: `(start, stop)` of each entity, in letters; in any order.
        where: what the spans are, for errors.

    Raises:
        InputError: a span outside of the text or without a letter, or two that overlap.
    """
    out: list[Piece] = []
    free, last = 0, (0, 0)
    for start, stop in sorted(spans):
        if not 0 <= start < stop <= len(text) or not text[start:stop].strip():
            raise InputError(
                f"{where}: ({start}, {stop}) holds no entity; expected start < stop within the "
                f"text's {len(text)} letters, and not blanks alone"
            )
        if start < free:
            raise InputError(
                f"{where}: {last} and ({start}, {stop}) overlap ({text[last[0] : last[1]]!r}, "
                f"{text[start:stop]!r}); expected entities apart from each other"
            )
        out += [Piece(text[free:start].removesuffix(" ")), Piece(text[start:stop].strip(), True)]
        free, last = stop, (start, stop)
    return joined([*out, Piece(text[free:])])


class PieceEncoder:
    """Tokens of pieces; they are kept, for entities and commas occur again and again.

    Args:
        tokenizer: of the model.
        own: tokens that stand before the text of entities (`recjax.recsysllm.item_tokens`).
        spelled: the text of such an entity follows its token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        own: Mapping[str, int] = MappingProxyType({}),
        spelled: bool = True,
    ):
        self._tokenizer, self._own, self._spelled = tokenizer, own, spelled
        self._names = {token: name for name, token in own.items()}
        self._known: dict[str, list[int]] = {}
        self._plain: dict[tuple[str, bool], list[int]] = {}

    def entity(self, name: str) -> list[int]:
        """The tokens of an entity, with the blank before it."""
        if name not in self._known:
            self.learn([name])
        return self._known[name]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens; an entity's own token is read as its name, where no text follows."""
        if self._spelled or not self._own:
            return self._tokenizer.decode(tokens)
        out, free = "", 0
        for place, token in enumerate(tokens):
            if token in self._names:
                out += f"{self._tokenizer.decode(tokens[free:place])} {self._names[token]}"
                free = place + 1
        return out + self._tokenizer.decode(tokens[free:])

    def learn(self, names: Sequence[str]) -> list[list[int]]:
        """The tokens of many entities, which are then known."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        encoded = self._tokenizer.encode_batch([f" {n}" for n in new], start=False)
        for name, ids in zip(new, encoded, strict=True):
            own = self._own.get(name)
            if own is not None:
                ids = [own, *ids] if self._spelled else [own]
            self._known[name] = ids
        return [self._known[name] for name in names]

    def __call__(self, texts: Sequence[Pieces]) -> list[list[list[int]]]:
        """The tokens of each piece of each text; a text's first piece begins it."""
        if len(self._plain) > _MOST_PLAIN:
            self._plain = {}
        known = self._plain  # another thread may put a new one in its place
        plain = {
            (piece.text, k == 0): None
            for text in texts for k, piece in enumerate(text) if not piece.entity
        }  # fmt: skip
        for first in (True, False):
            new = [key for key in plain if key[1] == first and key not in known]
            encoded = self._tokenizer.encode_batch([text for text, _ in new], start=first)
            known.update(zip(new, encoded, strict=True))
        return [
            [self.entity(p.text) if p.entity else known[p.text, k == 0]
             for k, p in enumerate(text)]
            for text in texts
        ]  # fmt: skip
