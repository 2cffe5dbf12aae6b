"""Which parts of a text are blanked: GLM's command tokens, and its three ways to draw spans.

GLM (Du et al. 2022, section 2.1) and its `blocklm_utils.py`: short spans with Poisson lengths
(autoregressive blank infilling), whole sentences, one long span (multi-task pre-training).

Letters: B texts, n their tokens, K spans, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from recjax.config import nearest
from recjax.data.ragged import row_numbers, row_positions, row_starts
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, FieldError, Positive, Share
from recjax.text.tokenizers import Tokenizer

_MOST = 39  # longest span of the token level, as in GLM
_U64 = np.uint64


@dataclasses.dataclass(frozen=True)
class Marks:
    """Ids of the command tokens.

    Attributes:
        cls: `[CLS]`, first in a text; -1 where texts begin with none (ChatGLM).
        eos: last in a text.
        sop, eop: `<|startofpiece|>` and `<|endofpiece|>`.
        mask, sentence, document: `[MASK]`, `[sMASK]`, `[gMASK]`; all `[MASK]` in small GLMs.
        block: `[dBLOCK]`, -1 where the vocabulary has none.
    """

    cls: int
    eos: int
    sop: int
    eop: int
    mask: int
    sentence: int
    document: int
    block: int = -1

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, names: Mapping[str, str] = MappingProxyType({}), where: str = ""
    ) -> "Marks":
        """The marks of a GLM or ChatGLM tokenizer.

        Args:
            tokenizer: of the model.
            names: by field: a token that stands for it, where a vocabulary has none of GLM's names
                (`<|reserved_special_token_0|>` of LLaMA 3).
            where: what has the tokenizer, for errors.

        Raises:
            InputError: it lacks one; a name of no field or no token.
        """
        subject = f"{where}: the tokenizer" if where else "the tokenizer"
        for key, name in names.items():
            if key not in _NAMES | {"block": ()}:
                raise InputError(f"config.tokenizer.marks: no mark '{key}'; {nearest(key, _NAMES)}")
            if tokenizer.id_of(name) is None:
                raise InputError(f"config.tokenizer.marks.{key}: {subject} has no token '{name}'")
        # ChatGLM's texts begin with no token.
        chat = tokenizer.id_of("<sop>") is not None and "sop" not in names
        ids: dict[str, int] = {}
        lacking = []
        for key, known in _NAMES.items():
            if chat and key == "cls":
                ids[key] = -1
                continue
            mask = _one(names.get("mask")) if key in ("sentence", "document") else ()
            candidates = map(tokenizer.id_of, (*_one(names.get(key)), *known, *mask))
            index = next((i for i in candidates if i is not None), None)
            if index is not None:
                ids[key] = index
            elif "[MASK]" not in known[1:]:  # else a mask stands for it
                lacking.append(f"{known[0]} ({key})")
        if lacking:
            raise InputError(
                f"{subject} has no {', '.join(lacking)}; expected one of GLM or ChatGLM with its "
                "command tokens, or other tokens of the vocabulary for them: "
                "\"--config.tokenizer.marks={'mask': TOKEN, 'sop': TOKEN, 'eop': TOKEN}\""
            )
        blocks = map(tokenizer.id_of, (*_one(names.get("block")), "[dBLOCK]", "<dBLOCK>"))
        ids["block"] = next((i for i in blocks if i is not None), -1)
        return cls(**ids)


def _one(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


# What a tokenizer is trained with that has neither; the first and last tokens are its own.
COMMANDS = (
    "<|startofpiece|>", "<|endofpiece|>", "[MASK]", "[gMASK]", "[sMASK]", "[dBLOCK]",
)  # fmt: skip
# Where a vocabulary does not have the first name, the next one stands for it.
_NAMES: dict[str, tuple[str, ...]] = {
    "cls": ("[CLS]", "<s>"),
    "eos": ("<|endoftext|>", "</s>", "[PAD]"),
    "sop": ("<|startofpiece|>", "<sop>"),
    "eop": ("<|endofpiece|>", "<eop>"),
    "mask": ("[MASK]", "<mask>"),
    "sentence": ("[sMASK]", "[MASK]", "<mask>"),
    "document": ("[gMASK]", "[MASK]", "<mask>"),
}


@dataclasses.dataclass(frozen=True)
class BlankConfig(Checked):
    """How blanks are drawn.

    Attributes:
        token, sentence, document: shares of the texts whose blanks are short spans, whole
            sentences, and one long span; relative to their sum.
        ratio: share of a text's tokens that short spans or sentences cover, at least one token.
        mean: of the Poisson distribution of a short span's length, which is 1 to 39.
        least: of the text, the shortest long span; the longest leaves two tokens.
        tail: share of the long spans that are the text's end (and have no `<eop>`).
        block: share of the tokens in short spans that are read as `[dBLOCK]`.
        shuffle: spans are written in random order, as in GLM; else from left to right, as in
            RecSysLLM.
    """

    token: Amount = 1.0
    sentence: Amount = 0.0
    document: Amount = 0.0
    ratio: Share = 0.15
    mean: Positive = 3.0
    least: Share = 0.5
    tail: Share = 0.5
    block: Share = 0.0
    shuffle: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.token + self.sentence + self.document > 0:
            raise FieldError("token", "expected one of token, sentence and document above 0")


@dataclasses.dataclass(frozen=True, eq=False)
class Spans:
    """Blanks of B texts, grouped by text and in the order in which they are written.

    Attributes:
        text: [K] which of the texts.
        start, stop: [K] places in that text; spans of a text do not overlap.
        mask: [B] the mask of each text.
        open: [B] bool, True where the only span is the text's end and has no `<eop>`.
        level: [B] int, 0 token, 1 sentence, 2 document.
    """

    text: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    mask: np.ndarray
    open: np.ndarray
    level: np.ndarray


class Draws:
    """Uniform numbers, each a function of (seed, text, which draw) alone: SplitMix64."""

    def __init__(self, seed: int, places: np.ndarray):
        key = self._mix(np.asarray([seed & (1 << 64) - 1], _U64))
        self._keys = self._mix(key ^ self._mix(places.astype(_U64)))

    @staticmethod
    def _mix(x: np.ndarray) -> np.ndarray:
        x = x + _U64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
        return x ^ (x >> _U64(31))

    def __call__(self, purpose: int, text: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Numbers in [0, 1) of each text's draws `number` for one purpose; broadcast."""
        which = (_U64(purpose) << _U64(40)) + number.astype(_U64)
        return (self._mix(self._keys[text] ^ self._mix(which)) >> _U64(11)) * 2.0**-53


def _lengths_cdf(mean: float) -> np.ndarray:
    """Cumulative distribution of Poisson lengths from 1 to 39, renormalised."""
    log = np.arange(1, _MOST + 1) * np.log(mean) - np.cumsum(np.log(np.arange(1, _MOST + 1)))
    weights = np.cumsum(np.exp(log - log.max()))
    return weights / weights[-1]


def sample_spans(
    tokens: np.ndarray,
    lengths: np.ndarray,
    config: BlankConfig,
    marks: Marks,
    *,
    seed: int,
    places: np.ndarray,
    ends: np.ndarray | None = None,
    length: int | None = None,
    room: np.ndarray | None = None,
) -> Spans:
    """Draws blanks; those of a text depend on the seed and its place alone.

    Neither `[CLS]` nor a text's last token (its end) is blanked, but by a span to the text's end. A
    text of which nothing else is left has no blank. The first sentence that is drawn may cover
    more than its share, as may the last short span.

    Args:
        tokens: [n] of all texts, one after the other.
        lengths: [B] of each text.
        config: how.
        marks: the command tokens.
        seed: of all draws.
        places: [B] of each text in its stream.
        ends: [V] bool, tokens that end a sentence; needed where sentences are blanked.
        length: T, at most so many tokens of both parts; spans that do not fit are left out.
        room: [B] spans that fit each text, in place of `length`.
    """
    count = len(lengths)
    numbers = np.arange(count)
    draws = Draws(seed, places)
    shares = np.cumsum([config.token, config.sentence, config.document])
    level = np.searchsorted(shares / shares[-1], draws(0, numbers, np.zeros(1)), side="right")
    opened = (level == 2) & (draws(1, numbers, np.zeros(1)) < config.tail)
    row_start = row_starts(lengths)
    begin = np.zeros(count, np.int64)
    non_empty = lengths > 0
    begin[non_empty] = tokens[row_start[non_empty]] == marks.cls
    free = np.maximum(lengths - 1 - begin, 0)
    # Each span adds its `<sop>` and `<eop>` or mask to the text.
    if room is None:
        most = np.iinfo(np.int64).max
        room = np.full(count, most) if length is None else (length - lengths) // 2
    parts = [
        _short_spans(np.flatnonzero((level == 0) & (free > 0)), lengths, begin, free, config, draws)
    ]
    if (level == 1).any():
        if ends is None:
            raise ValueError("sentences are blanked; expected `ends`")
        parts.append(_sentences(level == 1, tokens, lengths, begin, free, config, draws, ends))
    parts.append(_long_span((level == 2) & (free > 0), opened, lengths, begin, free, config, draws))
    text, start, stop = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((draws(2, text, start) if config.shuffle else start, text))
    text, start, stop = text[order], start[order], stop[order]
    number = np.arange(len(text)) - np.searchsorted(text, text)
    fits = number < room[text]
    masks = np.array([marks.mask, marks.sentence, marks.document])
    return Spans(text[fits], start[fits], stop[fits], masks[level], opened, level)


_SpanArrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # text, start, stop


def _short_spans(
    texts: np.ndarray,
    lengths: np.ndarray,
    begin: np.ndarray,
    free: np.ndarray,
    config: BlankConfig,
    draws: Draws,
) -> _SpanArrays:
    """Poisson lengths up to the share of the text, placed with a token between two of them."""
    if not len(texts):
        return texts, texts, texts
    free, begin = free[texts], begin[texts]
    want = np.maximum(1, (config.ratio * lengths[texts]).astype(np.int64))
    number = np.arange(int(want.max()))
    of = texts[:, None]
    size = 1 + np.searchsorted(_lengths_cdf(config.mean), draws(3, of, number), side="right")
    size = np.minimum(size, free[:, None])
    before = np.cumsum(size, axis=1) - size
    real = (before < want[:, None]) & (before + size + number <= free[:, None])
    size = np.where(real, size, 0)
    k = real.sum(axis=1)
    slack = free - size.sum(axis=1) - k + 1
    gap = np.floor(draws(4, of, number) * (slack + 1)[:, None])
    gap = np.sort(np.where(real, gap, np.inf), axis=1)
    gap = np.where(real, gap, 0).astype(np.int64)
    start = begin[:, None] + gap + np.cumsum(size + 1, axis=1) - size - 1
    row, column = np.nonzero(real)
    return texts[row], start[row, column], (start + size)[row, column]


def _sentences(
    chosen: np.ndarray,
    tokens: np.ndarray,
    lengths: np.ndarray,
    begin: np.ndarray,
    free: np.ndarray,
    config: BlankConfig,
    draws: Draws,
    ends: np.ndarray,
) -> _SpanArrays:
    """Whole sentences in random order, until they cover the share; the last needs no full stop."""
    text, inside = row_numbers(lengths), row_positions(lengths)
    usable = chosen[text] & (inside >= begin[text]) & (inside < (begin + free)[text])
    last = usable & (ends[tokens] | (inside == (begin + free - 1)[text]))
    text, stop = text[last], inside[last] + 1
    if not len(text):
        return text, stop, stop
    start = np.where(np.append(True, text[1:] != text[:-1]), begin[text], np.append(0, stop[:-1]))
    order = np.lexsort((draws(5, text, start), text))
    text, start, stop = text[order], start[order], stop[order]
    size = stop - start
    before = row_starts(size)
    before -= before[np.searchsorted(text, text)]
    want = (config.ratio * lengths).astype(np.int64)[text]
    taken = (before < want) | (before == 0)
    return text[taken], start[taken], stop[taken]


def _long_span(
    chosen: np.ndarray,
    opened: np.ndarray,
    lengths: np.ndarray,
    begin: np.ndarray,
    free: np.ndarray,
    config: BlankConfig,
    draws: Draws,
) -> _SpanArrays:
    """One span a text, its length uniform; the text's end where `opened`."""
    texts = np.flatnonzero(chosen)
    number = np.zeros(1)
    longest = np.minimum(lengths - 2, free + opened)[texts]
    longest = np.maximum(longest, 1)
    shortest = np.clip((config.least * lengths[texts]).astype(np.int64), 1, longest)
    size = shortest + np.floor(draws(6, texts, number) * (longest - shortest + 1)).astype(np.int64)
    slack = np.maximum(free[texts] - size, 0)
    start = begin[texts] + np.floor(draws(7, texts, number) * (slack + 1)).astype(np.int64)
    start = np.where(opened[texts], lengths[texts] - size, start)
    return texts, start, start + size
