"""Settings that do not fit the data are told at the start: before anything is written."""

from pathlib import Path

import pytest

from recjax.errors import InputError
from recjax.training.workdir import build_config, open_run, start_run


@pytest.fixture
def small(tmp_path):
    """12 users, 10 items; user 0 has chosen all but two, and the last user three times."""
    rows = ["user,item,timestamp"]
    for user in range(12):
        count = 8 if user == 0 else 3 if user == 11 else 5
        rows += [f"u{user},i{(user + k) % 10},{k}" for k in range(count)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows) + "\n")
    return {"source": "table", "path": str(path), "store": str(tmp_path / "small")}


@pytest.fixture
def start(small, tmp_path):
    """`start(**section)`: a run of the small data; the workdir is there afterwards, or not."""

    def start(**section):
        work = tmp_path / "work"
        given = {"data": small, "model": {"name": "sasrec", "dim": 8, "max_length": 6}} | section
        return start_run(build_config(given), work)

    yield start
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("split", "needs"),
    [
        ({}, "'leave_one_out' a user needs 4 interactions, of which 2 are held out"),
        ({"name": "rolling", "last": 4}, "'rolling' a user needs 7 interactions, of which 5 are"),
        ({"name": "chronological_time"}, "'chronological_time' a user needs two interactions in"),
    ],
)
def test_histories_that_are_too_short_to_train_on(small, start, split, needs):
    rows = [f"u{user},i{(user + k) % 10},{k}" for user in range(12) for k in range(3)]
    Path(small["path"]).write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    if split.get("name") == "chronological_time":
        split["ratios"] = (1, 1, 1)
    with pytest.raises(InputError, match=f"{needs}.*; the longest history has 3"):
        start(split=split)


CHRONOLOGICAL = {"name": "chronological_sequences"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"evaluation": {"protocols": ("full", "uni100")}},
            "config.evaluation.protocols: 'uni100' ranks among 100 items that the user never met; "
            "of 10 items a user of the validation split leaves 2: ",
        ),
        (
            {"train": {"metric": "validation/uni100/ndcg@10"}},
            "config.train.metric: no metric 'validation/uni100/ndcg@10' among what config.eval.*; "
            "did you mean 'validation/full/ndcg@10'",
        ),
        (
            {"optim": {"cooldown_epochs": 3.0}, "train": {"epochs": 2.0}},
            "config.optim.cooldown_epochs: 3, more than config.train.epochs=2; expected that",
        ),
        ({"train": {"metric": "test/full/ndcg@10"}}, "no metric 'test/full/ndcg@10' among"),
        # The last of the training is where the test's examples were looked for.
        (
            {"split": CHRONOLOGICAL | {"ratios": (8, 2, 0)}},
            "config.split leaves no example for test",
        ),
        (
            {"split": CHRONOLOGICAL | {"ratios": (8, 0, 2)}},
            "leaves no example for validation",
        ),
        (
            {"objective": {"name": "softmax", "states_weight": 0.5}},
            "config.objective.states_weight: only a generative model .* expected 0 for sasrec",
        ),
        ({"objective": {"name": "bpr", "negatives": 0}}, "config.objective.negatives: 'bpr' needs"),
        (
            {"objective": {"name": "softmax", "batch_negatives": 4}},
            "config.objective.batch_negatives: 'softmax' has none",
        ),
        ({"train": {"stride": 7}}, "config.train.stride: 7, expected 0 to the window's 6"),
        ({"train": {"mesh": (3, 1, 1)}}, "config.train.mesh .3, 1, 1. does not fit 1 devices"),
        (
            {"model": {"name": "dreamrec", "steps": 10, "schedule": "cosine", "sampler_steps": 11}},
            "config.model.sampler_steps: 11; expected 0 to 10",
        ),
    ],
)
def test_of_a_recommender(start, section, message):
    with pytest.raises(InputError, match=message):
        start(**section)


def test_a_user_who_has_every_item_leaves_no_negative(start, small):
    rows = "".join(f"all,i{k},{k}\n" for k in range(10)) + "all,i0,10\nall,i1,11\n"
    with open(small["path"], "a") as file:
        file.write(rows)
    with pytest.raises(InputError, match="user 0 has all 10 items: no negative is left"):
        start(objective={"name": "bce"})


LLAMA = {"name": "llama", "dim": 16, "mlp_dim": 24, "layers": 1, "heads": 1, "kv_heads": 1,
         "head_dim": 8, "max_length": 160}  # fmt: skip
NONE = dict.fromkeys(("items", "naming", "histories", "recovery", "residual"), 0.0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"text": NONE}, "config.text: no document; expected one of items, naming"),
        (
            {"model": LLAMA | {"max_length": 20}},
            "config.model.max_length: 20 tokens leave no room .* kind 'recovery'",
        ),
        (
            {"train": {"metric": "validation/recovery/exact"}, "text": {"recovery": 0.0}},
            "no metric 'validation/recovery/exact' among what config.evaluation computes; did you",
        ),
        (
            {"text": NONE | {"residual": 1.0},
             "split": {"name": "chronological_sequences", "ratios": (8, 2, 0)}},
            "the test split: config.text: no document; ",
        ),
    ],
)  # fmt: skip
def test_of_a_language_model(start, small, section, message):
    given = {"system": "language_model", "model": LLAMA, "tokenizer": {"vocab_size": 300}}
    small["options"] = {"title": "item"}
    with pytest.raises(InputError, match=message):
        start(**given | section)


def test_lists_may_be_longer_than_the_catalogue(small, tmp_path):
    """Figures at any k are those of the whole catalogue, at the cost of its size."""
    given = {
        "data": small,
        "model": {"name": "sasrec", "dim": 8, "max_length": 6},
        "evaluation": {"cutoffs": (1, 10, 10_000)},
    }
    start_run(build_config(given), tmp_path / "work")
    run = open_run(tmp_path / "work")
    values = run.evaluator("test").run(run.init_state().params)
    assert values["test/full/hr@10000"] == 1 == values["test/full/hr@10"]
    assert values["test/full/mmr@10000"] == values["test/full/mmr@10"]
