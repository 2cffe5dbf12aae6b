"""`run.recommend`: the evaluator's lists, of every model; users, histories, candidates, errors."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.models.recommender import NAMES, model_module
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config

OWN = {
    "dreamrec": {"steps": 20, "schedule": "cosine", "sampler_steps": 5},
    "fdsa": {"attributes": "genres", "layers": 1},
    "s3rec": {"attributes": "genres", "layers": 1},
    **{name: {"layers": 1} for name in ("bert4rec", "filtered", "hstu", "ligr", "wearec")},
}
# A model that knows users takes a history's for that of a stranger (test_personal.py).
OF_HISTORIES = [name for name in NAMES if not model_module(name).Recommender.personal]


@pytest.fixture(scope="module")
def make(sample_store):
    """`make(name) -> (run, params)` with fresh weights; two batches, and a catalogue in chunks."""

    def run(name):
        config = build_config(
            {
                "data": {"source": "simulated", "store": str(sample_store.path)},
                "model": {"name": name, "dim": 8, "max_length": 6}
                | OWN.get(name, {}),
                "evaluation": {
                    "protocols": ("full", "full_with_seen"), "batch_size": 64, "item_chunk": 100,
                },
            }
        )  # fmt: skip
        made = RecommenderRun(config, sample_store)
        return made, made.whole(made.init_state().params)

    return run


@pytest.fixture(scope="module")
def sasrec(make):
    return make("sasrec")


def histories_of(run, spans):
    keys = [record and record["key"] for record in run.store.catalog]
    return [
        [keys[item] for item in run.store.items[start:stop]]
        for start, stop in zip(spans.starts, spans.stops, strict=True)
    ]


@pytest.mark.parametrize("name", OF_HISTORIES)
def test_lists_are_the_evaluators(make, name):
    run, params = make(name)
    evaluator = run.evaluator("test")
    histories = histories_of(run, evaluator.examples)
    assert len(histories) > 64 and max(map(len, histories)) > run.window
    results = list(evaluator.rank(params))
    recommended = {}
    for protocol, filter_seen in (("full", True), ("full_with_seen", False)):
        top = np.concatenate([part[protocol]["top"] for part in results])
        # The evaluator ranks a target that the history holds as well.
        spans = evaluator.examples
        repeated = np.array([
            run.store.items[stop] in run.store.items[start:stop]
            for start, stop in zip(spans.starts, spans.stops, strict=True)
        ])  # fmt: skip
        found = run.recommend(histories, k=20, filter_seen=filter_seen, params=params)
        new = ~repeated if filter_seen else slice(None)
        np.testing.assert_array_equal(found.ids[new], top[new])
        assert (np.diff(found.scores, axis=1) <= 0).all()
        recommended[filter_seen] = found
    for history, keys in zip(histories, recommended[True].keys, strict=True):
        assert not set(history) & set(keys)
    assert any(
        set(history) & set(keys)
        for history, keys in zip(histories, recommended[False].keys, strict=True)
    )
    if name not in ("sasrec", "dreamrec"):
        return
    # Whoever else is asked for, and in which order.
    some = [70, 3, 3, 41]
    again = run.recommend([histories[n] for n in some], k=20, params=params)
    np.testing.assert_allclose(again.scores, recommended[True].scores[some], atol=1e-5)
    np.testing.assert_array_equal(again.ids, recommended[True].ids[some])


def test_users_are_their_whole_histories_in_the_order_asked_for(sasrec):
    run, params = sasrec
    for part in ("validation", "test"):
        assert run.evaluator(part).examples is getattr(run.split, part)
    store = run.store
    everyone = run.recommend(k=5, params=params)
    assert everyone.users == store.user_keys and everyone.ids.shape == (store.n_users, 5)
    # The last user's history ends with the data.
    numbers = [store.n_users - 1, 0, 7]
    some = run.recommend([store.user_keys[n] for n in numbers], k=5, params=params)
    assert list(some.users) == [store.user_keys[n] for n in numbers]
    np.testing.assert_array_equal(some.ids, everyone.ids[numbers])
    offsets = store.offsets
    keys = [record and record["key"] for record in store.catalog]
    whole = [[keys[i] for i in store.items[offsets[n] : offsets[n + 1]]] for n in numbers]
    given = run.recommend(whole, k=5, params=params)
    assert given.users is None
    np.testing.assert_array_equal(given.ids, some.ids)
    for ids, names, titles in zip(some.ids, some.keys, some.titles, strict=True):
        assert names == [keys[i] for i in ids]
        assert titles == [store.titles[i] for i in ids]


def test_masked_models_read_the_last_users_history(make):
    """The mask after it lies behind the data."""
    run, params = make("bert4rec")
    last = run.store.user_keys[-1]
    alone = run.recommend([last], k=5, params=params)
    np.testing.assert_array_equal(alone.ids, run.recommend(k=5, params=params).ids[-1:])


def test_scores_are_those_of_the_model(sasrec):
    run, params = sasrec
    history = histories_of(run, run.split.test)[0]
    found = run.recommend([history], k=run.store.n_items, params=params)
    model = run.model.merge(params)
    ids = np.array([[run.store.item_ids[key] for key in history[-run.window :]]])
    scores = np.asarray(jax.jit(lambda ids: model.score(model.predict(ids)))(ids))[0]
    count = run.store.n_items - 1 - len(set(history))
    assert (found.ids[0, count:] == 0).all() and (found.scores[0, count:] == -np.inf).all()
    assert len(found.keys[0]) == len(found.titles[0]) == count == len(set(found.ids[0, :count]))
    np.testing.assert_allclose(found.scores[0, :count], scores[found.ids[0, :count]], atol=1e-5)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_exported_vectors_rank_as_the_guide_says(make, name):
    text = (Path(__file__).parents[3] / "recjax" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = (block for block in blocks if block.startswith("vectors = "))
    run, params = make(name)
    histories = histories_of(run, run.split.test)[:3]
    rows = [[run.store.item_ids[key] for key in keys[-4:]] for keys in histories]
    names = {"np": np, "run": run, "model": run.model.merge(params)}
    names["ids"] = np.array([[0] * (4 - len(row)) + row for row in rows])
    exec(code, names)
    shown = [[names["keys"][place] for place in row] for row in names["best"]]
    histories = [keys[-4:] for keys in histories]
    assert shown == run.recommend(histories, k=10, filter_seen=False, params=params).keys


def test_among(sasrec):
    run, params = sasrec
    store = run.store
    all_of_them = run.recommend(k=store.n_items, params=params)
    candidates = {3, 50, 120, store.n_items - 1}
    found = run.recommend(k=3, among=[store.catalog[i]["key"] for i in candidates], params=params)
    for ids, whole, keys in zip(found.ids, all_of_them.ids, found.keys, strict=True):
        expected = [i for i in whole if i in candidates][:3]
        assert ids.tolist() == expected + [0] * (3 - len(expected))
        assert len(keys) == len(expected)


def test_keys_may_be_numbers(tmp_path, make):
    """Raw keys of many logs are whole numbers; the data keep them as text."""
    from recjax.data.prepare import DataConfig, prepare

    rows = "".join(f"{u},{(u + t) % 9},{t}\n" for u in range(20) for t in range(4))
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + rows)
    data = DataConfig("table", str(tmp_path / "store"), str(tmp_path / "log.csv"))
    section = {"data": {"source": "table", "store": "x"}, "model": {"name": "gru4rec", "dim": 4}}
    run = RecommenderRun(build_config(section), prepare(data))
    params = run.init_state().params
    by_text = run.recommend([["3", "4"]], k=2, params=params)
    assert by_text.keys == run.recommend(np.array([[3, 4]]), k=2, params=params).keys
    assert run.recommend([7, 8], k=2, params=params).users == ["7", "8"]


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (
            ["nobody", "USER", "nowhere"],
            {},
            "users: 2 users that are not in the data: 'nobody', 'n",
        ),
        ([["ITEM", "x"], ["y"], ["x"]], {}, "histories: 2 items that are not in the data: 'x', 'y"),
        ([[f"x{n}" for n in range(99)]], {}, "histories: 99 items .* 'x9' and 89 more$"),
        (["ITEM"], {}, r"not in the data: .* \(they are items: a history is a list of its own"),
        (["nobody"], {"among": ["x", 5]}, "among: 2 items .*'x', '5'; users: 1 user that is not"),
        ([["ITEM"], [], []], {}, "histories: number 2, 3 is empty; expected an item at least"),
        ([["\x1b[2Jx"]], {}, r"not in the data: '\\x1b\[2Jx'"),
        ([], {}, "the list is empty"),
        ("USER", {}, "users or histories: expected a list, got '"),
        (["USER", ["ITEM"]], {}, "number 2 list; expected user keys alone, or lists of item keys"),
        ([["ITEM", 2.5]], {}, "history 1: 2.5 is no item key"),
        ([["ITEM", None]], {}, "history 1: NoneType is no item key"),
        (7, {}, "expected a list, got 7"),
        (["USER"], {"among": []}, "among: no item that may be recommended"),
        (["USER"], {"among": "ITEM"}, "among: expected a list, got '"),
        (["USER"], {"k": 0}, "k: expected a whole number from 1, got 0"),
        (["USER"], {"k": 2.5}, "k: expected a whole number from 1, got 2.5"),
        (["USER"], {"k": True}, "k: expected a whole number from 1, got True"),
    ],
)
def test_bad_requests_are_one_error(sasrec, asked, options, message):
    run, params = sasrec
    real = {"USER": run.store.user_keys[0], "ITEM": run.store.catalog[1]["key"]}

    def fill(value):
        return [fill(v) for v in value] if isinstance(value, list) else real.get(str(value), value)

    options = {key: fill(value) for key, value in options.items()}
    with pytest.raises(InputError, match=message) as caught:
        run.recommend(fill(asked), params=params, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_scores_that_are_no_numbers(sasrec):
    run, params = sasrec
    with pytest.raises(InputError, match="scores are no numbers"):
        run.recommend(params={path: array * np.nan for path, array in params.items()})


def test_a_checkpoint_is_read_once(make, tmp_path):
    run, params = make("gru4rec")
    with pytest.raises(InputError, match="no complete checkpoint; run `recjax train` first"):
        run.recommend(k=2)
    calls = []
    run.best_step = lambda: 4
    run.restore = lambda step: calls.append(step) or params
    a, b = (run.recommend(k=2) for _ in range(2))
    assert calls == [4]
    np.testing.assert_array_equal(a.ids, b.ids)
    run.recommend(k=2, step=3)
    assert calls == [4, 3]
