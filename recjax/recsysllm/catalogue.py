"""The entity pool of a catalogue and of the profiles beside it, and who bears which name.

Rules. Names are compared with their blanks collapsed. Equal names are one entity: a name leads to
all of its items. Where a text is read, the entity that begins first counts, and of those the
longest: "Alien" is not found in "Alien Resurrection". Where it is written, the inner position goes
on as long as what is written still begins some entity, so a title and a longer one that begins with
it have the same positions up to the end of the shorter.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recjax.data.sources._values import inside
from recjax.errors import InputError
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.passages import PieceEncoder
from recjax.recsysllm.spans import Marks
from recjax.text.textualize import labels


def attributes(records: Iterable[Mapping[str, Any] | None], columns: Sequence[str]) -> list[str]:
    """All names in some columns of records, each once."""
    names = (name for r in records if r for column in columns for name in labels(inside(r, column)))
    return list(dict.fromkeys(names))


@dataclasses.dataclass(frozen=True, eq=False)
class Names:
    """The entities of a run.

    Attributes:
        titles: [I] by item id, "" at 0.
        others: names of attributes.
    """

    titles: Sequence[str]
    others: Sequence[str] = ()

    @functools.cached_property
    def distinct(self) -> list[str]:
        """The different titles, in order of their first items."""
        return list(self._items)

    @functools.cached_property
    def _items(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for item, title in enumerate(self.titles):
            if item:
                out.setdefault(" ".join(title.split()), []).append(item)
        return out

    def items(self, title: str) -> list[int]:
        """The items of a title; several where titles repeat, none of a text that is no title."""
        return self._items.get(" ".join(title.split()), [])

    @functools.cached_property
    def members(self) -> list[list[int]]:
        """The items of each of `distinct`."""
        return list(self._items.values())

    def pool(self, encoder: PieceEncoder, marks: Marks, most: int) -> EntityPool:
        """The entities' tokens.

        Args:
            encoder: of the model's tokenizer.
            marks: the command tokens.
            most: tokens of a name; a row has room for no more of an answer.

        Raises:
            InputError: an item without a title, a name without a token or with more than `most`.
        """
        for item, title in enumerate(self.titles):
            if item and not title.strip():
                raise InputError(f"item {item}: its title is blank; expected a name to tell it by")
        names = [*self.distinct, *self.others]
        tokens = encoder.learn(names)
        for name, ids in zip(names, tokens, strict=True):
            if not 0 < len(ids) <= most:
                raise InputError(
                    f"entity {name[:60]!r}: its text gives {len(ids)} tokens; expected 1 to "
                    f"{most}, for no name is cut; config.length, at most the model's max_length, "
                    "gives room"
                )
        return EntityPool(tokens, marks.sop, most)
