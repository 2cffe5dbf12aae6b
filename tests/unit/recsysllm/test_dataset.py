"""A data set's tables and reviews become the parts that a run reads."""

import json

import numpy as np
import pytest

from recjax.data.interactions import InteractionLog
from recjax.data.splits import leave_one_out
from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.recsysllm.dataset import Dataset
from recjax.recsysllm.passages import plain
from recjax.recsysllm.tasks import TasksConfig
from recjax.recsysllm.text import BehaviourConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    users, items = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    log = InteractionLog(
        users.astype(np.int32), items.astype(np.int32), np.arange(12) * 86_400,
        np.full(12, 4.0, np.float32), ["ann", "bob", "cy"], ["a", "b", "c", "d"],
    )  # fmt: skip
    catalog = {k: {"title": k.upper(), "brand": "Acme", "tags": ["x", "A"]} for k in "abcd"}
    return write_store(tmp_path_factory.mktemp("sources") / "store", log, catalog, {})


@pytest.fixture
def make(store):
    def make(tasks=None, **text):
        split = leave_one_out(store.offsets)
        return Dataset(BehaviourConfig(**text), TasksConfig(**(tasks or {})), store, split)

    return make


def test_tables_of_users_have_any_columns(make, tmp_path):
    table = tmp_path / "u.user"
    table.write_text("bob|24|M|technician\nzoe|3|F|none\n")
    options = {
        "users": str(table), "users_separator": "|", "users_key": "id",
        "users_names": "id,age,sex,job",
    }  # fmt: skip
    made = make(**options)
    assert made.profiles == {1: {"title": None, "age": "24", "sex": "M", "job": "technician"}}
    assert set(made.names.others) == {"Acme", "x", "24", "M", "technician"}  # "A" is a title
    assert made.names.titles == ["", "A", "B", "C", "D"]
    assert make(**options, users_facts=("job",)).behaviour.profile(1)[-2].text == "technician"
    with pytest.raises(InputError, match="config.text.behaviour.users_facts: .* column 'jub'.*job"):
        _ = make(**options, users_facts=("jub",)).profiles
    with pytest.raises(InputError, match=r"no column 'name' \(config.text.behaviour.users_key\)"):
        _ = make(**{**options, "users_key": "name"}).profiles
    table.write_text("zoe|3|F|none\n")
    with pytest.raises(InputError, match="column 'id' has no user of"):
        _ = make(**options).profiles
    table.write_text("id|24|M\n")  # nothing tolerates bad rows here
    with pytest.raises(InputError, match=r"u.user:1: 3 fields; expected 4$"):
        _ = make(**options).profiles
    with pytest.raises(InputError, match="leave config.text.behaviour.users_names empty"):
        _ = make(users=str(table), users_key="id", users_separator="|", users_names="id,24,M").names
    table.write_text("|id|age|x\n0|bob|12345678|y\n1|cy|2.5|z\n")  # with the index of pandas
    found = make(users=str(table), users_separator="|", users_key="id")
    assert found.profiles[1] == {"title": None, "age": "12345678", "x": "y"}
    lines = ['{"id": "bob"}', '{"id": "ann", "home": {"town": "Rome"}, "job": null}']
    (tmp_path / "users.jsonl").write_text("\n".join(lines))
    options = {"users": str(tmp_path / "users.jsonl"), "users_key": "id"}
    made = make(**options, users_facts=("home.town",))  # which the first line leaves out
    assert plain(made.behaviour.profile(0)) == "About this user: home town Rome."
    with pytest.raises(InputError, match="users_facts: no .* 'home' .* did you mean 'home.town'"):
        _ = make(**options, users_facts=("home",)).profiles
    (tmp_path / "words.json").write_text('{"user": "A {job} ({facts})."}')
    options["sentences"] = str(tmp_path / "words.json")
    with pytest.raises(InputError, match=r"user: '{job}': .* for 2 of 2 users \(bob, ann\)"):
        _ = make(**options).behaviour
    table.write_text("id|age|age\nbob|1|2\n")
    with pytest.raises(InputError, match="u.user: 2 columns are named 'age'"):
        _ = make(users=str(table), users_separator="|", users_key="id").profiles
    with pytest.raises(InputError, match="users_facts: names columns, but .*users no"):
        _ = make(users_facts=("job",)).profiles
    with pytest.raises(InputError, match="config.text.behaviour.facts: no item .* 'year'"):
        _ = make(facts=("year",)).behaviour


def review(user, item, time, **more):
    return {"reviewerID": user, "asin": item, "overall": 4, "unixReviewTime": time, **more}


def test_reviews_find_their_interactions(make, store, tmp_path):
    file = tmp_path / "reviews.json"
    rows = [
        review("ann", "c", 0, reviewText="Test &amp; item", summary="hidden"),
        review("bob", "a", 0, reviewText="Fine", summary="Good", reviewerName="Bob B."),
        review("eve", "a", 0, reviewText="of another user"),
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    made = make({"reviews": str(file), "review": 1.0, "text": 0.0, "sequential": 0.0})
    found = made.reviews
    assert (found.bodies[2], found.headlines[2]) == ("Test & item", "hidden")
    assert (found.bodies[4], found.headlines[4], found.names) == ("Fine", "Good", {1: "Bob B."})
    assert sum(map(bool, found.bodies)) == 2
    passages = [made.stream(k) for k in range(20)]
    assert {p.sources for p in passages} == {(4,)}  # the other review is of a test item
    assert all("hidden" not in str(p) and "Test & item" not in str(p) for p in passages)
    assert made.fingerprint != make().fingerprint


@pytest.mark.parametrize(
    ("key", "text"), [("users", "user,age\nbob,24\n"), ("sentences", '{"fact": "{column}"}')]
)
def test_files_beside_the_store_are_known_by_their_content(make, tmp_path, key, text):
    def fingerprint(name, text):
        (tmp_path / name).write_text(text)
        return make(**{key: str(tmp_path / name)}).fingerprint

    found = fingerprint("a", text)
    assert found == fingerprint("b", text) != fingerprint("a", text + "\n")
    assert found != make().fingerprint


def test_features_are_words_of_training_reviews(make, tmp_path):
    """Five reviews of held-out items have the words; of training there is one review."""
    held_out = [(user, item) for user in ("ann", "bob", "cy") for item in "cd"][:5]
    texts = {pair: "It is a sturdy carpet indeed." for pair in held_out} | {("ann", "a"): "Fine."}
    rows = [review(*pair, 0, reviewText=text) for pair, text in texts.items()]
    file = tmp_path / "reviews.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    made = make({"reviews": str(file), "review": 1.0, "text": 0.0, "sequential": 0.0})
    assert sum(map(bool, made.reviews.bodies)) == 6 and not any(made.asked.written.reasons)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([review("eve", "a", 0, reviewText="x")], "no review of a user and an item of"),
        ([review("ann", "a", 0)], "its reviews have no text; .* known: asin, overall"),
        ([{"asin": "a"}], "reviews.json:1: no user's id; expected one of reviewerID"),
        (["nothing"], "reviews.json:1: expected a JSON object"),
    ],
)
def test_wrong_reviews_are_an_error(make, tmp_path, rows, message):
    file = tmp_path / "reviews.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=message):
        _ = make({"reviews": str(file)}).reviews
