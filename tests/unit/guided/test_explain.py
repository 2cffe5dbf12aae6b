import dataclasses

import numpy as np
import pytest

import recjax as package
from recjax.data.requests import read_request
from recjax.errors import InputError
from recjax.guided.aspects import Aspect
from recjax.guided.explain import changed_lists, explain, read_change
from recjax.report.page import make_page
from recjax.training.workdir import open_run

NAMES = ("pace", "tension level", "movie length")


@pytest.mark.parametrize("name", ["joined", "scored"])
def test_parts_sum_to_the_recommended_scores(trained, name):
    run = open_run(trained / name)
    found = explain(run, "u-5", 4)
    listed = run.recommend(["u-5"], k=4)
    assert [item.key for item in found.items] == listed.keys[0]
    np.testing.assert_allclose([i.score for i in found.items], listed.scores[0], atol=1e-5)
    assert np.mean(found.leaning**2) == pytest.approx(1.0)
    # A share is of what differs from the catalogue's mean.
    every = explain(run, "u-5", items=[record["key"] for record in run.store.catalog[1:]])
    means = np.mean([(item.base, item.guided) for item in every.items], axis=0)
    for item in found.items:
        assert item.score == pytest.approx(item.base + item.guided)
        assert item.guided == pytest.approx(item.parts.sum())
        base, guided = np.abs(np.array([item.base, item.guided]) - means)
        assert item.share == pytest.approx(guided / (base + guided), rel=1e-4)


def test_the_guided_part_is_the_whole_difference_that_aspects_make(trained):
    """Without the aspects of an item its score is the base part."""
    run = open_run(trained / "joined")
    params = run.restore(run.best_step())
    item = explain(run, ["i-1", "i-2"], items=["i-9"]).items[0]
    number = run.store.item_ids["i-9"]
    without = {**params, "items/guided": params["items/guided"].at[number].set(0)}
    found = run.recommend([["i-1", "i-2"]], k=60, params=without)
    score = found.scores[0][found.keys[0].index("i-9")]
    assert score == pytest.approx(item.base, abs=1e-5)


def test_a_changed_taste_moves_lists_the_way_it_says(trained):
    run = open_run(trained / "joined")
    steps = np.array([0.0, 4.0, 0.0])
    request = read_request(run.store, ["u-5"])
    params = run.restore(run.best_step())
    ids, scores = next(changed_lists(run, steps).stream(params, request, 5))
    own = run.recommend(["u-5"], k=5).ids
    tension = run.guided.items[:, 1]
    assert tension[ids].mean() > tension[own].mean() + 0.5
    changed = explain(run, "u-5", 5, steps=steps)
    assert [item.key for item in changed.items] == [run.store.catalog[i]["key"] for i in ids[0]]
    np.testing.assert_allclose([item.score for item in changed.items], scores[0], rtol=1e-4)
    assert changed.who == "user u-5 who wants more tension"
    assert changed.sections()[0].title == f"Recommended to {changed.who}"


def test_words_of_a_change():
    aspects = [Aspect(NAMES[0], "", "slow", "fast"), Aspect(NAMES[2], "", "very short", "long")]
    np.testing.assert_array_equal(read_change("more tension, shorter", NAMES, aspects), [0, 1, -1])
    np.testing.assert_array_equal(read_change("faster, less length", NAMES, aspects), [1, 0, -1])
    for text, message in (
        ("more", "names no aspect"), ("more e", "names several aspects"), ("", "changes nothing"),
        ("more tensoin level", "did you mean 'tension level'?"),
        ("more pace, less pace", "changes nothing"),
    ):  # fmt: skip
        with pytest.raises(InputError) as error:
            read_change(text, NAMES, aspects)
        assert message in str(error.value)


def test_the_command_and_its_page(recjax, trained):
    status, result, err = recjax(
        "explain",
        f"--workdir={trained / 'joined'}",
        "--user=u-5",
        "--change=more tension",
        "--json",
    )
    assert status == 0 and len(result["items"]) == 5
    assert result["user"] == "u-5" and [item["rank"] for item in result["items"]] == [1, 2, 3, 4, 5]
    lines = err.splitlines()
    assert lines[0] == "user u-5 who wants more tension"
    first = result["items"][0]
    assert lines[1].startswith(f"   1 {first['score']:>9.4f}  {first['key']}")
    page = make_page(trained / "joined")
    for text in ("Recommended to user u-5", "Agreement by aspect", 'class="radar"', "tension"):
        assert text in page


def test_an_item_without_scores_says_so(trained):
    """Its zeros are no average scores."""
    run = open_run(trained / "joined")
    number = run.store.item_ids["i-9"]
    known = run.guided.known.copy()
    known[number] = False
    run.guided = dataclasses.replace(run.guided, known=known)
    unknown, other = explain(run, "u-5", items=["i-9", "i-2"]).items
    assert not unknown.known and other.known
    assert unknown.sentence.endswith("no scores are known of it.")
    *_, compared = explain(run, "u-5", items=["i-9", "i-2"]).sections()
    assert compared.columns[2] == other.title  # it is the one that has aspects


def test_what_cannot_be_explained_is_said(recjax, trained):
    for run, flags, message in (
        ("joined", [], "explain needs one of --user KEY and --history A,B"),
        ("joined", ["--user=nobody"], "recjax: --user: 1 user that is not in the data: 'nobody'"),
        ("joined", ["--user=u-5", "--item=zzz"], "--item: 'zzz' is not in the data"),
        ("joined", ["--history=zzz"], "recjax: --history: 1 item that is not in the data"),
        ("joined", ["--user=u-5", "--k=0"], "k: expected a whole number from 1"),
        ("base", ["--user=u-5"], "a run without a guided part"),
    ):
        status, _, err = recjax("explain", f"--workdir={trained / run}", *flags)
        assert status == 2 and message in err
    assert package.open_run(trained / "base").workdir == trained / "base"
    joined = package.open_run(trained / "joined")
    everything = [record["key"] for record in joined.store.catalog[1:]]
    with pytest.raises(InputError, match="this history: no item is left to recommend"):
        explain(joined, everything)
