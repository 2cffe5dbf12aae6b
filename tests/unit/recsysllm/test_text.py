"""Profiles, windows and items as text."""

import json

import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.passages import plain
from recjax.recsysllm.text import Behaviour, BehaviourConfig, read_sentences
from recjax.text.textualize import facts_of
from tests.unit.recsysllm.conftest import TITLES

DAY = 86_400
CATALOG = [None] + [
    {"id": k, "key": str(k), "title": t, "genres": ["Drama", "War"], "year": 1990 + k}
    for k, t in enumerate(TITLES[1:], 1)
]
PROFILES = {0: {"age": 24, "occupation": "technician"}, 1: {"age": None}}


@pytest.fixture
def behaviour(runs):
    items, offsets = runs
    ends = offsets[1:] - 2
    spans = Spans(np.arange(3, dtype=np.int32), offsets[:-1], ends)

    def make(times=None, profiles=PROFILES, **config):
        return Behaviour(
            BehaviourConfig(**config), Names(TITLES), CATALOG, items, times, spans, profiles
        )

    return make


def test_windows_have_their_spans(behaviour):
    """Long, medium and short by days, or by items where there are no times."""
    times = np.cumsum(np.full(21, 5 * DAY))
    rng = np.random.default_rng(0)
    made = behaviour(times, days=(1000.0, 12.0, 5.0))
    assert [made.window(0, 6, t, rng).tolist() for t in ("long", "medium", "short")] == [
        [0, 1, 2, 3, 4, 5], [3, 4, 5], [4, 5],
    ]  # fmt: skip
    made = behaviour(spans=(100, 3, 1))
    assert [made.window(7, 12, t, rng).tolist() for t in ("long", "medium", "short")] == [
        [7, 8, 9, 10, 11], [9, 10, 11], [11],
    ]  # fmt: skip
    few = behaviour(spans=(100, 3, 10), most=3)
    kept = few.window(0, 7, "long", rng)
    assert len(kept) == 3 and kept[-1] == 6 and (np.diff(kept) > 0).all()
    assert few.window(0, 7, "short", rng).tolist() == [4, 5, 6]


def test_shares_of_windows(behaviour):
    made = behaviour(items=0.0, histories=2000.0, spans=(3, 2, 1), profiles={})
    starts = ("Over", "In the", "Lately")
    counts = np.zeros(3)
    for place in range(3000):
        counts[[made(place).text.startswith(s) for s in starts].index(True)] += 1
    np.testing.assert_allclose(counts / 3000, [0.1, 0.3, 0.6], atol=0.03)


def test_an_empty_window_is_an_error(behaviour):
    with pytest.raises(InputError, match="an empty short window"):
        behaviour().window(5, 5, "short", np.random.default_rng(0))
    with pytest.raises(InputError, match="days: 0 for short windows, which would be empty"):
        BehaviourConfig(days=(700.0, 90.0, 0.0))
    with pytest.raises(InputError, match="shares: expected one of"):
        BehaviourConfig(shares=(0.0, 0.0, 0.0))
    assert BehaviourConfig(shares=(1.0, 0.0, 0.0), spans=(9, 0, 0)).shares[0] == 1


def test_a_profile_and_a_window_are_a_passage(behaviour):
    made = behaviour(items=0.0, shares=(0.0, 0.0, 1.0), spans=(9, 9, 2))
    passage = next(p for p in map(made, range(9)) if p.sources[0] < 5)
    assert passage.text.startswith(
        "About this user: age 24, occupation technician. Lately this user has watched "
    )
    titles = [TITLES[made.items[k]] for k in passage.sources]
    told = [p.text for p in passage.pieces if p.entity]
    assert told == ["24", "technician", *titles]
    other = next(p for p in map(made, range(9)) if 7 <= p.sources[0] < 12)
    assert other.text.startswith("Lately")  # nothing is known of that user


def test_passages_stay_inside_their_runs(behaviour):
    made = behaviour()
    sources = {k for place in range(200) for k in made(place).sources}
    assert sources == {*range(0, 5), *range(7, 12), *range(14, 19)}
    assert made(17) == behaviour()(17) and len(made) == 3 + 7


def test_items_tell_their_attributes(behaviour):
    made = behaviour(facts=("genres", "year"))
    passage = made.about_item(4)
    assert passage.text == "The movie What About Bob? has genres Drama, War, year 1994."
    assert [p.text for p in passage.pieces if p.entity] == [TITLES[4], "Drama", "War", "1994"]
    assert facts_of({"a": "x" * 70, "b": ["y"], "title": "t"}, ()) == {"b": ("y",)}
    assert "nothing more" in behaviour(facts=("brand",)).about_item(4).text


def test_sentences_of_another_domain(behaviour, tmp_path):
    file = tmp_path / "songs.json"
    words = {"past": "heard", "doing": "hearing", "item": "song", "items": "songs"}
    content = {
        "words": {"song": words},
        "short": "Just now {past} {titles}.",
        "user": "A {occupation} of {age}.",
    }
    file.write_text(json.dumps(content))
    options = {"domain": "song", "sentences": str(file), "items": 0.0}
    made = behaviour(**options, shares=(0.0, 0.0, 1.0), profiles={0: PROFILES[0]})
    passage = next(p for p in map(made, range(9)) if p.sources[0] < 5)
    assert passage.text.startswith("A technician of 24. Just now heard ")
    with pytest.raises(InputError, match="profile of user 2: nothing is known of 'occupation'"):
        behaviour(**options).profile(1)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"shrt": "x"}, "unknown key 'shrt'"),
        ({"short": "no titles"}, "lacks '{titles}'"),
        ({"long": "{titles} {facts}"}, "unknown place '{facts}'"),
        ({"user": "a { brace"}, "user: expected a text"),
        ({"words": {"song": {}}}, "words.song: expected the texts"),
    ],
)
def test_wrong_sentences_name_their_key(tmp_path, content, message):
    file = tmp_path / "s.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        read_sentences(str(file), "movie")
    assert str(file) in str(error.value)


def test_user_text_is_for_prompts(behaviour):
    assert plain(behaviour().user_text(0)) == "age 24, occupation technician"
    assert behaviour().user_text(2) == ()
