"""Measures of answers: each metric is the mean of its values, beside the trivial answer's."""

import numpy as np
import pytest

from recjax.recsysllm.answered import of_numbers, of_ranks, of_texts


def test_ranks():
    found = of_ranks({"full": np.array([1, 3, np.inf])}, (1, 5))
    assert found.values["full"]["hr@5"].tolist() == [1, 1, 0]
    assert found.metrics["full/hr@1"] == pytest.approx(1 / 3)
    assert found.metrics["full/ndcg@5"] == pytest.approx((1 + 0.5) / 3)
    assert not any(name.endswith("rank") for name in found.metrics)


def test_numbers():
    found = of_numbers("rating", ["5", "no", "9"], [4.0, 3.0, 2.0], ["4", "3", "5"], [2.0, 5.0])
    assert found.values["rating"]["mse"].tolist() == [1, 0.25, 0]  # 3.5 counts for "no", 5 for "9"
    assert found.values["rating"]["parsed"].tolist() == [1, 0, 1]
    assert found.metrics["rating/rmse"] == pytest.approx((1.25 / 3) ** 0.5)
    assert found.values["rating/expected"]["mae"].tolist() == [0, 0, 3]
    assert found.metrics["rating/baseline/mae"] == pytest.approx((0.5 + 0.5 + 1.5) / 3)


def test_texts():
    found = of_texts(
        "review", ["a good book", "bad"], ["a good book", "fine"], ["bad", "ok", "bad"]
    )
    assert found.values["review"]["rouge1"].tolist() == [100, 0]
    assert found.metrics["review/rouge1"] == 50
    assert found.metrics["review/baseline/rouge1"] == 0 and "review/bleu4" in found.metrics
