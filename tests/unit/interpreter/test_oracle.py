"""Oracle items: encoded as items are, next to whom, and the shares of what was said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.evaluation.intervals import wilson
from recjax.interpreter.oracle import (
    Oracles,
    generate_oracles,
    measure_oracles,
    nearest_titles,
)
from recjax.interpreter.reader import Answer
from recjax.models.dreamrec import Recommender
from recjax.text.titles import Named, TitleIndex
from recjax.training.workdir import build_config, open_run, start_run


@pytest.fixture(scope="module")
def run(finished):
    return open_run(finished[0])


def test_an_oracle_item_that_is_an_item_is_encoded_as_that_item(run, monkeypatch):
    """The states are exactly those of the history with the item appended."""
    table = np.asarray(run.recommender.model.merge(run.recommender_params).item_table())
    windows = run.windows("test", newest=False)[np.arange(60)]
    wanted = 1 + np.arange(len(windows)) % (len(table) - 1)
    pointed = iter([wanted])

    def oracle(self, ids, key):
        # Of another length, as what is generated is: only the direction counts.
        some = np.resize(next(pointed), len(ids))
        return 2.5 * self.item_table()[some]

    monkeypatch.setattr(Recommender, "oracle", oracle)
    found = generate_oracles(run, windows)
    assert len(windows) <= 64 and found.nearest.tolist() == wanted.tolist()
    histories = windows.ids(back=1)
    appended = np.concatenate([histories[:, 1:], wanted[:, None]], axis=1).astype(np.int32)
    np.testing.assert_allclose(found.before, run.encoder(histories), atol=1e-5)
    np.testing.assert_allclose(found.after, run.encoder(appended), atol=1e-5)
    assert (appended == 0).any() and found.before.shape == (len(windows), 5, 8)


def test_a_generated_vector_is_between_the_items(run):
    """Its states are not those of the nearest item, and nothing knows the item that was chosen."""
    windows = run.windows("test", newest=True)
    found = generate_oracles(run, windows, seed=3)
    histories = windows.ids(back=1)
    near = np.concatenate([histories[:, 1:], found.nearest[:, None]], axis=1).astype(np.int32)
    same = np.asarray(run.encoder(near))
    np.testing.assert_allclose(found.after[:, :-1], same[:, :-1], atol=1e-5)
    assert (np.abs(found.after[:, -1] - same[:, -1]).max(axis=1) > 1e-3).all()
    model = run.recommender.model.merge(run.recommender_params)
    padded = histories[np.minimum(np.arange(64), len(histories) - 1)]
    key = jax.random.fold_in(jax.random.key(3), 0)
    vectors = np.asarray(jax.jit(model.oracle)(jnp.asarray(padded), key))[: len(histories)]
    table = np.asarray(model.item_table())
    distance = ((vectors[:, None] / np.linalg.norm(vectors, axis=-1)[:, None, None]
                 - table / np.sqrt(8)) ** 2).sum(-1)  # fmt: skip
    np.testing.assert_array_equal(distance[:, 1:].argmin(axis=1) + 1, found.nearest)
    items = windows.items.copy()
    items[windows.stops - 1] = 1
    other = type(windows)(items, windows.starts, windows.stops, windows.window)
    np.testing.assert_array_equal(generate_oracles(run, other, seed=3).after, found.after)
    assert np.abs(generate_oracles(run, windows, seed=4).after - found.after).max() > 1e-3


def test_many_histories_in_batches(run):
    windows = run.windows("train", newest=False)[np.arange(70)]
    found = generate_oracles(run, windows)
    assert len(found.before) == len(found.after) == len(found.nearest) == 70
    np.testing.assert_allclose(found.before, run.encoder(windows.ids(back=1)), atol=1e-5)
    first = generate_oracles(run, windows[np.arange(64)])
    np.testing.assert_array_equal(found.after[:64], first.after)


def test_other_recommenders_generate_nothing(interpreter_section, trained, tmp_path):
    given = interpreter_section(recommender=str(trained("sasrec", seed=1)))
    run = start_run(build_config(given), tmp_path / "run")
    with pytest.raises(
        InputError, match=r"--judge\) need a generative recommender \(dreamrec\); .* is a sasrec"
    ):
        generate_oracles(run, run.windows("test", newest=True))


def said(*items, text="said"):
    return Answer("...", (Named(text, items),), (items,))


def test_shares_by_hand():
    """Nearest items 1 2 3 4; users chose 1 9 3 5; two items (1, 6) have one title."""
    answers = [said(1, 6), said(9), said(), Answer("", (), ())]
    oracles = Oracles(np.zeros((4, 1, 2)), np.zeros((4, 1, 2)), np.array([1, 2, 3, 4]))
    found = measure_oracles(answers, oracles, np.array([6, 9, 3, 5]))
    assert found.known.tolist() == [True, True, False, False]
    assert found.agree.tolist() == [True, False, False, False]
    assert found.hit.tolist() == [True, True, False, False]
    assert found.nearest_hit.tolist() == [False, False, True, False]
    (low, high), (near_low, near_high) = wilson(2, 4), wilson(1, 4)
    assert found.metrics() == {
        "oracle/in_catalogue": 0.5, "oracle/agrees_with_nearest": 0.25,
        "oracle/hit": 0.5, "oracle/hit_low": low, "oracle/hit_high": high,
        "oracle/nearest_hit": 0.25, "oracle/nearest_hit_low": near_low,
        "oracle/nearest_hit_high": near_high,
    }  # fmt: skip


def test_answers_beyond_the_catalogue_have_their_most_alike_titles(titles):
    index = TitleIndex(titles)
    answers = [said(5, text="Dune"), said(text="Brasil"), Answer("no words", (), ())]
    ((text, near),) = nearest_titles(answers, index.nearest)
    assert text == "Brasil" and near[0][0] == 3 and len(near) == 3
