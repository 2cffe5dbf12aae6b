"""Prompts and their answers from JSON lines: what a language model is fine-tuned on.

    {"prompt": "Which film is like Alien?", "answer": " Aliens"}

A row is `<s>`, the prompt, the answer, `</s>`, with nothing put between them: the answer goes on
where the prompt ends, so a blank between the two stands in one of them. The answer and the end are
learned, the prompt is not. Where an encoder reads the prompt, the answer is a text that begins. A
model of blank infilling reads a whole text with a blank in it and `<sop>` behind it; the answer is
the blank's text, ended by `<eop>`, as its own `build_inputs_for_generation` lays it out.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np

from recjax.data.epochs import Epochs
from recjax.data.ragged import row_starts
from recjax.data.sources._lines import text_lines
from recjax.errors import InputError
from recjax.json_files import parse
from recjax.ranges import Checked, FieldError, Range
from recjax.text._token_ends import END_PIECES
from recjax.text.chat import Form, prompt_ids
from recjax.text.token_batches import NO_LABEL, Encoded, TokenBatches
from recjax.text.tokenizers import Tokenizer

_Share = Annotated[float, Range(0, below=1)]
_LONGEST_LINE = 1 << 24  # characters


@dataclasses.dataclass(frozen=True)
class PairsConfig(Checked):
    """Section `data` of fine-tuning: the files of pairs."""

    path: str  # JSON lines, plain or .gz
    prompt: str = "prompt"  # the key of the prompt in a line
    answer: str = "answer"  # that of the answer
    system: str = ""  # that of a system message, with the form "chat"; "" = none
    # What prompts are: "text"; "special": names of control tokens in prompts and answers stand for
    # the tokens; "chat": messages of a user, for the model's own chat template.
    form: Form = "text"
    validation_path: str = ""  # a file of pairs to validate on; "" = a share of `path`
    test_path: str = ""  # a file of pairs to test on
    validation_share: _Share = 0.1  # of `path`, drawn once, where there is no file
    test_share: _Share = 0.0  # the same for the test; 0 = no test
    max_length: Annotated[int, Range(0, 1 << 20)] = (
        0  # tokens of a pair, at most; 0 = as many as the model was trained on
    )
    skip_long: bool = False  # leave longer pairs out, in place of an error

    def __post_init__(self):
        super().__post_init__()
        for name in ("path", "prompt", "answer"):
            if not getattr(self, name):
                raise FieldError(name, "is empty")
        if self.system and self.form != "chat":
            raise FieldError("system", "needs the form 'chat'")
        if self.prompt == self.answer:
            raise FieldError("answer", f"'{self.answer}' is the prompt's key, too")
        if self.validation_share + self.test_share >= 1:
            raise FieldError("validation_share", "nothing is left to train on beside test_share")
        if not self.validation_path and not self.validation_share:
            raise FieldError(
                "validation_share",
                "0, and no validation_path; expected one of them: validation tells when to stop",
            )


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt, its answer, where they stand ("FILE:LINE"), and the system message before them."""

    prompt: str
    answer: str
    where: str
    system: str = ""


def read_pairs(
    path: str | Path, prompt: str = "prompt", answer: str = "answer", system: str = ""
) -> list[Pair]:
    """The pairs of a file of JSON lines; other keys of a line are not read.

    Args:
        path: plain or `.gz`; blank lines are skipped.
        prompt, answer: their keys.
        system: that of the system message; "" = none.

    Raises:
        InputError: naming file and line: no JSON object, a key that is missing, a value that is no
            text, an empty answer, a file without lines.
    """
    out = []
    for where, row in json_rows(Path(path), (prompt, answer)):
        first = text_of(row, system, where) if system else ""
        pair = Pair(text_of(row, prompt, where), text_of(row, answer, where), where, first)
        if not pair.answer:
            raise InputError(f"{where}: '{answer}' is empty; there is nothing to learn")
        out.append(pair)
    return out


def json_rows(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`("FILE:LINE", object)` of a file of JSON lines, plain or `.gz`; blank ones are skipped.

    Args:
        path: of the file.
        keys: expected in each, for errors.

    Raises:
        InputError: naming the line that holds no JSON object.
    """
    for number, line in text_lines(path):
        where = f"{path}:{number}"
        if len(line) > _LONGEST_LINE:
            raise InputError(f"{where}: a line of {len(line):,} characters")
        row = parse(line.encode("utf-8"), where) if line.strip() else {}
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with {' and '.join(map(repr, keys))}")
        if line.strip():
            yield where, row


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text at a key; `InputError` naming the line where it is missing or no text."""
    if key not in row:
        keys = ", ".join(map(repr, list(row)[:10])) or "none"
        raise InputError(f"{where}: lacks the key '{key}'; it has {keys}")
    value = row[key]
    if not isinstance(value, str):
        raise InputError(f"{where}: '{key}' is {type(value).__name__}, expected text")
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of a run, split: what a prepared data set is to the other systems.

    Attributes:
        train, validation, test: the parts; test may be empty.
        manifest: counts and the files' hashes.
    """

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the pairs and their split."""
        return self.manifest["sha256"]


def split_pairs(config: PairsConfig, seed: int) -> Pairs:
    """Reads the files of a config, and splits what is to be split.

    Raises:
        InputError: see `read_pairs`; too few pairs for the shares.
    """

    def read(path: str) -> list[Pair]:
        return read_pairs(path, config.prompt, config.answer, config.system)

    parts = {"train": read(config.path), "validation": [], "test": []}
    order = np.random.default_rng(seed).permutation(len(parts["train"]))
    pairs, start = parts["train"], 0
    for name, path, share in (
        ("validation", config.validation_path, config.validation_share),
        ("test", config.test_path, config.test_share),
    ):
        if path:
            parts[name] = read(path)
        elif share:
            count = max(1, round(share * len(pairs)))
            parts[name] = [pairs[k] for k in np.sort(order[start : start + count])]
            start += count
    parts["train"] = [pairs[k] for k in np.sort(order[start:])]
    if not parts["train"]:
        raise InputError(
            f"{config.path}: {len(pairs)} pairs; none is left to train on beside validation and "
            "test"
        )
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(name.encode())
        for pair in part:
            both = pair.system + pair.prompt
            digest.update(f"{len(both)} {both}{pair.answer}\0".encode())
    files = (config.path, config.validation_path, config.test_path)
    manifest = {
        "counts": {f"{name} pairs": len(part) for name, part in parts.items()},
        "files": [str(Path(file).absolute()) for file in files if file],
        "sha256": digest.hexdigest(),
    }
    return Pairs(parts["train"], parts["validation"], parts["test"], manifest)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A pair as tokens.

    Attributes:
        tokens: [n] int32.
        learned: where the answer begins in them.
        blank: places of the blank that it fills and of the `<sop>` behind the prompt; or None.
        kind: for the evaluator.
    """

    tokens: np.ndarray
    learned: int
    blank: tuple[int, int] | None = None
    kind: str = "answers"


def encode_pairs(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    form: Form,
    longest: int,
    *,
    skip: bool = False,
    apart: bool = False,
    fill: Callable[[Sequence[int]], list[int]] | None = None,
    blank: Callable[[Sequence[int]], tuple[int, int]] | None = None,
) -> list[Row]:
    """Pairs as tokens; those that are too long are an error, or left out.

    Args:
        pairs: to encode.
        tokenizer: of the model.
        form: see `PairsConfig`.
        longest: tokens of a pair, at most.
        skip: leave longer ones out.
        apart: an answer begins a text, of a decoder or of a blank, and goes on after no prompt.
        fill: of a model of blank infilling: a whole text up to where its blank's text begins.
        blank: places of that blank and of `<sop>` in it.

    Raises:
        InputError: naming the first pair that is too long; all are.
    """
    special = form != "text"
    systems = [pair.system for pair in pairs] if form == "chat" else ()
    before = prompt_ids(tokenizer, [pair.prompt for pair in pairs], form, systems)
    ends = [tokenizer.eos_id]
    if fill is not None:
        before, ends = list(map(fill, before)), [*map(tokenizer.id_of, END_PIECES), *ends]
    elif form != "chat" and tokenizer.end:  # of a whole text, which goes on here
        before = [given[: -len(tokenizer.end)] for given in before]
    end = [index for index in ends if index is not None][:1]
    answers = [pair.answer for pair in pairs]
    after = tokenizer.encode_batch(answers, start=apart, special=special)
    rows = [
        Row(
            np.array([*given, *answer, *end], np.int32),
            len(given),
            None if blank is None else blank(given),
        )
        for given, answer in zip(before, after, strict=True)
    ]
    long = [k for k, row in enumerate(rows) if len(row.tokens) > longest]
    if long and not skip:
        more = f", and {len(long) - 1:,} more pairs are too long" if len(long) > 1 else ""
        raise InputError(
            f"{pairs[long[0]].where}: {len(rows[long[0]].tokens):,} tokens, at most {longest:,} "
            f"fit{more}; config.data.skip_long=True leaves them out, config.data.max_length is "
            "the limit"
        )
    if pairs and len(long) == len(rows):
        raise InputError(f"{pairs[0].where}: this pair and all others are over {longest:,} tokens")
    return [row for row in rows if len(row.tokens) <= longest]


@dataclasses.dataclass(frozen=True, eq=False)
class Filled(Encoded):
    """Prompts with a blank, each with the blank's text behind it.

    Attributes:
        positions: [n 2] int32: the first counts the prompt, and stays at the blank in its text; the
            second is 0 in the prompt, and counts the text from 1, its `<sop>`, on.
        written: [n] bool, the blank's text.
    """

    positions: np.ndarray
    written: np.ndarray

    def fields(self) -> Mapping[str, tuple[np.ndarray, int]]:
        """See `Encoded`; and `ar`, the argument of `nn.masks.make_mask`."""
        more = {"positions": (self.positions, 0), "ar": (self.written.astype(np.int32), 1)}
        return {**super().fields(), **more}


def joined(rows: Sequence[Row]) -> Encoded:
    """Rows one after the other, for `token_batches.lay_out`."""
    tokens = np.concatenate([row.tokens for row in rows])
    lengths = np.array([len(row.tokens) for row in rows])
    learned = np.concatenate([np.arange(len(row.tokens)) >= row.learned for row in rows])
    # The first token of a text is predicted by nothing.
    learned[row_starts(lengths)] = False
    labels = np.where(learned, tokens, NO_LABEL).astype(np.int32)
    encoded = Encoded(tokens, labels, np.zeros_like(tokens), lengths, [])
    blanks = [row.blank for row in rows if row.blank is not None]
    if len(blanks) < len(rows):
        return encoded
    place = np.concatenate([np.arange(n) for n in lengths])
    blank, begin = np.repeat(np.array(blanks), lengths, axis=0).T
    inner = place - begin + 1
    outer = np.where(inner > 0, blank, place)
    positions = np.stack([outer, np.maximum(inner, 0)], axis=1).astype(np.int32)
    return Filled(**vars(encoded), positions=positions, written=inner > 0)


T = TypeVar("T")


class Shuffled(Generic[T]):
    """Rows without end: one shuffled epoch follows another.

    Args:
        rows: of an epoch.
        seed: of their order.
    """

    def __init__(self, rows: Sequence[T], seed: int):
        self._rows, self._epochs = rows, Epochs(len(rows), seed)

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, place: int) -> T:
        return self._rows[int(self._epochs(np.array([place]))[0])]


@dataclasses.dataclass(frozen=True, eq=False)
class PairBatches(TokenBatches[Row]):
    """Training batches of rows, packed."""

    def encoded(self, documents: Sequence[Row]) -> Encoded:
        """The pairs as tokens."""
        return joined(documents)
