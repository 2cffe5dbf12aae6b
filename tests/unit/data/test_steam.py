"""Steam in its three layouts."""

import datetime
import json

import numpy as np
import pytest

from recjax.data.filters import count_duplicates, k_core, select
from recjax.data.interactions import BadRows
from recjax.data.sources import steam
from recjax.errors import InputError


def read(path, limit=0, **options):
    bad = BadRows(limit)
    log, catalog = steam.read(path, steam.Options(**options), bad)
    rows = [
        (
            log.user_keys[u],
            log.item_keys[i],
            str(datetime.date(1970, 1, 1) + datetime.timedelta(seconds=int(t))),
        )
        for u, i, t in zip(log.users, log.items, log.timestamps, strict=True)
    ]
    return rows, catalog, bad


def test_the_crawl_of_2018(tmp_path):
    review = {"username": "Ann", "product_id": "725280", "date": "2017-12-17", "hours": 0.1}
    (tmp_path / "steam_reviews.json").write_text(repr(review) + "\n")
    game = {"id": "725280", "app_name": "Lost  Art", "title": "", "genres": ["Indie"]}
    (tmp_path / "steam_games.json").write_text(repr(game) + "\n" + repr({"url": "x"}) + "\n")
    names = {"reviews": "steam_reviews.json", "games": "steam_games.json"}
    with pytest.raises(InputError, match=r"steam_games\.json:2: 'item_id' is None; expected an id"):
        read(tmp_path, **names)
    rows, catalog, _ = read(tmp_path, limit=1, **names)
    assert rows == [("Ann", "725280", "2017-12-17")]
    assert catalog["725280"]["title"] == "Lost Art" and catalog["725280"]["genres"] == ["Indie"]


def test_the_crawl_of_2017_has_a_user_a_line(tmp_path):
    reviews = [
        {"posted": "Posted November 5, 2011.", "item_id": "1250", "recommend": True},
        {"posted": "Posted July 15.", "item_id": "22200", "recommend": False},
        {"posted": "Posted May 1, 2012.", "item_id": "7"},  # does not say
    ]
    lines = [{"user_id": "u", "reviews": reviews}, {"user_id": "v", "reviews": []}]
    (tmp_path / "a.json").write_text("".join(repr(line) + "\n" for line in lines))
    names = {"reviews": "a.json", "games": ""}
    with pytest.raises(
        InputError, match=r"json:1: 'posted' is 'Posted July 15.'; expected .*options\.year"
    ):
        read(tmp_path, **names)
    rows, catalog, bad = read(tmp_path, limit=1, **names)
    first, last = ("u", "1250", "2011-11-05"), ("u", "7", "2012-05-01")
    assert rows == [first, last] and catalog == {} and bad.count == 1
    rows, _, _ = read(tmp_path, year=2016, **names)
    assert rows == [first, ("u", "22200", "2016-07-15"), last]
    assert read(tmp_path, year=2016, recommended_only=True, **names)[0] == [first, last]


@pytest.mark.parametrize("date", ["Posted May 32, 2011.", "Posted Mai 3, 2011.", "2011-13-01", ""])
def test_bad_dates(tmp_path, date):
    review = {"user_id": "u", "item_id": 1, "posted": date}
    (tmp_path / "reviews.jsonl").write_text(json.dumps(review) + "\n")
    with pytest.raises(
        InputError, match=r"reviews\.jsonl:1: 'posted' is .*; expected seconds or an"
    ):
        read(tmp_path, games="")


def test_a_review_that_is_none(tmp_path):
    (tmp_path / "reviews.jsonl").write_text('{"user_id": "u", "reviews": [3]}\n')
    with pytest.raises(InputError, match=r"reviews\.jsonl:1: expected a review, got 3"):
        read(tmp_path, games="")


def test_a_file_for_a_folder(tmp_path):
    (tmp_path / "reviews.jsonl").write_text("x")
    with pytest.raises(InputError, match=r"expected the folder of reviews\.jsonl"):
        read(tmp_path / "reviews.jsonl")


def test_what_the_three_core_counts(data_root):
    log, catalog = steam.read(data_root / "steam-reviews", steam.Options(), BadRows())
    assert count_duplicates(log) == 0  # so it does not matter whether they are kept

    def counts(rows):
        core = k_core(rows, 3, 3)
        return len(np.unique(core.users)), len(np.unique(core.items)), len(core)

    titled = np.array([bool(catalog.get(k, {}).get("title")) for k in log.item_keys])
    assert counts(log) == (5438, 1034, 24_437)
    assert counts(select(log, titled[log.items])) == (4838, 880, 20_970)


def test_entities_in_what_is_known_of_a_game(tmp_path):
    game = {"item_id": 1, "title": "Film &amp; Maker", "genres": ["A &amp;amp; B"], "price": None}
    (tmp_path / "games.jsonl").write_text(json.dumps(game | {"developer": "&quot;X&quot; &#38; Y"}))
    (tmp_path / "reviews.jsonl").write_text(
        '{"user_id": "u", "item_id": 1, "posted": "2015-01-01"}'
    )
    known = {"title": "Film & Maker", "genres": ["A & B"], "price": None, "developer": '"X" & Y'}
    assert read(tmp_path)[1] == {"1": known}
