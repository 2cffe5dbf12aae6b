"""Written texts beside the true ones: BLEU, ROUGE, errors of numbers, ranks of beams.

BLEU is sacrebleu's: of a whole corpus, one reference a text, tokens of mteval-v13a, the brevity
penalty, and a count of 0 in an order smoothed to a half, a quarter, ... ("exp"). ROUGE is
rouge-score's without stemming: the mean over texts of the F measure. Both are in percent.

In scripts without blanks between words (Chinese, Japanese, Thai, ...) each character is a token, as
in sacrebleu's "zh"; ROUGE takes letters and digits of all scripts, of which rouge-score knows a to
z and 0 to 9 alone.

A number is the first one that stands in a text (`parse_number`).
"""

import collections
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from recjax.errors import InputError

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# Marks, points and commas that are not in a number, dashes after a digit.
_SPLITS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d+)?|\.\d+)")
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")
# Characters that are tokens: Thai to Lao, Burmese, Khmer; all of China's and Japan's.
_ALONE = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\ufe10-\ufe1f"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff])"
)


def bleu_tokens(text: str) -> list[str]:
    """The tokens of mteval-v13a; single characters in scripts without blanks."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
    text = " " + _ALONE.sub(r" \1 ", text) + " "
    for pattern, into in _SPLITS:
        text = pattern.sub(into, text)
    return text.split()


def _ngrams(tokens: Sequence[str], n: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(zip(*(tokens[k:] for k in range(n)), strict=False))


def _pairs(texts: Sequence[str], references: Sequence[str]) -> None:
    if len(texts) != len(references) or not len(texts):
        raise InputError(
            f"{len(texts)} texts and {len(references)} references; expected as many of both, and "
            "one or more"
        )


def bleu(texts: Sequence[str], references: Sequence[str], order: int = 4) -> float:
    """BLEU of a corpus, 0 to 100.

    Args:
        texts: [n] what was written.
        references: [n] what should have been.
        order: longest n-grams that count.

    Raises:
        InputError: unequal numbers, or none.
    """
    _pairs(texts, references)
    right, total = np.zeros(order), np.zeros(order)
    written = wanted = 0
    for text, reference in zip(texts, references, strict=True):
        tokens, expected = bleu_tokens(text), bleu_tokens(reference)
        written, wanted = written + len(tokens), wanted + len(expected)
        for n in range(1, order + 1):
            grams = _ngrams(tokens, n)
            total[n - 1] += sum(grams.values())
            right[n - 1] += sum((grams & _ngrams(expected, n)).values())
    if not right[0] or not written:
        return 0.0
    log, smooth = 0.0, 1.0
    for hits, count in zip(right, total, strict=True):
        if not count:
            return 0.0
        if not hits:
            smooth *= 2
        log += math.log(hits / count if hits else 1 / (smooth * count))
    penalty = min(1.0, math.exp(1 - wanted / written))
    return 100 * penalty * math.exp(log / order)


def _words(text: str) -> list[str]:
    text = text.lower()
    if text.isascii():
        return [word for word in _NOT_A_WORD.split(text) if word]
    text = _ALONE.sub(r" \1 ", text)
    letters = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    return "".join(letters).split()


def _f_measure(hits: int, written: int, wanted: int) -> float:
    return 2 * hits / (written + wanted) if written and wanted else 0.0


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]


def rouge_values(texts: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """`rouge1`, `rouge2` and `rougeL`: the F measure of each text [n], 0 to 100; arguments as in
    `bleu`."""
    _pairs(texts, references)
    rows = []
    for text, reference in zip(texts, references, strict=True):
        words, expected = _words(text), _words(reference)
        row = []
        for n in (1, 2):
            grams, other = _ngrams(words, n), _ngrams(expected, n)
            hits = sum((grams & other).values())
            row.append(_f_measure(hits, sum(grams.values()), sum(other.values())))
        rows.append([*row, _f_measure(_common(words, expected), len(words), len(expected))])
    return dict(zip(("rouge1", "rouge2", "rougeL"), 100 * np.array(rows).T, strict=True))


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The means of `rouge_values`."""
    return {name: float(v.mean()) for name, v in rouge_values(texts, references).items()}


def bleus(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`bleu2` and `bleu4`."""
    return {f"bleu{order}": bleu(texts, references, order) for order in (2, 4)}


def text_metrics(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Those of `bleus` and of `rouge`."""
    return bleus(texts, references) | rouge(texts, references)


def parse_number(text: str) -> float | None:
    """The first number of a text; a comma may stand for the point. None where there is none.

    >>> parse_number("about 4,5 stars of 5"), parse_number("five")
    (4.5, None)
    """
    match = _NUMBER.search(text)
    return float(match[0].replace(",", ".")) if match else None


def number_values(
    texts: Sequence[str],
    targets: Sequence[float],
    *,
    fallback: float,
    least: float,
    most: float,
) -> dict[str, np.ndarray]:
    """Of each text [n]: `mse` and `mae`, the squared and the absolute error of its number, and
    `parsed`, whether it has one.

    Args:
        texts: [n].
        targets: [n].
        fallback: counts where a text has no number, so that no text is left out.
        least, most: numbers are clipped to these.
    """
    if len(texts) != len(targets) or not len(texts):
        raise InputError(f"{len(texts)} texts and {len(targets)} numbers; expected as many")
    numbers = [parse_number(text) for text in texts]
    values = [fallback if n is None else n for n in numbers]
    parsed = np.array([n is not None for n in numbers], np.float64)
    return {**error_values(values, targets, least, most), "parsed": parsed}


def error_values(
    numbers: ArrayLike, targets: ArrayLike, least: float, most: float
) -> dict[str, np.ndarray]:
    """`mse` and `mae`, the squared and the absolute error of each number [n], which is clipped."""
    errors = np.clip(numbers, least, most) - np.asarray(targets, np.float64)
    return {"mse": errors**2, "mae": np.abs(errors)}


def error_means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The means of `number_values` or `error_values`, `rmse` in place of `mse`."""
    means = {name: float(column.mean()) for name, column in values.items()}
    return {"rmse": math.sqrt(means.pop("mse")), **means}


def number_errors(texts: Sequence[str], targets: Sequence[float], **how: float) -> dict[str, float]:
    """`rmse`, `mae` and `parsed` of all texts; arguments as of `number_values`."""
    return error_means(number_values(texts, targets, **how))


def list_rank(groups: Sequence[Sequence[int]], target: int, seen: frozenset[int]) -> float:
    """The pessimistic rank of an item in a list of titles; infinite where none is its own.

    Items of one title are equal: the target stands last among them. A title counts once.

    Args:
        groups: the items of each title, best title first.
        target: the item.
        seen: items that take no part; the target does in any case.
    """
    rank, done = 0, set[int]()
    for items in groups:
        new = [k for k in dict.fromkeys(items) if k not in done and (k not in seen or k == target)]
        done.update(new)
        rank += len(new)
        if target in new:
            return float(rank)
    return math.inf
