"""Given answers to a question, ranked by the likelihood of each.

The answers of a question stand behind it side by side in one row (`recjax.scoring.options`).

Letters: n tokens of all rows, one row after the other.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from recjax.data.ragged import row_numbers
from recjax.evaluation.likelihood import LikelihoodConfig, PredictFn
from recjax.recsysllm.blanks import Blanked
from recjax.recsysllm.passages import Passage, Pieces
from recjax.recsysllm.pretrain import Blanking
from recjax.scoring.options import OptionRows

_ENCODED = 4096  # answers at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Beside(Blanked):
    """Questions, each with its answers behind it.

    Attributes:
        options: [n] int32, which of its question's answers a token belongs to, from 1 on; 0 in the
            question.
    """

    options: np.ndarray

    def fields(self) -> Mapping[str, tuple[np.ndarray, int]]:
        """The fields of `Blanked`, and `options` [R T]."""
        return {**super().fields(), "options": (self.options, 0)}


def beside(blanked: Blanked, owners: np.ndarray, length: int) -> list[Beside]:
    """Texts with one blank each, joined to rows where their questions are the same.

    Args:
        blanked: questions with an answer each.
        owners: [B] the question of each, in order. One that was cut otherwise because its answer
            is longer begins a row of its own.
        length: T, at most in a row.
    """
    stops = np.cumsum(blanked.lengths)
    starts = stops - blanked.lengths
    middles = starts + blanked.sources
    groups: list[list[int]] = []
    room = 0
    for k, (start, middle, stop) in enumerate(zip(starts, middles, stops, strict=True)):
        first = groups[-1][0] if groups else k
        asked, before = slice(start, middle), slice(starts[first], middles[first])
        joined = (
            first < k
            and owners[first] == owners[k]
            and stop - middle <= room
            and np.array_equal(blanked.tokens[asked], blanked.tokens[before])
            and np.array_equal(blanked.positions[asked], blanked.positions[before])
        )
        if joined:
            groups[-1].append(k)
            room -= stop - middle
        else:
            groups.append([k])
            room = length - (stop - start)
    out = []
    for members in groups:
        first = members[0]
        spans = [np.arange(starts[first], middles[first])]
        spans += [np.arange(middles[k], stops[k]) for k in members]
        at, sizes = np.concatenate(spans), [len(span) for span in spans]
        out.append(
            Beside(
                blanked.tokens[at], blanked.labels[at], blanked.soft[at], np.array([len(at)]), [],
                blanked.positions[at], blanked.targets[at], np.array(sizes[:1]),
                np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            )
        )  # fmt: skip
    return out


def option_scores(
    blanking: Blanking,
    config: LikelihoodConfig,
    predict: PredictFn,
    params: Any,
    passages: Sequence[Passage],
    options: Sequence[Sequence[Pieces]],
    *,
    mean: bool = True,
    sharding: NamedSharding | None = None,
) -> list[np.ndarray]:
    """The log-probability of each option as the answer to its question, with its end.

    Args:
        blanking: makes rows.
        config: with the batch's size.
        predict: the model.
        params: its parameters.
        passages: the questions.
        options: of each question.
        mean: nats a token; else of the whole answer.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """
    counts = np.array([len(those) for those in options])
    questions = [
        dataclasses.replace(passage, answer=option)
        for passage, those in zip(passages, options, strict=True)
        for option in those
    ]
    owners, rows = row_numbers(counts), []
    for start in range(0, len(questions), _ENCODED):
        part = questions[start : start + _ENCODED]
        blanked = blanking(part, np.zeros(len(part), np.int64))
        rows += beside(blanked, owners[start : start + _ENCODED], blanking.length)
    scorer = OptionRows(config, blanking.length, rows, predict, sharding)
    return np.split(scorer.log_probs(params, mean=mean), np.cumsum(counts)[:-1])
