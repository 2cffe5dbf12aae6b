"""Questions and their answers, in the words of a domain.

table = read_prompts("mine.json", PROMPTS)           # PROMPTS: of `recjax.text.tasks`
words = table.of("movie", "config.text.prompts")
prompt = table.prompts["residual"][0]
question(prompt, words)                              # with two placeholders of soft tokens
answer(prompt, words, ["The Matrix"])

A JSON file adds domains, and prompts to the tasks of a table:

    {"words": {"song": {"past": "heard", "doing": "hearing", "item": "song", "items": "songs"}},
     "recovery": [{"question": "Which {items} are in {soft}?", "answer": "It has {titles}."}],
     "residual": [{"question": "Which {item} made {soft} become {soft}?",
                   "answer": "It was {titles}."}]}

Where a question has two representations, the first is that of the shorter history. An answer
begins with its titles, or has a blank before them: a title is learned, and written by constrained
decoding, as the tokens of itself and that blank.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recjax.config import nearest, to_plain
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.text.tokenizers import SOFT


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a domain: "has watched", "the watching list", "a movie", "movies"."""

    past: str
    doing: str
    item: str
    items: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question and its answer, with `{past}`, `{doing}`, `{item}` and `{items}` for the words.

    Attributes:
        question: with `{soft}` where a representation stands.
        answer: with `{titles}`.
    """

    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class PromptTable:
    """All that a language model is asked. The first prompt of a task is the one that measures.

    Attributes:
        words: by domain.
        prompts: by task; the questions of one task have equally many representations.
    """

    words: Mapping[str, Words]
    prompts: Mapping[str, tuple[Prompt, ...]]

    def of(self, domain: str, key: str) -> Words:
        """The words of a domain.

        Raises:
            InputError: for an unknown one, with the nearest and the config's `key` of files that
                add domains.
        """
        if domain not in self.words:
            raise InputError(
                f"no words for the domain '{domain}'; {nearest(domain, self.words)}; the key "
                f"'words' of a JSON file ({key}) adds others"
            )
        return self.words[domain]

    @property
    def fingerprint(self) -> str:
        """A digest that differs for other words or prompts."""
        plain = to_plain(self)
        text = json.dumps({"words": plain["words"], **plain["prompts"]}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


WORDS: Mapping[str, Words] = {
    "movie": Words("watched", "watching", "movie", "movies"),
    "game": Words("played", "playing", "game", "games"),
    "product": Words("bought", "buying", "product", "products"),
    "book": Words("read", "reading", "book", "books"),
}
_WORDS = tuple(field.name for field in dataclasses.fields(Words))
_PLACE = re.compile(r"\{(\w*)\}")


def read_prompts(path: str | Path, table: PromptTable) -> PromptTable:
    """A table with what a JSON file adds; see above. Its prompts come after the others.

    Args:
        path: of the file; "" adds nothing.
        table: which tasks there are; each has a prompt.

    Raises:
        InputError: naming the file and the entry that is missing, unknown or malformed.
    """
    if not path:
        return table
    path = Path(path)
    content = read_object(path)
    for key in content:
        if key not in ("words", *table.prompts):
            known = f"{', '.join(['words', *table.prompts][:-1])} or {list(table.prompts)[-1]}"
            raise InputError(f"{path}: unknown key '{key}'; expected {known}")
    words = read_words(content.get("words", {}), path)
    prompts = {}
    for task, own in table.prompts.items():
        entries = content.get(task, [])
        if not isinstance(entries, list):
            raise InputError(f"{path}: {task}: expected a list of prompts")
        count = own[0].question.count(SOFT)
        added = (_prompt(entry, count, f"{path}: {task}[{n}]") for n, entry in enumerate(entries))
        prompts[task] = (*own, *added)
    return PromptTable({**table.words, **words}, prompts)


def read_words(entry: Any, path: str | Path) -> dict[str, Words]:
    """The words of all domains: those of a file's key `words`, and `WORDS`.

    Raises:
        InputError: naming the file and the domain.
    """
    own = {
        domain: Words(**_fields(words, _WORDS, f"{path}: words.{domain}", places=False))
        for domain, words in _object(entry, f"{path}: words").items()
    }
    return {**WORDS, **own}


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object")
    return value


def _fields(value: Any, names: Sequence[str], where: str, *, places: bool = True) -> dict[str, str]:
    """Exactly these keys, all of them text, with no braces but those of places."""
    fields = _object(value, where)
    if set(fields) != set(names) or not all(isinstance(text, str) for text in fields.values()):
        raise InputError(f"{where}: expected the texts {', '.join(names)}")
    for text in fields.values():
        if set("{}") & set(_PLACE.sub("", text) if places else text):
            raise InputError(f"{where}: a brace in '{text}'")
    return fields


def _prompt(value: Any, count: int, where: str) -> Prompt:
    prompt = Prompt(**_fields(value, ("question", "answer"), where))
    for text, name, times in ((prompt.question, "soft", count), (prompt.answer, "titles", 1)):
        places = _PLACE.findall(text)
        unknown = sorted(set(places) - {name, *_WORDS})
        if unknown:
            raise InputError(f"{where}: unknown place '{{{unknown[0]}}}' in '{text}'")
        if places.count(name) != times:
            raise InputError(f"{where}: '{text}' needs {times} of '{{{name}}}'")
    before = prompt.answer.partition("{titles}")[0]
    if before and (before.isspace() or before != before.rstrip() + " "):
        raise InputError(
            f"{where}: {prompt.answer!r} needs words and one blank before '{{titles}}', or nothing"
        )
    return prompt


def listed(names: Sequence[str]) -> str:
    """Titles in a row: "Twelve Monkeys, Cat People, Omen"."""
    return ", ".join(names)


def question(prompt: Prompt, words: Words) -> str:
    """A prompt's question, with the placeholders that `Tokenizer.encode_with_soft` takes."""
    own = dataclasses.asdict(words)
    return SOFT.join(part.format(**own) for part in prompt.question.split(SOFT))


def answer(prompt: Prompt, words: Words, titles: Sequence[str]) -> str:
    """A prompt's answer, about one or several titles."""
    return prompt.answer.format(titles=listed(titles), **dataclasses.asdict(words))


def around(prompt: Prompt, words: Words) -> tuple[str, str]:
    """The words of an answer before and after its titles."""
    before, after = prompt.answer.split("{titles}")
    own = dataclasses.asdict(words)
    return before.format(**own), after.format(**own)
