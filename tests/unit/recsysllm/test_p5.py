"""P5: its numbers and leaks, whole words, rows of an encoder and a decoder, and a run."""

import dataclasses
import types

import numpy as np
import pytest

from recjax.config import build
from recjax.data.interactions import LogBuilder
from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.recsysllm.p5 import P5Config, P5Run
from recjax.recsysllm.p5_data import item_numbers
from recjax.training.workdir import build_config, start_run

USERS, ITEMS = 24, 12
SMALL = {
    "name": "t5", "dim": 16, "mlp_dim": 32, "layers": 1, "encoder_layers": 1, "heads": 2,
    "kv_heads": 2, "head_dim": 8, "max_length": 96,
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Users who go through the items in a ring: the next item is the one after."""
    log = LogBuilder(timestamps=True, ratings=True)
    for user in range(USERS):
        for time in range(7):
            item = (user + time) % ITEMS
            log.add(f"u{user}", f"i{item}", time, 1 + (user + item) % 5)
    path = tmp_path_factory.mktemp("p5") / "store"
    return write_store(path, log.build(), {}, {"options": {}})


def config(store, tasks=None, **sections):
    text = {
        "tasks": {"sequential": 1.0, "only": ("2-3",), "history": 3, **(tasks or {})},
        "answers": {"beams": 4, "batch_size": 12, "free": 4, "cutoffs": (1, 4)},
        **sections.pop("text", {}),
    }
    given = {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": SMALL,
        "whole_words": 24,
        "tokenizer": {"vocab_size": 300},
        "answer": 4,
        "text": text,
        "train": {"batch_size": 48, "steps_per_call": 1},
        "evaluation": {"batch_size": 24},
    }
    return build(P5Config, {**given, **sections}, "config")


def test_numbers_of_items(store):
    run = P5Run(config(store), store)
    train, chosen = run.source.dataset.split.train, {}
    for ids in ("random", "train_order", "p5_order"):
        numbers = chosen[ids] = item_numbers(store, train, ids, 3)
        assert numbers[0] == 0 and sorted(numbers[1:]) == list(range(1, store.n_items))
        np.testing.assert_array_equal(numbers, item_numbers(store, train, ids, 3))
    # In P5's order most items of a sequence follow each other, the test's too.
    after = {
        ids: np.mean(
            [
                n[store.items[stop]] == 1 + n[store.items[stop - 1]]
                for stop in run.source.dataset.split.test.stops
            ]
        )
        for ids, n in chosen.items()
    }
    assert after["p5_order"] > 0.5 > after["random"]


def test_train_order_reads_training_alone(store):
    train = P5Run(config(store), store).source.dataset.split.train
    items = np.array(store.items)
    changed = types.SimpleNamespace(items=items, offsets=store.offsets, n_items=store.n_items)
    tested = np.setdiff1d(np.arange(len(items)), np.concatenate(
        [np.arange(a, b) for a, b in zip(train.starts, train.stops, strict=True)]
    ))  # fmt: skip
    items[tested] = items[tested][::-1]
    same = [
        np.array_equal(item_numbers(store, train, ids, 3), item_numbers(changed, train, ids, 3))
        for ids in ("random", "train_order", "p5_order")
    ]
    assert same == [True, True, False]


@pytest.mark.parametrize(("reviews", "leaks"), [("held_out", False), ("p5_random", True)])
def test_the_leak_of_reviews_is_a_switch(store, reviews, leaks):
    tasks = {"sequential": 1.0, "rating": 1.0, "only": (), "candidates": 4}
    run = P5Run(config(store, tasks, text={"reviews": reviews}), store)
    streams = run.source.stream.streams
    tested = set(run.source.dataset.split.test.stops.tolist())
    for name, stream in streams.items():
        told = {k for place in range(len(stream)) for k in stream(place).sources}
        assert bool(told & tested) == (leaks and name == "rating")
    if leaks:
        assert len(streams["rating"]) == pytest.approx(0.8 * len(store.items), rel=0.1)


def test_rows_of_prompts(store):
    run = P5Run(config(store), store)
    passages = [run.source.stream(k) for k in range(5)]
    tokenizer = run.tokenizer
    for passage, side in zip(passages, run.prompts.sides(passages), strict=True):
        real, words, answer = side.read, side.words, side.written
        assert real[-1] == tokenizer.eos_id
        assert tokenizer.decode(real[:-1]).lstrip() == passage.text
        # Each blank begins a word; all tokens of "17," are of one.
        starts = [0, *(k for k in range(1, len(real) - 1) if tokenizer.token(real[k])[0] == "Ġ")]
        expected = np.searchsorted(starts, np.arange(len(real) - 1), side="right")
        np.testing.assert_array_equal(words[:-1], np.minimum(expected, 23))
        assert words[-1] == 0 and answer[-1] == tokenizer.eos_id
        (short,) = dataclasses.replace(run.prompts, length=8).sides([passage])
        assert short.read.tolist() == [*real[-8:]]  # the newest of the history, and the end
        number = tokenizer.decode(answer[:-1]).strip()
        assert run.source.dataset.names.items(number) == [store.items[passage.sources[-1]]]


def test_processes_share_a_batch(store):
    """Each packs its part into rows; together they have the prompts of one process."""

    def prompts(batch):
        found = []
        for rows in zip(
            *(batch[k][0] for k in ("encoder", "read", "labels", "written")), strict=True
        ):
            encoder, read, labels, written = rows
            for k in range(1, read.max() + 1):
                found.append((encoder[read == k].tolist(), labels[written == k].tolist()))
        return sorted(found)

    whole = P5Run(config(store), store).batches
    parts = [dataclasses.replace(whole, process=(k, 2), agree=list)(3) for k in (0, 1)]
    assert prompts(whole(3)) == sorted(prompts(parts[0]) + prompts(parts[1]))
    assert parts[0]["encoder"].shape == parts[1]["encoder"].shape
    assert whole(3)["encoder"].shape[1] < whole.per_step  # rows hold several


def test_a_run_learns_the_ring(store, tmp_path, monkeypatch):
    import recjax

    monkeypatch.setattr("recjax.training.system.prepare", lambda section: store)
    given = config(
        store,
        optim={"learning_rate": 0.01, "clip_norm": 1.0},
        train={"batch_size": 48, "epochs": 50.0, "evaluate_every": 50.0, "steps_per_call": 10},
    )
    result = start_run(given, tmp_path).train()
    assert result["finished"] and result["test/full_with_seen/hr@1"] > 0.8
    assert result["test/full/hr@4"] >= result["test/full/hr@1"]
    assert 0 <= result["test/2-13/full/ndcg@4"] <= 1 and 0 <= result["test/gen/valid_ratio"] <= 1
    run = recjax.open_run(tmp_path)
    users = [f"u{user}" for user in range(USERS)]
    found = [keys[0] for keys in run.recommend(users, k=2, filter_seen=False).keys]
    after = [f"i{(user + 7) % ITEMS}" for user in range(USERS)]
    assert np.mean([a == b for a, b in zip(found, after, strict=True)]) > 0.7
    seen = run.recommend([["i1", "i2", "i3"]], k=3).keys[0]
    assert not {"i1", "i2", "i3"} & set(seen)
    lm = recjax.load_llm(tmp_path)  # with its table of whole words
    assert lm.config.whole_words == 24 and lm.family.name == "t5"
    # Its folder is a model that others go on from; another number of words is drawn anew.
    for words in (24, 30):
        changes = {"llm": str(tmp_path / "hf"), "model": {}, "whole_words": words}
        other = P5Run(config(store, **changes), store)
        state = other.init_state()
        same = np.array_equal(state.params["embedding"], lm.params["embedding"])
        assert same and other.tokenizer.size == lm.tokenizer.size
        assert state.params["whole_word"].shape == (words, 16)
        kept = np.array_equal(state.params["whole_word"][:24], lm.params["whole_word"])
        assert kept == (words == 24)


def test_candidates_rank_as_the_beams_find_them(store):
    tasks = {"sequential": 0.0, "direct": 1.0, "rating": 1.0, "only": (), "candidates": 4}
    run = P5Run(config(store, tasks), store)
    params = run.whole(run.init_state().params)
    evaluator, done = run.evaluator("test"), []
    values = evaluator.run(params, done.append)
    assert set(values) == set(evaluator.metric_names) and sum(done) == evaluator.count
    assert 0 < values["test/uni4/hr@4"] <= 1 and "test/5-8/uni4/hr@1" in values
    assert values["test/rating/parsed"] <= 1 and values["test/rating/expected/rmse"] < 4


def test_errors_name_the_key(store):
    given = {"system": "p5", "data": {"source": "simulated", "store": "x"}, "model": SMALL}
    with pytest.raises(InputError, match=r"config\.model\.name: llama; P5 needs an encoder"):
        build_config({**given, "model": {"name": "llama"}})
    with pytest.raises(InputError, match=r"config\.llm: .*neither is set"):
        build_config({**given, "model": {}})
    with pytest.raises(InputError, match=r"config\.model\.whole_words: stands in"):
        build_config({**given, "model": {**SMALL, "whole_words": 3}})
    with pytest.raises(InputError, match=r"config\.text\.ids: "):
        build_config({**given, "text": {"ids": "order"}})
    with pytest.raises(InputError, match=r"config\.text\.tasks\.text: P5 learns"):
        build_config({**given, "text": {"tasks": {"text": 1.0}}})
    with pytest.raises(InputError, match=r"config\.answer: 2 tokens; .* take 4"):
        P5Run(config(store, answer=2), store).prompts  # noqa: B018
    bare = config(store, {"sequential": 0.0, "review": 1.0, "only": ()})
    with pytest.raises(InputError, match=r"config\.text\.tasks\.review: the data have no"):
        P5Run(bare, store).source.stream  # noqa: B018
