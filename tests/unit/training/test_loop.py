"""What is better: more of most metrics, less of a loss."""

import pytest

from recjax.training.loop import Progress, TrainConfig, _judge
from recjax.training.metrics import format_table


@pytest.mark.parametrize(
    ("metric", "best"), [("a/loss", 3), ("a/perplexity", 3), ("a/exact", 1), ("loss/hr@1", 1)]
)
def test_the_best_of_a_falling_metric(metric, best):
    progress = Progress()
    for step, value in enumerate([0.9, 0.5, 0.2, 0.4], start=1):
        _judge(progress, {metric: value}, step, TrainConfig(metric=metric, patience=9))
    assert (progress.best_step, progress.stale) == (best, 4 - best)


def test_metrics_without_cutoffs_in_a_table():
    table = format_table({"test/text/loss": 0.5, "test/text/exact": 0.25})
    assert [line.rstrip() for line in table.splitlines()] == [
        "test/text", "loss        0.5000", "exact       0.2500",
    ]  # fmt: skip
