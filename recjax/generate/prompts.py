"""Prompts as rows of ids, and their common beginning."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from recjax.errors import InputError
from recjax.text.tokenizers import Tokenizer

_STEP = 16  # a shared beginning counts from this many tokens on, in steps of as many


class Prompts(NamedTuple):
    """B prompts without padding.

    Attributes:
        rows: B arrays of ids [T].
        soft: B arrays [T], 1 where a soft token stands, or None where there are none.
    """

    rows: list[np.ndarray]
    soft: list[np.ndarray] | None

    def shared(self) -> int:
        """The length of a common prefix without soft tokens that is worth reading once, or 0.

        One token at least is left to each row, and the length is a multiple of 16, so that chance
        likenesses do not make a new program a batch. Up to soft tokens that all rows have in one
        place it is no chance.
        """
        if len(self.rows) < 2:
            return 0
        length = min(map(len, self.rows)) - 1
        heads = np.stack([row[:length] for row in self.rows])
        soft = np.zeros(heads.shape, bool)
        if self.soft is not None:
            soft = np.stack([row[:length] for row in self.soft]) > 0
        ends = np.flatnonzero((heads != heads[0]).any(axis=0) | soft.any(axis=0))
        count = int(ends[0]) if len(ends) else length
        question = len(ends) and count >= _STEP and soft[:, count].all()
        return count if question else count // _STEP * _STEP

    def lengths(self) -> list[int]:
        """The lengths that these prompts may be padded to; the last one holds the longest.

        A question about soft tokens is asked many times: its length has a program of its own (an
        even one: flash attention takes no other).
        """
        longest = max(map(len, self.rows))
        question = self.soft is not None and min(map(len, self.rows)) == longest
        return [longest + longest % 2] if question else lengths(longest)

    def after(self, start: int) -> "Prompts":
        """The prompts without their first `start` tokens."""
        soft = None if self.soft is None else [row[start:] for row in self.soft]
        return Prompts([row[start:] for row in self.rows], soft)


def read_prompts(
    prompts: Sequence[Sequence[int]] | np.ndarray,
    vocab_size: int,
    mask: Any | None = None,
    is_soft: Any | None = None,
) -> Prompts:
    """Prompts from ids.

    Args:
        prompts: B lists of ids, or [B T].
        vocab_size: V.
        mask: [B T], True (or 1) = real; padding stands on the left.
        is_soft: [B T], True where a soft token stands.

    Raises:
        InputError: no prompts, an empty one, ids outside the vocabulary, shapes that differ,
            padding after a token.
    """
    if not len(prompts):
        raise InputError("no prompts")
    if mask is not None or is_soft is not None:
        prompts = check_ids(prompts, vocab_size)
    real = _like(mask, prompts, "mask", True)
    for number, row in enumerate(real):
        if not row.any():
            raise InputError(f"prompt {number} is empty")
        if (np.diff(row.astype(np.int8)) < 0).any():
            raise InputError(f"prompt {number} has padding after a token; it stands on the left")
    both = list(zip(prompts, real, strict=True))
    rows = [check_ids(np.asarray(row)[None], vocab_size)[0][is_real] for row, is_real in both]
    if is_soft is None:
        return Prompts(rows, None)
    marks = zip(_like(is_soft, prompts, "soft places", False), real, strict=True)
    return Prompts(rows, [row[is_real].astype(np.int32) for row, is_real in marks])


def _like(array: Any | None, prompts: Any, what: str, default: bool) -> list[np.ndarray]:
    """A flag for each id; all `default` where none are given."""
    if array is None:
        return [np.full(len(row), default) for row in prompts]
    flags = as_flags(array, what)
    if flags.shape != prompts.shape:
        raise InputError(f"{what} of shape {flags.shape}, expected {prompts.shape}")
    return list(flags)


def as_flags(array: Any, what: str) -> np.ndarray:
    """A mask as bool: of bool, or of numbers 0 and 1.

    Raises:
        InputError: naming `what`: other values.
    """
    given = np.asarray(array)
    if given.dtype != bool:
        if given.dtype.kind not in "iuf" or not np.isin(given, (0, 1)).all():
            raise InputError(f"{what}: expected True and False, or 1 and 0")
        given = given.astype(bool)
    return given


def filler(config: Any, tokenizer: Tokenizer) -> Callable[[Sequence[int]], list[int]] | None:
    """A function that completes prompts for a model of blank infilling, or None for other models.

    A text without a blank gets [gMASK] before its end, or [MASK] where the vocabulary has no other;
    <sop>, with which the text of a blank begins, comes last. A text that has <sop> stays.

    Args:
        config: of a model; one without `start_id` (<sop>) is of another kind.
        tokenizer: of the model.
    """
    start = getattr(config, "start_id", None)
    if start is None:
        return None
    known, end = getattr(config, "blank_ids", ()), list(tokenizer.end)
    long = tokenizer.id_of("[gMASK]")
    blanks = (long, *known) if long in known else known

    def fill(row: Sequence[int]) -> list[int]:
        row = list(row)
        if start in row:
            return row
        if blanks and not set(blanks).intersection(row):
            text = len(row) - len(end)
            row.insert(text if row[text:] == end else len(row), blanks[0])
        return [*row, start]

    return fill


def check_ids(tokens: Any, vocab_size: int) -> np.ndarray:
    """Ids as a host array [B T] int32.

    Raises:
        InputError: another shape or type, or ids outside the vocabulary.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.size:
        raise InputError(f"tokens: {ids.dtype} of shape {ids.shape}, expected integers [B T]")
    low, high = ids.min(), ids.max()
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InputError(f"token {wrong}: expected ids from 0 to {vocab_size - 1}")
    return ids.astype(np.int32)


def lengths(longest: int) -> list[int]:
    """The lengths that prompts are padded to, up to one that holds `longest`: 16 24 32 40 48 56 64
    80 96 112 128 160 ..."""
    top = max(5, math.ceil(math.log2(longest)))
    return [16, 24, *(n * 2**k // 4 for k in range(5, top + 1) for n in (4, 5, 6, 7))]


def bucket(length: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `length`, so that one compiled program serves many lengths.

    Raises:
        InputError: the length is above every size.
    """
    fitting = [size for size in sizes if size >= length]
    if not fitting:
        raise InputError(f"length {length}: expected at most {max(sizes, default=0)}")
    return min(fitting)


def pad_rows(
    rows: Sequence[Sequence[int] | np.ndarray], *, pad_id: int, sizes: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array, padded on the left.

    Args:
        rows: B of them, not all empty.
        pad_id: what stands at the padding.
        sizes: lengths to round T up to, so that few shapes are compiled; () = the longest row.

    Returns:
        `(tokens [B T] int32, mask [B T] bool)`, True = real.

    Raises:
        InputError: a row longer than the largest size.
    """
    longest = max(map(len, rows))
    length = min((s for s in sizes if s >= longest), default=0) if sizes else longest
    if length < longest:
        raise InputError(f"a text of {longest} tokens; expected at most {max(sizes)}")
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(length) >= length - lengths[:, None]
    tokens = np.full(mask.shape, pad_id, np.int32)
    tokens[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return tokens, mask
