"""Questions to a language model about an item or a user, and the reading of its answers.

    asked = item_question(aspects, "title: Alien\\ngenres: Horror, Sci-Fi")
    answer_form(aspects).text([7, 3, ...])                # "story complexity: 8\\n..."
    parse("Pace: 8/10\\ntension level = **9**", aspects)   # scores, and what was wrong

Prompts follow the paper's Tables 9 and 10 in words of our own: a system part with the aspects and
the form of the answer, and a user part with the item, or with items of the user's history.

Deviations: a rating is a whole number; of an item the mean rating and its number of raters are not
told (they know of later ratings), nor Amazon's `details`; of the user's reviews the rating and the
item alone, where the paper tells their time, summary and text, too (Table 13).
"""

import collections
import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from recjax.config import nearest
from recjax.data.attributes import known_keys
from recjax.data.sources._values import inside
from recjax.errors import InputError
from recjax.guided.aspects import Aspect, AspectSet, bare, plain
from recjax.scoring.form_tokens import Form

# What a record may tell, in this order.
FIELDS = (
    "title", "year", "genres", "categories", "tags", "brand", "author", "developer", "price",
    "description",
)  # fmt: skip
NO_CONTENT = ("N/A", "[MASK]", "")  # in the place of an item or a history, to calibrate
_LONGEST = 1 << 16  # characters of an answer that are read
_ITEM = (
    "You are a critic of {items}. You rate one {item} with a whole number from {least} to {most} "
    "on each of these aspects:"
)
_USER = (
    "You recommend {items}. From what a user has chosen before you tell which {item} this user "
    "will like next, with a whole number from {least} to {most} on each of these aspects:"
)
_ANSWER = (
    "Answer in this form, where each <rating> is a whole number from {least} to {most}:\n{lines}\n"
    "Write nothing else."
)
_ABOUT_ITEM = "This is known of the {item}:\n{text}"
_ABOUT_USER = "The user has chosen these {items}, the newest last:\n{text}"


class Question(NamedTuple):
    """A question about an item or a user.

    Attributes:
        system: the system message.
        user: the user's message.
    """

    system: str
    user: str

    @property
    def text(self) -> str:
        """The prompt for a model without a chat template: system message and question."""
        return "\n\n".join([*filter(None, self), ""])


def question(aspects: AspectSet, kind: str, text: str, brief: bool = False) -> Question:
    """The question about an item or a user.

    Args:
        aspects: to rate.
        kind: "item" or "user".
        text: of the item (`item_text`), or of the user's history (`user_text`).
        brief: the text alone, for a model that was fine-tuned on such questions.
    """
    if brief:
        return Question("", text)
    words = {name: getattr(aspects, name) for name in ("item", "items", "least", "most")}
    head, about = (_ITEM, _ABOUT_ITEM) if kind == "item" else (_USER, _ABOUT_USER)
    lines = "\n".join(f"{name}: <rating>" for name in aspects.names)
    system = "\n".join(
        [
            head.format(**words),
            *(_described(aspect, aspects) for aspect in aspects.aspects),
            "",
            _ANSWER.format(lines=lines, **words),
        ]
    )
    return Question(system, about.format(text=text, **words))


def _described(aspect: Aspect, aspects: AspectSet) -> str:
    parts = [aspect.name]
    if aspect.description:
        parts.append(f": {aspect.description}")
    ends = [(aspects.least, aspect.low), (aspects.most, aspect.high)]
    ends_text = "; ".join(f"{number} = {text}" for number, text in ends if text)
    return "".join(parts) + (f" ({ends_text})" if ends_text else "")


def item_text(
    record: Mapping[str, Any] | None, fields: Sequence[str] = FIELDS, longest: int = 1000
) -> str:
    """The known facts of an item, a line a field.

    Args:
        record: of the catalogue.
        fields: that are told, as far as the record has them, in this order.
        longest: characters of a field; the rest is left out.
    """
    record = record or {}
    lines = []
    for name in fields:
        text = _value(inside(record, name))
        if text or name == "title":
            cut = text if len(text) <= longest else f"{text[:longest].rstrip()} ..."
            lines.append(f"{name}: {cut or 'unknown'}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A label, labels, or paths of labels as text on one line, each label once."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items() if _value(v))
    if isinstance(value, (list, tuple)):
        return ", ".join(dict.fromkeys(filter(None, _labels(value))))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else " ".join(str(value).split())


def _labels(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _labels(part)
    else:
        yield _value(value)


def user_text(
    records: Sequence[Mapping[str, Any] | None],
    ratings: Sequence[float] | None = None,
    fields: Sequence[str] = FIELDS,
    longest: int = 200,
) -> str:
    """A user's history, a line an item, the newest last.

    Args:
        records: of the catalogue, oldest first.
        ratings: of each, where the user has rated them.
        fields, longest: see `item_text`.
    """
    lines = []
    for place, record in enumerate(records):
        rated = [] if ratings is None else [f"rating: {float(ratings[place]):g}"]
        facts = "; ".join([*rated, *item_text(record, fields, longest).split("\n")])
        lines.append(f"{place + 1}. {facts}")
    return "\n".join(lines)


def check_fields(fields: Sequence[str], catalog: Sequence[Mapping[str, Any] | None]) -> None:
    """Whether some record has each field; `InputError` with the nearest for one that none has."""
    known = known_keys(catalog) - {"id", "key"}
    for name in fields:
        if name not in known:
            raise InputError(f"--fields: no item has '{name}'; {nearest(name, known)}")


def answer_form(aspects: AspectSet) -> Form:
    """The form of an answer: a line "NAME: RATING" an aspect."""
    words = tuple(f"{chr(10) * (a > 0)}{name}:" for a, name in enumerate(aspects.names))
    return Form(words, tuple(f" {rating}" for rating in aspects.ratings))


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Scores that were read from an answer.

    Attributes:
        scores: A numbers, None where the answer has none within the scale.
        missing: aspects without a number.
        out_of_range: aspects whose number is out of the scale; they have no score.
        extra: numbers of an aspect after its first, which counts; and of other names.
    """

    scores: tuple[float | None, ...]
    missing: int
    out_of_range: int
    extra: int

    @property
    def well_formed(self) -> bool:
        """Whether nothing is missing, out of range or extra."""
        return not (self.missing or self.out_of_range or self.extra)


_BETWEEN = r"[\s*_`\"'|\])>]{0,12}(?:[:=\u2013\u2014-]|\bis\b)?[\s*_`\"'|<\[(]{0,12}"
_RANGE = r"(?:[-\u2010-\u2015\u2212~\u301c\uff5e]|\.\.\.?|to|or)"  # between the ends of one
_OF = r"[ \t]*(?:/|out of)[ \t]*"


class _Reading(NamedTuple):
    """How answers about a set of aspects are read."""

    named: re.Pattern  # an aspect's name and its number
    places: Mapping[str, int]  # of an aspect by the pattern's group of its name
    other: re.Pattern  # at the beginning of a line any name, and its number


@functools.lru_cache(maxsize=8)
def _reading(aspects: AspectSet) -> _Reading:
    # Whole: neither the beginning of a longer number nor of a range, nor a part of another scale.
    number = (
        r"(?P<number>-?\d+(?:\.\d+)?)(?![\w%]|[.,]\d)"
        rf"(?![ \t]*{_RANGE}[ \t]*\d)(?:{_OF}{aspects.most}(?![\w%]|[.,]\d))?(?!{_OF}\d)"
    )
    # As they are written, too: "Straße" is "strasse" in comparison. A group each, since lower case
    # is not the same to patterns and to texts ("ı", "İ").
    names = {name: k for k, text in enumerate(aspects.names) for name in (bare(text), plain(text))}
    ordered = sorted(names, key=lambda name: (-len(name), name))
    places = {f"n{n}": names[name] for n, name in enumerate(ordered)}
    words = [r"\s{1,9}".join(map(re.escape, name.split())) for name in ordered]
    joined = "|".join(f"(?P<n{n}>{text})" for n, text in enumerate(words))
    tail = r"(?:\s*\([^()\n]{0,100}\))?"
    named = re.compile(rf"(?<!\w)(?:{joined})(?!\w){tail}{_BETWEEN}{number}", re.I)
    other = re.compile(
        rf"^[\s*_`\"'|#\d.)-]{{0,20}}(?P<name>[^\W\d][^:=\n]{{0,100}}?){_BETWEEN}{number}"
    )
    return _Reading(named, places, other)


def parse(answer: str, aspects: AspectSet) -> Parsed:
    """Reads an answer by rule; it never fails.

    An aspect's score is the number after its name: upper or lower case, the last part of the name
    in brackets or not, marks of markdown, `:`, `=`, `-` or "is" between the two, "8/10" or "8 out
    of 10" where the scale ends at 10. Of several numbers of one aspect the first counts. A number
    out of the scale, a range ("5-7"), a part of another scale ("4/5"), a share or a word is no
    score.
    """
    named, places, other = _reading(aspects)
    answer = unicodedata.normalize("NFC", answer[:_LONGEST])
    numbers: dict[int, float] = {}
    extra = 0
    unread = []
    end = 0
    for match in named.finditer(answer):
        unread.append(answer[end : match.start()])
        end = match.end()
        aspect = next(place for group, place in places.items() if match[group] is not None)
        extra += aspect in numbers
        numbers.setdefault(aspect, float(match["number"]))
    unread.append(answer[end:])
    extra += sum(bool(other.match(line)) for line in "\n".join(unread).split("\n"))
    on_scale = {k: v for k, v in numbers.items() if aspects.least <= v <= aspects.most}
    return Parsed(
        tuple(on_scale.get(k) for k in range(len(aspects))),
        missing=len(aspects) - len(numbers),
        out_of_range=len(numbers) - len(on_scale),
        extra=extra,
    )


def counted(answers: Sequence[Parsed]) -> dict[str, int]:
    """Counts the answers that were not well-formed, by kind of fault."""
    out: collections.Counter[str] = collections.Counter()
    for parsed in answers:
        out["malformed"] += not parsed.well_formed
        for name in ("missing", "out_of_range", "extra"):
            out[name] += getattr(parsed, name)
    return dict(out)
