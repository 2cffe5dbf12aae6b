"""Sets of aspects."""

import json

import pytest

from recjax.errors import InputError
from recjax.guided.aspects import PUBLISHED, aspect_set

OWN = {"name": "songs", "item": "song", "items": "songs", "aspects": [{"name": "tempo"}, "mood"]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sets(name):
    found = aspect_set(name)
    assert (found.name, len(found), found.ratings) == (name, 12, tuple(range(1, 11)))
    assert all(a.description and a.low and a.high for a in found.aspects)


def test_the_published_names():
    assert aspect_set("movies").names[:3] + aspect_set("movies").names[-1:] == (
        "story complexity", "dialogue complexity", "intellectual challenge",
        "movie length (duration)",
    )  # fmt: skip
    assert aspect_set("clothing").names[3:8:4] == ("shape or structure", "social class")
    assert aspect_set("games").names[8:10] == (
        "gaming style and emotional resonance", "customization",
    )  # fmt: skip
    assert aspect_set("games").first(3).names == aspect_set("games").names[:3]
    with pytest.raises(InputError, match="13 aspects of 'games': expected 1 to 12"):
        aspect_set("games").first(13)


@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_a_set_of_ones_own(tmp_path, ending):
    path = tmp_path / f"songs{ending}"
    path.write_text(
        json.dumps(OWN | {"least": 0, "most": 5})
        if ending == ".json"
        else 'name="songs"\nitem="song"\nitems="songs"\nleast=0\nmost=5\n'
        'aspects=[{name="tempo"}, "mood"]\n'
    )
    found = aspect_set(path)
    assert found.names == ("tempo", "mood") and found.ratings == (0, 1, 2, 3, 4, 5)
    assert found.place("Tempo  (per minute)") == 0
    with pytest.raises(InputError, match="no aspect 'temp' in 'songs'; did you mean 'tempo'"):
        found.place("temp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "own.json: lacks 'name'"),
        ({"name": 3}, "own.json: name: expected text"),
        ({"itm": "x"}, "own.json: unknown key 'itm'; did you mean 'item'"),
        ({"aspects": []}, "own.json: aspects: expected a list of 1 to 100"),
        ({"aspects": "tempo"}, "own.json: aspects: expected a list of 1 to 100"),
        ({"aspects": [3]}, "own.json: aspect 1: expected a name, or a table with 'name'"),
        ({"aspects": ["a", {"nam": "b"}]}, "own.json: aspect 2: unknown key 'nam'; did you mean"),
        ({"aspects": ["a", {"low": "b"}]}, "own.json: aspect 2: lacks 'name'"),
        ({"aspects": ["Pace", "pace (fast)"]}, "aspect 'pace .fast.': 'Pace' is taken already"),
        ({"aspects": ["item_id"]}, "aspect 'item_id': 'item_id' is taken already"),
        ({"aspects": ["a\x00b"]}, "aspect 1: name: expected 1 to 100 plain characters"),
        ({"aspects": ["a" * 101]}, "aspect 1: name: expected 1 to 100 plain characters"),
        ({"least": 5, "most": 5}, "a scale from 5 to 5; expected 0 <= least < most"),
        ({"least": True}, "own.json: least: expected a whole number"),
        ({"most": 1000}, "a scale from 1 to 1000"),
    ],
)
def test_bad_sets_are_refused(tmp_path, change, message):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(OWN | change))
    with pytest.raises(InputError, match=message):
        aspect_set(path)


def test_files_that_are_no_sets(tmp_path):
    for name, message in (
        ("movie", "aspects 'movie': did you mean 'movies'"),
        (tmp_path / "none.toml", "none.toml: no such file"),
        (tmp_path / "none.json", "none.json: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            aspect_set(name)
    for content in (b"name = ", b"\xff", b"[" * 10_000):
        (tmp_path / "x.toml").write_bytes(content)
        with pytest.raises(InputError, match="x.toml: not readable as TOML"):
            aspect_set(tmp_path / "x.toml")
