"""Pairs for a model with an encoder: the prompt is read by the encoder, the decoder writes.

Letters: B pairs a batch, S tokens of a prompt, T tokens of an answer, K batches a call.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.text.pairs import Row, Shuffled
from recjax.text.token_batches import NO_LABEL

_STRIDE = 32  # S and T are multiples: few programs


def _width(sizes: Sequence[int]) -> int:
    return -(-max(sizes) // _STRIDE) * _STRIDE


def sides(rows: Sequence[Row], end: Sequence[int]) -> dict[str, np.ndarray]:
    """Pairs as rows of an encoder and a decoder.

    Args:
        rows: B of them.
        end: ids that end a whole text, which a prompt is here.

    Returns:
        `encoder` [B S] and `real` [B S] bool; `decoder` [B T], which begins with token 0, and
        `labels` [B T], the token that each place predicts; -100 pads.
    """
    read = [[*row.tokens[: row.learned], *end] for row in rows]
    encoder = np.zeros((len(rows), _width([len(ids) for ids in read])), np.int32)
    real = np.zeros(encoder.shape, bool)
    width = _width([len(row.tokens) - row.learned for row in rows])
    labels = np.full((len(rows), width), NO_LABEL, np.int32)
    for n, (ids, row) in enumerate(zip(read, rows, strict=True)):
        encoder[n, : len(ids)], real[n, : len(ids)] = ids, True
        labels[n, : len(row.tokens) - row.learned] = row.tokens[row.learned :]
    decoder = np.pad(np.maximum(labels[:, :-1], 0), ((0, 0), (1, 0)))
    return {"encoder": encoder, "real": real, "decoder": decoder, "labels": labels}


@dataclasses.dataclass(frozen=True, eq=False)
class SidedBatches:
    """Training batches of `sides`; a batch = f(step).

    Attributes:
        rows: the pairs, shuffled without end.
        end: see `sides`.
        per_step: B of all processes.
        process: this process, and how many there are; each makes its part.
        agree: what all processes take of several numbers (the most).
    """

    rows: Shuffled[Row]
    end: Sequence[int]
    per_step: int
    process: tuple[int, int] = (0, 1)
    agree: Callable[[list[int]], list[int]] = list

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every pair is seen about once."""
        return max(1, round(len(self.rows) / self.per_step))

    @functools.cached_property
    def _share(self) -> int:
        return self.per_step // self.process[1]

    def __call__(self, step: int, count: int = 1) -> Mapping[str, np.ndarray]:
        """The arrays of steps step .. step + count - 1: [K B ...]."""
        firsts = (
            s * self.per_step + self.process[0] * self._share for s in range(step, step + count)
        )
        arrays = sides([self.rows(f + k) for f in firsts for k in range(self._share)], self.end)
        width, length = self.agree([arrays["encoder"].shape[1], arrays["labels"].shape[1]])
        fill: dict[str, Any] = {"labels": NO_LABEL}
        out = {}
        for name, a in arrays.items():
            more = (width if name in ("encoder", "real") else length) - a.shape[1]
            a = np.pad(a, ((0, 0), (0, more)), constant_values=fill.get(name, 0))
            out[name] = a.reshape(count, self._share, a.shape[1])
        return out
