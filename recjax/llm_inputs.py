"""The inputs of a language model, checked: texts, ids, soft vectors, an encoder's ids."""

import math
import warnings
from typing import Any

import numpy as np

from recjax.errors import InputError
from recjax.generate.prompts import (
    Prompts,
    as_flags,
    check_ids,
    filler,
    lengths,
    pad_rows,
    read_prompts,
)
from recjax.models.language import LanguageConfig, family_for
from recjax.ranges import short
from recjax.text.chat import Form, prompt_ids
from recjax.text.tokenizers import Tokenizer


def check_drawing(
    max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None, beams: int
) -> None:
    """Checks options of `LanguageModel.generate`; `InputError` names the one that cannot be."""
    for name, value in (("max_new_tokens", max_new_tokens), ("top_k", top_k), ("beams", beams)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise InputError(f"{name} {short(value)}: expected at least 1")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature {temperature}: expected a number from 0")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p {top_p}: expected more than 0 and at most 1")
    drawn = [name for name, value in (("top_p", top_p), ("top_k", top_k)) if value is not None]
    if drawn and not temperature:
        raise InputError(f"{drawn[0]} needs a temperature above 0")
    if beams > 1 and temperature:
        raise InputError("beam search draws nothing: temperature must be 0")


def check_length(config: LanguageConfig, longest: int, new: int) -> None:
    """Warns of more tokens than a model was trained on.

    Args:
        config: of the model.
        longest: tokens of the longest prompt.
        new: how many may follow it; the last of them is not read.

    Raises:
        InputError: more than the table of positions has, in a family that has one.
    """
    build, known = family_for(config).build, config.max_length
    two = build.position_rows == 2  # prompts and answers are counted apart, answers from 1 on
    last, end = (max(longest - 1, new), known) if two else (longest + new - 2, known - 1)
    if build.position_table and last > end:
        raise InputError(
            f"prompts of up to {longest:,} tokens and {new:,} new ones; the model's table of "
            f"positions has {known:,}: expected shorter prompts or a smaller max_new_tokens"
        )
    if longest + new > known:
        text = f"up to {longest + new} tokens; the model was trained on {known}"
        warnings.warn(text, stacklevel=3)


def given_prompts(
    config: LanguageConfig,
    tokenizer: Tokenizer | None,
    prompts: Any,
    *,
    mask: Any = None,
    soft: tuple[Any, Any] | None = None,
    special: bool = False,
    chat: bool = False,
) -> Prompts:
    """Texts or ids as rows of ids; the arguments are those of `LanguageModel.generate`.

    Raises:
        InputError: naming the argument and what was expected.
    """
    if isinstance(prompts, str):
        raise InputError("prompts: expected a list of texts or of ids, got one text")
    if not hasattr(prompts, "__len__"):
        raise InputError(f"prompts: expected a list of texts or of ids, got {short(prompts)}")
    if special and chat:
        raise InputError("special excludes chat: the chat template writes the control tokens")
    if len(prompts) and isinstance(prompts[0], str):
        if tokenizer is None:
            raise InputError("prompts as text need a tokenizer; this model came without one")
        form: Form = "chat" if chat else "special" if special else "text"
        prompts, fill = prompt_ids(tokenizer, prompts, form), filler(config, tokenizer)
        prompts = prompts if fill is None else list(map(fill, prompts))
    elif special or chat:
        raise InputError("special and chat need prompts as text, got ids")
    is_soft, vectors = (None, None) if soft is None else soft
    given = read_prompts(prompts, config.vocab_size, mask, is_soft)
    if given.soft is not None:
        shape: tuple[int, ...] = getattr(vectors, "shape", ())
        rows = len(given.rows)
        if len(shape) != 3 or shape[::2] != (rows, config.dim):
            raise InputError(f"soft vectors of shape {shape}, expected [{rows} S {config.dim}]")
        most = max(int(row.sum()) for row in given.soft)
        if most > shape[1]:
            raise InputError(f"soft: {most} places in a row, but {shape[1]} vectors")
    return given


def reading_inputs(
    config: LanguageConfig, shape: tuple[int, int], positions: Any, mask: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The checked positions and the bool mask [B T] or [B T T] for a forward pass.

    Args:
        config: the model's.
        shape: (B, T).
        positions, mask: see `LanguageModel.__call__`.

    Raises:
        InputError: naming the argument and what was expected.
    """
    rows, length = shape
    if positions is not None:
        two = family_for(config).build.position_rows == 2
        expected = (rows, 2, length) if two else (rows, length)
        positions = np.asarray(positions)
        if positions.shape != expected:
            raise InputError(f"positions have shape {positions.shape}, expected {expected}")
        if positions.dtype.kind not in "iu" or (positions < 0).any():
            raise InputError("positions: expected integers from 0 on")
    if mask is not None:
        mask = as_flags(mask, "the mask")
        plain, square = (rows, length), (rows, length, length)
        if mask.shape not in (plain, square, (rows, 1, length, length)):
            raise InputError(f"the mask has shape {mask.shape}, expected {plain} or {square}")
        mask = mask[:, 0] if mask.ndim == 4 else mask
    return positions, mask


def encoder_inputs(
    config: LanguageConfig, tokens: Any, mask: Any, words: Any, rows: int
) -> dict[str, np.ndarray]:
    """Arrays [B S] for the encoder, by argument of the model; none where no tokens are given.

    Args:
        config: of the model.
        tokens, mask, words: `encoder`, `encoder_mask` and `words` of `LanguageModel.__call__`.
        rows: B, of the decoder's tokens.

    Raises:
        InputError: naming the argument and what was expected.
    """
    if tokens is None:
        if mask is not None or words is not None:
            raise InputError("encoder_mask and words belong to the tokens of encoder")
        return {}
    family = family_for(config)
    if not family.build.reads_encoder:
        raise InputError(f"the family {family.name} has no encoder")
    ids = check_ids(tokens, config.vocab_size)
    if len(ids) != rows:
        raise InputError(f"encoder has {len(ids)} rows, the decoder's tokens {rows}")
    known = getattr(config, "whole_words", 0)
    if (words is None) != (not known):
        raise InputError(f"words: expected by models with whole_words; this one has {known}")
    out = {"encoder": ids}
    if mask is not None:
        out["encoder_mask"] = as_flags(mask, "encoder_mask")
    if words is not None:
        out["words"] = check_ids(words, known)
    for name, array in out.items():
        if array.shape != ids.shape:
            raise InputError(f"{name} has shape {array.shape}, expected {ids.shape}")
    return out


def are_texts(prompts: Any) -> bool:
    """Whether prompts are texts, not ids."""
    return not isinstance(prompts, str) and len(prompts) > 0 and isinstance(prompts[0], str)


def encoder_texts(
    config: LanguageConfig, tokenizer: Tokenizer | None, prompts: Any, *, special: bool, chat: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts or ids for an encoder: what the decoder begins with, `encoder` and its mask [B S].

    Raises:
        InputError: see `given_prompts`.
    """
    rows = given_prompts(config, tokenizer, prompts, special=special, chat=chat).rows
    encoder, real = pad_rows(rows, pad_id=0, sizes=lengths(max(map(len, rows))))
    return np.zeros((len(rows), 1), np.int32), encoder, real
