"""An adapter that starts near the vectors its language model has learned to read."""

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.examples import States
from recjax.interpreter.starting import StartConfig, check_vectors, start_near

RNG = np.random.default_rng(0)
N, WIDTH = 12, 64  # items; of the tiny language model
CODES = RNG.standard_normal((N, 6)).astype(np.float32)  # a recommender's vectors of items
VECTORS = RNG.standard_normal((N, WIDTH)).astype(np.float32)
TITLES = [f"Film {k}" for k in range(N)]


def examples(count=200):
    """Histories of four items whose states are the items' codes, [n 4 6]."""
    items = RNG.integers(0, N, (count, 5))
    histories = [[TITLES[k] for k in row[1:]] for row in items]
    added = [TITLES[k] for k in items[:, -1]]
    return items[:, 1:], States(CODES[items[:, :-1]], CODES[items[:, 1:]], added, histories)


def started(make_bridge, ask, adapter=None, count=200):
    items, given = examples(count)
    bridge = make_bridge(ask, adapter)
    params, config = bridge.initial(given.after, 0), StartConfig(count)
    return items, given, bridge, start_near(bridge, params, given, TITLES, VECTORS, config, 0)


def cosines(bridge, params, states):
    soft = np.asarray(bridge.soft(params, states[:, None]))[:, 0]
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (soft, VECTORS)]
    return soft, unit[0] @ unit[1].T


def blended(items, fade):
    """[n E] sums in which the k-th newest item weighs fade^k."""
    ages = np.arange(items.shape[1])[::-1]
    return np.einsum("W,BWE->BE", fade ** ages.astype(float), VECTORS[items])


def near(soft, wanted):
    lengths = np.linalg.norm(soft, axis=1) * np.linalg.norm(wanted, axis=1)
    return (np.sum(soft * wanted, axis=1) / lengths).mean()


RESIDUAL, RECOVERY = {"residual": 1.0, "recovery": 0.0}, {"residual": 0.0, "recovery": 1.0}


@pytest.mark.parametrize(
    ("adapter", "count", "right"),
    [("linear", 200, 0.6), ("mlp", 8000, 0.95), ("qformer", 8000, 0.95)],
)
def test_soft_tokens_point_at_what_was_added(make_bridge, adapter, count, right):
    fields = {"name": adapter, "hidden": 32}
    items, given, bridge, params = started(make_bridge, RESIDUAL, fields, count)
    soft, found = cosines(bridge, params, given.after[:500])
    added = items[:500, -1]
    assert (found.argmax(axis=1) == added).mean() > right
    size = np.linalg.norm(soft, axis=1).mean() / np.linalg.norm(VECTORS, axis=1).mean()
    assert 0.8 < size < 1.25
    begun = cosines(bridge, bridge.initial(given.after, 0), given.after[:500])[1]
    assert (begun.argmax(axis=1) == added).mean() < 0.4


def test_the_linear_adapter_is_the_best_there_is(make_bridge):
    """Least squares over numpy's own solver, from the newest position."""
    items, given, bridge, params = started(make_bridge, RESIDUAL)
    x = np.c_[given.after[:, -1], np.ones(len(items))]
    best = x @ np.linalg.lstsq(x, VECTORS[items[:, -1]], rcond=None)[0]
    soft = cosines(bridge, params, given.after)[0]
    assert near(soft, best) > 0.999
    assert bridge.soft(params, given.after[:, None]).shape[1] == 2  # both soft tokens, alike
    np.testing.assert_array_equal(*np.asarray(bridge.soft(params, given.after[:, None]))[0])


def test_for_recovery_they_are_near_the_blend_of_the_history(make_bridge):
    items, given, bridge, params = started(make_bridge, RECOVERY)
    soft, found = cosines(bridge, params, given.after)
    assert near(soft, blended(items, 0.95)) > 0.65  # six features of twelve reach sqrt(6 / 12)
    named = np.take_along_axis(found, items, axis=1).mean(axis=0)
    absent = ~(items[:, :, None] == np.arange(N)).any(axis=1)
    assert named.min() > found[absent].mean() + 0.1  # every position, the oldest too


def test_a_residual_may_start_at_a_history_that_fades(make_bridge):
    """Sums of items in one vector, as Caser's."""
    items, given = examples()
    states = np.einsum("W,BWD->BD", 0.9 ** np.arange(4)[::-1], CODES[items])[:, None]
    histories = [[TITLES[k] for k in row] for row in items]
    given = States(states, states, [row[-1] for row in histories], histories)
    bridge, x = make_bridge(RESIDUAL, length=1), np.c_[states[:, 0], np.ones(len(items))]
    found, best = {}, {}
    for fade in (0.0, 0.9):
        params = bridge.initial(states, 0)
        begun = start_near(bridge, params, given, TITLES, VECTORS, StartConfig(200, fade), 0)
        found[fade] = cosines(bridge, begun, states)[0]
        best[fade] = x @ np.linalg.lstsq(x, blended(items, fade), rcond=None)[0]
    for fade, other in ((0.0, 0.9), (0.9, 0.0)):
        assert near(found[fade], best[fade]) > 0.999 > near(found[fade], best[other]) + 0.01


def test_titles_without_a_vector_count_for_nothing(make_bridge):
    items, given, bridge, _ = started(make_bridge, RESIDUAL)
    known = items[:, -1] < N - 2
    few = start_near(
        bridge, bridge.initial(given.after, 0), given, TITLES[:-2], VECTORS[:-2],
        StartConfig(200), 0,
    )  # fmt: skip
    x = np.c_[given.after[known, -1], np.ones(known.sum())]
    best = np.linalg.lstsq(x, VECTORS[items[known, -1]], rcond=None)[0]
    soft = cosines(bridge, few, given.after[known])[0]
    assert near(soft, x @ best) > 0.999


def test_what_is_measured_stays(make_bridge):
    _, given, bridge, params = started(make_bridge, RECOVERY)
    begun = bridge.initial(given.after, 0)
    for path, value in params.items():
        same = np.array_equal(value, begun[path])
        assert same == path.startswith("whitening/"), path


def test_vectors_of_another_model_or_catalogue(make_bridge):
    _, given = examples()
    bridge = make_bridge()
    params = bridge.initial(given.after, 0)
    with pytest.raises(InputError, match="item vectors of width 63; the language model's is 64"):
        check_vectors(bridge, TITLES, TITLES, VECTORS[:, 1:])
    with pytest.raises(InputError, match="none of the titles to learn from has an item vector"):
        check_vectors(bridge, ["Emma"], TITLES, VECTORS)
    check_vectors(bridge, ["Emma", TITLES[3]], TITLES, VECTORS)
    with pytest.raises(InputError, match="no title of 50 examples has an item vector"):
        others = [f"Book {k}" for k in range(N)]
        start_near(bridge, params, given, others, VECTORS, StartConfig(50), 0)


def test_examples_whose_states_are_the_same(make_bridge):
    """Those of other titles differ, so the adapter has a whitening."""
    _, given = examples(50)
    given.after[::2] = 3.0
    given = States(given.after, given.after, ["Film 1", "Emma"] * 25)
    bridge = make_bridge(RESIDUAL)
    params, config = bridge.initial(given.after, 0), StartConfig(50)
    with pytest.raises(InputError, match="the 25 examples with an item vector are all the same"):
        start_near(bridge, params, given, TITLES, VECTORS, config, 0)


def test_bad_config():
    for bad in ({"examples": -1}, {"fade": 1.5}):
        with pytest.raises(InputError, match="examples: expected|fade: expected"):
            StartConfig(**bad)
