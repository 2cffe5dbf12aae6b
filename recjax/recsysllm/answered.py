"""Measures of answers: ranks, numbers, texts; each with the values of every answer.

Letters: n answers.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from recjax.evaluation.ranking import rank_values
from recjax.evaluation.text import (
    bleus,
    error_means,
    number_errors,
    number_values,
    rouge_values,
    text_metrics,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """The measures of n answers to a prompt.

    Attributes:
        metrics: by name, without the prompt's prefix.
        values: by protocol and metric, [n] each: `rank`, and what `metrics` has means of (`mse` for
            `rmse`). BLEU is a whole corpus's; no answer has it alone.
    """

    metrics: dict[str, float]
    values: dict[str, dict[str, np.ndarray]]


def of_ranks(ranks: Mapping[str, np.ndarray], cutoffs: Sequence[int]) -> Answered:
    """HR and NDCG at the cutoffs of ranks [n] by protocol; infinite = not found."""
    values = {}
    for protocol, column in ranks.items():
        known = rank_values(column, cutoffs)
        names = [f"{m}@{k}" for k in cutoffs for m in ("hr", "ndcg")]
        values[protocol] = {"rank": column} | {name: known[name] for name in names}
    return Answered(_means(values), values)


def of_numbers(
    family: str,
    written: Sequence[str],
    expected: Sequence[float],
    answers: Sequence[str],
    known: Sequence[float],
) -> Answered:
    """Errors of the numbers in texts [n], of expected ones [n], and of the known numbers' mean.

    Args:
        family: begins the names.
        written, expected: see above.
        answers: [n] the true numbers.
        known: of training. Their range clips, and their mean counts where a text has no number.
    """
    mean, targets = float(np.mean(known)), list(map(float, answers))
    how = {"fallback": mean, "least": min(known), "most": max(known)}
    values = {
        family: number_values(written, targets, **how),
        f"{family}/expected": number_values([f"{e}" for e in expected], targets, **how),
    }
    del values[f"{family}/expected"]["parsed"]
    metrics = {
        f"{protocol}/{name}": value
        for protocol, columns in values.items()
        for name, value in error_means(columns).items()
    }
    trivial = number_errors([f"{mean}"] * len(targets), targets, **how)
    return Answered(metrics | _baseline(family, trivial), values)


def of_texts(
    family: str, written: Sequence[str], answers: Sequence[str], known: Sequence[str]
) -> Answered:
    """BLEU and ROUGE of texts [n], and of the most frequent known text in each one's place."""
    values = {family: rouge_values(written, answers)}
    metrics = {f"{family}/{key}": value for key, value in bleus(written, answers).items()}
    common = collections.Counter(known).most_common(1)[0][0]
    trivial = text_metrics([common] * len(answers), answers)
    return Answered(metrics | _means(values) | _baseline(family, trivial), values)


def _means(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    return {
        f"{protocol}/{name}": float(column.mean())
        for protocol, columns in values.items()
        for name, column in columns.items()
        if name != "rank"
    }


def _baseline(family: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{family}/baseline/{name}": value for name, value in metrics.items()}
