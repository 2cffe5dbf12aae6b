"""Figures of answers, by hand: residual accuracy, recovered items, popularity."""

import numpy as np
import pytest

from recjax.evaluation.intervals import wilson
from recjax.frozen import Windows
from recjax.interpreter.measure import (
    Recovery,
    Residual,
    measure_recovery,
    measure_residual,
    popularity_recovery,
)
from recjax.interpreter.reader import Answer
from recjax.text.titles import Named


def answer(*named):
    """Of (items, strict items) a title."""
    return Answer(
        "...", tuple(Named("...", items) for items, _ in named), tuple(own for _, own in named)
    )


def windows_of(*rows):
    """Windows of these items."""
    items = np.concatenate(rows)
    stops = np.cumsum([len(row) for row in rows])
    return Windows(items, stops - [len(row) for row in rows], stops, 4)


def test_residual():
    answers = [
        answer(((1, 6), (1,))),  # two items of one title; letter by letter the first alone
        answer(((1, 6), (1,))),
        answer(((2,), (2,))),
        answer(((), ())),
        answer(),
    ]
    found = measure_residual(answers, np.array([1, 6, 3, 4, 5]))
    assert found.right.tolist() == [True, True, False, False, False]
    assert found.strict.tolist() == [True, False, False, False, False]
    assert found.outside.tolist() == [False, False, False, True, True]
    assert found.metrics() == {"accuracy": 0.4, "strict": 0.2, "outside": 0.4}
    assert tuple(found.metrics()) == Residual.names
    assert found.interval == wilson(2, 5) and found.interval[0] < 0.4 < found.interval[1]


def test_answers_without_an_item_are_refused():
    with pytest.raises(ValueError):
        measure_residual([answer()], np.array([1, 2]))


def test_recovery():
    windows = windows_of([1, 2, 3, 4], [5, 6], [7, 8, 9, 7], [2, 3])
    answers = [
        answer(((1,), (1,)), ((4, 9), ()), ((), ()), ((3,), (3,))),
        answer(((5,), (5,)), ((5,), (5,)), ((1,), (1,))),  # named twice, there once
        answer(((7,), ())),  # there twice, named once
        answer(),
    ]
    found = measure_recovery(answers, windows)
    assert found.counts.tolist() == [3, 1, 1, 0]
    assert found.strict.tolist() == [2, 1, 0, 0]
    assert found.named.tolist() == [4, 3, 1, 0]
    assert found.outside.tolist() == [1, 0, 0, 0]
    assert found.distribution.tolist() == [0.25, 0.5, 0.0, 0.25, 0.0]
    assert found.metrics() == {
        "mean": 1.25, "strict": 0.75, "none": 0.25, "more_than_3": 0.0, "more_than_5": 0.0,
        "outside": 1 / 8,
    }  # fmt: skip
    assert tuple(found.metrics()) == Recovery.names


def test_more_than_three_is_not_three():
    rows = [np.arange(1, 7)] * 4
    items = np.concatenate(rows)
    windows = Windows(items, np.arange(4) * 6, np.arange(4) * 6 + 6, 6)
    answers = [answer(*(((n,), (n,)) for n in range(1, count + 1))) for count in (3, 4, 5, 6)]
    metrics = measure_recovery(answers, windows).metrics()
    assert metrics["more_than_3"] == 0.75 and metrics["more_than_5"] == 0.25


def test_padding_is_no_item():
    windows = windows_of([3])
    assert windows.ids().tolist() == [[0, 0, 0, 3]]
    assert measure_recovery([answer(((0, 3), (0, 3)))], windows).counts.tolist() == [1]


def test_the_popularity_baseline():
    found = popularity_recovery(
        np.array([2, 3]), windows_of([2, 7, 3], [2, 8, 8, 8], [6, 7], [4, 1, 5, 9])
    )
    assert found.counts.tolist() == found.strict.tolist() == [2, 1, 0, 0]
    assert found.metrics()["none"] == 0.5 and found.metrics()["outside"] == 0.0
    assert found.distribution.tolist() == [0.5, 0.25, 0.25, 0.0, 0.0]
    assert found.named.tolist() == [2] * 4
