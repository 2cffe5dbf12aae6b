"""The evaluator of users' scores: whose answers count in which measure."""

import numpy as np
import pytest

from recjax.guided.user_ranking import PolicyEvaluationConfig, PolicyEvaluator


@pytest.mark.parametrize(("most", "users"), [(0, 5), (4, 4)])
def test_the_auc_is_a_mean_over_users_with_liked_and_other_items(most, users):
    """Users 0 and 3 like all or nothing; the reciprocal rank is everybody's, none counts twice."""
    liked = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 0]], bool)
    given = np.array([[0.5, 0.1], [0.9, 0.2], [0.2, 0.4], [0.5, 0.8], [1.0, 0.5]], np.float32)
    examples = {"users": np.arange(5), "liked": liked, "given": given}

    def ranked(params, batch, data):
        return batch["given"] * params, batch["given"], batch["users"] < 3

    evaluator = PolicyEvaluator(
        PolicyEvaluationConfig(batch_size=2, max_examples=most), "test", "next", examples, None,
        ranked, free=True,
    )  # fmt: skip
    done = []
    found = evaluator.run(np.float32(3.0), done.append)
    mixed = [k for k in (1, 2, 4) if k < users]
    assert found["test/users/auc"] == pytest.approx(given[mixed, 0].mean())
    assert found["test/full/mrr"] == pytest.approx(given[:users, 1].mean())
    assert found["test/users/loss"] == pytest.approx(1 - given[:users, 1].mean())
    assert found["test/users/read"] == pytest.approx(3 / users) and sum(done) == users
    np.testing.assert_allclose(evaluator.ratings(np.float32(3.0)), 3 * given[:users])


def test_data_without_ratings_have_no_auc():
    """A constant one would be the best at once, and end a training by its patience."""
    users = {"users": np.arange(3), "liked": np.zeros((3, 2), bool)}
    evaluator = PolicyEvaluator(
        PolicyEvaluationConfig(), "test", "next", users, None,
        lambda params, batch, data: (np.ones((3, 2)), np.full((3, 2), 0.25), np.ones(3)),
    )  # fmt: skip
    found = evaluator.run(np.float32(1.0))
    assert found == {"test/full/mrr": 0.25, "test/users/loss": 0.75}
    assert list(found) == evaluator.metric_names
