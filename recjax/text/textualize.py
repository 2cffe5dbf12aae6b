"""Items and histories as text.

titles = item_titles(store.catalog, WORDS["movie"])             # [I], by item id

Titles are as the reader left them: MovieLens' "Matrix, The (1999)" is "The Matrix" with the year
apart. Text never has to be parsed back: what a text is about is known by item id. An item
without a title is "Untitled" and its words and id ("Untitled movie 267"), so no two are the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from recjax.data.sources._values import inside
from recjax.errors import InputError
from recjax.text.prompts import Words, listed

_HISTORIES = (
    "This user has {past} {titles} in the previous.",
    "The {doing} history of a user: {titles}.",
)
_ITEMS = ("The {item} {titles} {facts}.", "Which {item} {facts}? {titles}.")
HISTORY_FORMS, ITEM_FORMS = len(_HISTORIES), len(_ITEMS)  # how many paraphrases
# What a record may tell, in this order.
_FACTS = (
    ("year", "came out in {}"),
    ("author", "is by {}"),
    ("developer", "is by {}"),
    ("brand", "is by {}"),
    ("genres", "belongs to {}"),
    ("categories", "belongs to {}"),
)
# Fields of records that are no attributes: names, texts, and what a shop's page adds.
_NO_FACTS = frozenset({"id", "key", "title", "description", "url", "reviews_url", "early_access"})
_LONGEST_FACT = 60  # letters


def item_titles(catalog: Sequence[Mapping[str, Any] | None], words: Words) -> list[str]:
    """Readable titles by item id, "" at 0: [I].

    Args:
        catalog: `store.catalog`.
        words: of the domain.
    """
    out = [""]
    for item, record in enumerate(catalog[1:], start=1):
        title = " ".join(str((record or {}).get("title") or "").split())
        out.append(title or f"Untitled {words.item} {item}")
    return out


def check_titles(catalog: Sequence[Mapping[str, Any] | None], store: object) -> None:
    """Raises `InputError` where no item of a store has a title to be known by."""
    if not any((record or {}).get("title") for record in catalog):
        raise InputError(
            f"{store}: no item has a title, and texts name items by it; expected its column or its "
            "file in config.data.options, and `recjax prepare --overwrite`"
        )


def history_text(titles: Sequence[str], words: Words, form: int) -> str:
    """A history, oldest item first, as a sentence."""
    return _HISTORIES[form % len(_HISTORIES)].format(
        titles=listed(titles), **dataclasses.asdict(words)
    )


def labels(value: Any) -> tuple[str, ...]:
    """The names in a field of a record: a text, a number, or lists of them; empty ones go.

    >>> labels([["Beauty", "Hair Care"], ["Beauty"]])
    ('Beauty', 'Hair Care')
    """
    if isinstance(value, Mapping):
        return ()
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(name for part in value for name in labels(part)))
    text = "" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return (text,) if text else ()


def facts_of(record: Mapping[str, Any], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The facts of a record, by column.

    Args:
        record: any.
        columns: keys, or paths of keys (`price.amount`); () = all keys whose names are short
            enough to be attributes.
    """
    chosen = columns or [c for c in record if c not in _NO_FACTS]
    facts = {column: labels(inside(record, column)) for column in chosen}
    return {
        column: names for column, names in facts.items()
        if names and (columns or max(map(len, names)) <= _LONGEST_FACT)
    }  # fmt: skip


def item_text(record: Mapping[str, Any] | None, title: str, words: Words, form: int = 0) -> str:
    """The known facts of an item as a sentence; where there are none, that it exists.

    Args:
        record: of the catalogue: its year, author, developer, brand, genres and categories are
            told, as far as it has them; where it has none of these, its other facts.
        title: the item's, of `item_titles`.
        words: of the domain.
        form: which paraphrase.
    """
    record = record or {}
    told = [text.format(_value(record[key])) for key, text in _FACTS if record.get(key)]
    if not told:
        others = facts_of(record, ()).items()
        told = [f"has {name.replace('_', ' ')} {_value(values)}" for name, values in others]
    facts = ", ".join(told) or "exists"
    own = dataclasses.asdict(words)
    return _ITEMS[form % len(_ITEMS)].format(titles=title, facts=facts, **own)


def _value(value: Any) -> str:
    """A label, labels, or paths of labels (Amazon's) as text."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    parts = [_value(part) for part in value]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
