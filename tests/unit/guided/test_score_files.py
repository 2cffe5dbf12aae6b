"""Files of scores on aspects, read and written."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.guided.aspects import USER, aspect_set, check_same
from recjax.guided.prompts import parse
from recjax.guided.score_files import read_item_scores, read_user_scores, write_scores

GIVEN = Path(__file__).parents[2] / "data" / "guided"
OWN = {"name": "songs", "item": "song", "items": "songs", "aspects": [{"name": "tempo"}, "mood"]}
CATALOG = [None, {"key": "a"}, {"key": "b"}, {"key": "c"}]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".parquet"])
def test_scores_go_out_and_come_back(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    own = tmp_path / "own.json"
    own.write_text(json.dumps(OWN | {"most": 20}))
    aspects, path = aspect_set(own), tmp_path / f"scores{ending}"
    write_scores(path, ["b", "a"], [[20, 2.5], [4, np.nan]], aspects)
    found = read_item_scores(path, CATALOG)
    assert found.aspects == aspects  # of the file beside it
    assert found.values.tolist() == [[12, 2.5], [4, 2.5], [20, 2.5], [12, 2.5]]
    assert found.known.tolist() == [[0, 0], [1, 0], [1, 1], [0, 0]]
    assert (found.missing, found.gaps) == (1, 1)
    assert "items without scores: 1; single scores missing: 1 (the mean" in found.says()
    attributes = found.attributes()
    assert attributes.known.tolist() == [False, True, True, False]
    standardized = attributes.standardized()
    assert standardized[:, 0].tolist() == [0, -1, 1, 0] and not standardized[3].any()


def test_what_cannot_be_written(tmp_path):
    aspects = aspect_set("movies")
    with pytest.raises(InputError, match="expected a name that ends in .tsv, .csv, .parquet"):
        write_scores(tmp_path / "s.txt", [], np.zeros((0, 12)), aspects)
    with pytest.raises(InputError, match="s.tsv: there is no folder .*no; make it first"):
        write_scores(tmp_path / "no" / "s.tsv", [], np.zeros((0, 12)), aspects)
    assert not list(tmp_path.iterdir())
    own = tmp_path / "s.tsv"
    write_scores(own, ["a"], np.full((1, 12), 3.0), aspects)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    wide = dataclasses.replace(aspects, most=101)
    for keys, some, message in (
        (["a", "b"], aspects, r"values: expected \[2, 12\]"), (["a"], wide, "from 1 to 101"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            write_scores(own, keys, np.full((1, 12), 3.0), some)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def given_scores(name):
    path = GIVEN / f"{name}.tsv"
    keys = [line.split("\t")[0] for line in path.read_text().splitlines()[1:]]
    return path, keys


def test_the_given_scores_are_of_published_sets():
    path, keys = given_scores("ml100k_item_scores")
    items = read_item_scores(path, [None, *({"key": key} for key in keys)])
    assert items.aspects == aspect_set("movies") and not items.known[0].any()
    assert (items.missing, items.gaps, items.says()) == (0, 0, "")
    assert items.values[1].tolist() == [5, 5, 2, 7, 8, 5, 7, 9, 8, 6, 10, 3]
    path, keys = given_scores("ml100k_user_scores")
    users = read_user_scores(path, {k: n for n, k in enumerate(keys)}, items.aspects)
    assert users.values.shape == (240, 12) and users.values[0, 0] == 8
    path, keys = given_scores("steam_item_scores")
    games = read_item_scores(path, [None, *({"key": key} for key in keys)])
    assert games.aspects == aspect_set("games") and games.known[1:].all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id\ttempo\tmood\na\t11\t1\n", "s.tsv:2: 'tempo' is 11; expected 1 to 10"),
        ("item_id\ttempo\tmood\nz\t5\t0\n", "s.tsv:2: 'mood' is 0; expected 1 to 10"),
        ("item_id\ttempo\tmood\na\t5\thigh\n", "s.tsv:2: 'mood' is 'high'; expected a number"),
        ("item_id\ttempo\tmood\na\t5\t5\na\t6\t6\n", "s.tsv:3: item a a second time"),
        ("item_id\ttempo\na\t5\n", "s.tsv:1: no column for the aspect 'mood' of 'songs'"),
        ("item_id\ttempo\tmood\tmod\na\t5\t5\t5\n", "the column 'mod' is no aspect of 'songs'"),
        ("item_id\ttempo\ttempo\na\t5\t5\n", "s.tsv:1: 2 columns 'tempo'"),
        ("user_id\ttempo\tmood\na\t5\t5\n", "s.tsv:1: no column 'item_id'"),
        ("item_id\ttempo\tmood\na\t5\n", "s.tsv:2: 2 columns, expected 3"),
        ("item_id\ttempo\tmood\nz\t5\t5\n", "s.tsv: no score of a known item"),
        ("item_id\ttempo\tmood\na\t5\t10.0000001\n", "'mood' is 10.0000001; expected 1 to 10"),
        ("item_id\ttempo\tmood\ttitle\na\t5\t5\tTea\n", "s.tsv:1: the column 'title' is no"),
        ("item_id\ttempo\tmood\tMood\na\t5\t5\t5\n", "'mood' and 'Mood' are one aspect"),
    ],
)
def test_bad_score_files_are_refused(tmp_path, text, message):
    own, path = tmp_path / "own.json", tmp_path / "s.tsv"
    own.write_text(json.dumps(OWN))
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_item_scores(path, CATALOG, aspect_set(own))


def test_items_and_users_on_different_aspects(tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps(OWN))
    songs, movies = aspect_set(own), aspect_set("movies")
    (tmp_path / "s.tsv").write_text("item_id\tMood\ttempo\na\t5\t7\n")  # in the set's order
    assert read_item_scores(tmp_path / "s.tsv", CATALOG, songs).values[1].tolist() == [7, 5]
    write_scores(tmp_path / "u.tsv", ["a"], [[5] * 12], movies, USER)
    with pytest.raises(InputError, match=r"u.tsv.aspects.json: expected the aspects of 'songs'; "):
        read_user_scores(tmp_path / "u.tsv", {"a": 0}, songs)
    with pytest.raises(InputError, match="here: expected the aspects of y; it lacks 'mood'"):
        check_same(songs.first(1), songs, "here", "y")
    with pytest.raises(InputError, match="it has, beyond it, 'mood'"):
        check_same(songs, songs.first(1), "here", "y")
    own.write_text(json.dumps(OWN | {"most": 5}))
    with pytest.raises(InputError, match="a scale from 1 to 5; y has one from 1 to 10"):
        check_same(aspect_set(own), songs, "here", "y")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fun", "Fun"], "s.csv:1: aspect 'Fun': 'fun' is taken already"),
        (["fun", "a\x1b[31m"], "s.csv:1: aspect 2: name: expected 1 to 100 plain characters"),
        ([f"a{k}" for k in range(101)], "s.csv:1: 101 columns of aspects; expected 1 to 100"),
    ],
)
def test_columns_that_are_no_set(tmp_path, names, message):
    path = tmp_path / "s.csv"
    path.write_text(f"item_id,{','.join(names)}\na{',x' * len(names)}\n")
    with pytest.raises(InputError, match=re.escape(message)):  # before the rows are read
        read_item_scores(path, CATALOG)


def test_a_byte_order_mark_and_names_in_other_letters(tmp_path):
    """A set as editors save it; a letter with its accent in two ways; upper case ß."""
    path = tmp_path / "own.TOML"
    path.write_bytes("\ufeffname = 'x'\naspects = ['Straße', 'E\u0301clat']\n".encode())
    found = aspect_set(path)
    assert found.place("STRASSE") == 0 and found.place("\xc9clat") == 1
    for answer in ("Straße: 3\n\xc9clat: 4", "strasse: 3\ne\u0301clat: 4"):
        assert parse(answer, found).scores == (3.0, 4.0)


def test_columns_that_no_set_has_are_a_set(tmp_path):
    (tmp_path / "mine.csv").write_text("item_id,fun\na,3\nb,\n")
    found = read_item_scores(tmp_path / "mine.csv", CATALOG)
    assert found.aspects.name == "mine" and found.aspects.names == ("fun",)
    assert found.values[:, 0].tolist() == [3, 3, 3, 3] and found.missing == 2


def test_a_published_set_with_further_columns_keeps_its_descriptions(tmp_path):
    movies = aspect_set("movies")
    names = ("novelty", *movies.names)
    (tmp_path / "mine.tsv").write_text("\t".join(["item_id", *names]) + "\na" + "\t3" * 13)
    found = read_item_scores(tmp_path / "mine.tsv", CATALOG).aspects
    assert found.names == names and found.aspects[1:] == movies.aspects
    assert (found.name, found.items) == ("mine", movies.items)
