"""An adapter that starts near the vectors its language model has learned to read."""

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.examples import States
from recjax.interpreter.starting import StartConfig, start_near

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


def started(make_bridge, ask, config):
    items, given = examples()
    bridge = make_bridge(ask)
    params = bridge.initial(given.after, 0)
    return items, given, bridge, start_near(bridge, params, given, TITLES, VECTORS, config, 0)


def cosines(bridge, params, states):
    soft = np.asarray(bridge.soft(params, states[:, None]))[:, 0]
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (soft, VECTORS)]
    return soft, unit[0] @ unit[1].T


def test_soft_tokens_point_at_what_was_added(make_bridge):
    ask = {"residual": 1.0, "recovery": 0.0}
    items, given, bridge, params = started(make_bridge, ask, StartConfig(300, 32))
    soft, found = cosines(bridge, params, given.after)
    assert (found.argmax(axis=1) == items[:, -1]).mean() > 0.95
    size = np.linalg.norm(soft, axis=1).mean() / np.linalg.norm(VECTORS, axis=1).mean()
    assert 0.8 < size < 1.25
    begun = bridge.initial(given.after, 0)
    assert (cosines(bridge, begun, given.after)[1].argmax(axis=1) == items[:, -1]).mean() < 0.5


def test_for_recovery_they_are_near_the_blend_of_the_history(make_bridge):
    ask = {"residual": 0.0, "recovery": 1.0}
    items, given, bridge, params = started(make_bridge, ask, StartConfig(300, 32))
    soft, found = cosines(bridge, params, given.after)
    blends = np.einsum("W,BWE->BE", 0.95 ** np.arange(4)[::-1], VECTORS[items])
    lengths = np.linalg.norm(soft, axis=1) * np.linalg.norm(blends, axis=1)
    near = np.sum(soft * blends, axis=1) / lengths
    assert near.mean() > 0.65  # six features of twelve items reach sqrt(6 / 12)
    named = np.take_along_axis(found, items, axis=1).mean(axis=0)
    absent = ~(items[:, :, None] == np.arange(N)).any(axis=1)
    assert named.min() > found[absent].mean() + 0.1  # every position, the oldest too
    weights = np.asarray(params["body/filter"])
    assert np.abs(weights[0]) > 0.2 * np.abs(weights[-1])


def test_what_is_measured_stays(make_bridge):
    _, given, bridge, params = started(make_bridge, {}, StartConfig(5, 8))
    begun = bridge.initial(given.after, 0)
    for path, value in params.items():
        same = np.array_equal(value, begun[path])
        assert same == path.startswith("whitening/"), path


def test_vectors_of_another_model_or_catalogue(make_bridge):
    _, given = examples()
    bridge = make_bridge()
    params = bridge.initial(given.after, 0)
    with pytest.raises(InputError, match="item vectors of width 63; the language model's is 64"):
        start_near(bridge, params, given, TITLES, VECTORS[:, 1:], StartConfig(5), 0)
    with pytest.raises(InputError, match="no title of 256 examples has an item vector"):
        others = [f"Book {k}" for k in range(N)]
        start_near(bridge, params, given, others, VECTORS, StartConfig(5), 0)


def test_bad_config():
    with pytest.raises(InputError, match="config.start: steps from 0"):
        StartConfig(steps=-1)
