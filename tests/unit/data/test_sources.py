"""Readers on small files with known contents, and on the real ones."""

import gzip
import json

import numpy as np
import pytest

from recjax.data.filters import k_core
from recjax.data.interactions import BadRows
from recjax.data.sources import amazon, movielens, recbole, sequences_txt, steam, table
from recjax.errors import InputError


def read(module, path, limit=0, **options):
    bad = BadRows(limit)
    log, catalog = module.read(path, module.Options(**options), bad)
    rows = [(log.user_keys[u], log.item_keys[i]) for u, i in zip(log.users, log.items, strict=True)]
    return log, catalog, rows, bad


# --- MovieLens


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Shining, The (1980)", ("The Shining", 1980)),
        ("Toy Story (1995)", ("Toy Story", 1995)),
        ("Christmas Carol, A (1938)", ("A Christmas Carol", 1938)),
        ("Affair to Remember, An (1957)", ("An Affair to Remember", 1957)),
        ("Postman, The (Postino, Il) (1994)", ("The Postman (Il Postino)", 1994)),
        ("Contempt (Mépris, Le) (1963)", ("Contempt (Le Mépris)", 1963)),
        ("Ecole buissonnière, L' (1997)", ("L'Ecole buissonnière", 1997)),
        ("Paris, Texas (1984)", ("Paris, Texas", 1984)),
        ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", 1968)),
        ("Land Before Time III, The (1995) (V)", ("The Land Before Time III", 1995)),
        ("Two Friends (1986) ", ("Two Friends", 1986)),
        ("unknown", ("unknown", None)),
        ("1984 (1956)", ("1984", 1956)),
    ],
)
def test_clean_title(raw, expected):
    assert movielens.clean_title(raw) == expected


ML_LAYOUTS = {
    "100K": (
        ("u.data", "196\t242\t3\t881250949\n22\t7\t1\t878887116\n"),
        ("u.item", "242|Café, Le (1997)|24-Jan-1997||http://x|0|1|1\n7|Heat (1995)|||y|0|0|1\n"),
        ("u.genre", "unknown|0\nAction|1\nComedy|2\n\n"),
    ),
    "1M": (
        ("ratings.dat", "196::242::3::881250949\n22::7::1::878887116\n"),
        ("movies.dat", "242::Café, Le (1997)::Action|Comedy\n7::Heat (1995)::Comedy\n"),
    ),
    "25M": (
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n196,242,3.0,881250949\n22,7,1,878887116\n",
        ),
        (
            "movies.csv",
            'movieId,title,genres\n242,"Café, Le (1997)",Action|Comedy\n7,Heat (1995),Comedy\n',
        ),
    ),
}


@pytest.mark.parametrize("layout", ML_LAYOUTS)
def test_movielens_layouts(tmp_path, layout):
    for name, text in ML_LAYOUTS[layout]:
        (tmp_path / name).write_text(text, encoding="utf-8" if layout == "25M" else "latin-1")
    log, catalog, rows, _ = read(movielens, tmp_path)
    assert sorted(rows) == [("196", "242"), ("22", "7")]
    order = np.argsort(log.timestamps)
    assert log.timestamps[order].tolist() == [878887116, 881250949]
    assert log.ratings[order].tolist() == [1, 3]
    cafe = {"title": "Le Café", "year": 1997, "genres": ["Action", "Comedy"]}
    assert catalog == {"242": cafe, "7": {"title": "Heat", "year": 1995, "genres": ["Comedy"]}}
    assert read(movielens, tmp_path, clean_titles=False)[1]["242"]["title"] == "Café, Le (1997)"
    assert movielens.files(tmp_path, movielens.Options())[0].name == ML_LAYOUTS[layout][0][0]


@pytest.mark.parametrize("layout", ML_LAYOUTS)
def test_movielens_names_the_bad_line(tmp_path, layout):
    for name, text in ML_LAYOUTS[layout]:
        (tmp_path / name).write_text(text, encoding="utf-8" if layout == "25M" else "latin-1")
    ratings = tmp_path / ML_LAYOUTS[layout][0][0]
    good = ratings.read_text()
    line = len(good.splitlines()) + 1
    ratings.write_text(good + "5 oops\n" + good.splitlines()[-1] + "\n")
    with pytest.raises(InputError, match=f"{ratings.name}:{line}: expected 'user item rating t"):
        read(movielens, tmp_path)
    _, _, rows, bad = read(movielens, tmp_path, limit=1)
    assert len(rows) == 3 and bad.count == 1 and f":{line}:" in bad.examples[0]


def test_no_movielens_there(tmp_path):
    with pytest.raises(InputError, match="no MovieLens ratings there; expected one of u.data, rat"):
        read(movielens, tmp_path)
    (tmp_path / "ml-20m").mkdir()
    ratings = tmp_path / "ml-20m/ratings.csv"
    ratings.touch()
    with pytest.raises(InputError, match="; .*/ml-20m has them"):
        read(movielens, tmp_path)
    with pytest.raises(InputError, match="ratings.csv: a file; expected the unpacked folder"):
        read(movielens, ratings)


def test_movielens_100k(data_root):
    log, catalog, _, _ = read(movielens, data_root / "ml-100k")
    assert (len(log.user_keys), len(log.item_keys), len(log)) == (943, 1682, 100_000)
    assert len(catalog) == 1682
    assert catalog["50"] == {
        "title": "Star Wars",
        "year": 1977,
        "genres": ["Action", "Adventure", "Romance", "Sci-Fi", "War"],
    }
    assert catalog["543"]["title"] == "Les Misérables"  # latin-1


# --- Amazon


def write_gz(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


REVIEW = {"reviewerID": "U1", "asin": "A1", "overall": 5.0, "unixReviewTime": 100}


def test_amazon_2014_strict_and_literal_lines(tmp_path):
    path = tmp_path / "reviews.json.gz"
    write_gz(path, [json.dumps(REVIEW), repr({**REVIEW, "asin": "A2", "reviewText": "it's"})])
    meta = {"asin": "A1", "title": "Tea &amp; \n Biscuits", "brand": "X", "imUrl": "y"}
    write_gz(tmp_path / "meta.json.gz", [repr(meta), json.dumps({"asin": "A2", "title": ""})])
    log, catalog, rows, _ = read(amazon, path, metadata="meta.json")
    assert rows == [("U1", "A1"), ("U1", "A2")]
    assert log.timestamps.tolist() == [100, 100] and log.ratings.tolist() == [5, 5]
    assert catalog == {"A1": {"title": "Tea & Biscuits", "brand": "X"}, "A2": {"title": None}}


def test_amazon_2023(tmp_path):
    review = {"user_id": "U", "parent_asin": "P", "asin": "A", "rating": 4, "timestamp": 1500}
    write_gz(tmp_path / "r.jsonl.gz", [json.dumps(review)])
    write_gz(
        tmp_path / "m.jsonl.gz", [json.dumps({"parent_asin": "P", "title": "T", "store": "S"})]
    )
    log, catalog, rows, _ = read(amazon, tmp_path, reviews="r.jsonl.gz", metadata="m.jsonl.gz")
    assert rows == [("U", "P")] and log.timestamps.tolist() == [1]
    assert catalog == {"P": {"title": "T", "brand": "S"}}


def test_amazon_runs_no_code(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("__import__('os').abort()\n")
    with pytest.raises(InputError, match='r.json:1: expected a JSON object, got "__import__'):
        read(amazon, path)


def test_amazon_bad_rows(tmp_path):
    path = tmp_path / "r.json"
    lines = [json.dumps(REVIEW), json.dumps({"reviewerID": "U"}), "", json.dumps(REVIEW)]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="r.json:2: 'asin' is None; expected an id"):
        read(amazon, path)
    with pytest.raises(InputError, match=r"r.json:3: expected a JSON object, got '' \(1 bad rows"):
        read(amazon, path, limit=1)
    assert len(read(amazon, path, limit=2)[2]) == 2


def test_truncated_gzip_names_the_line(tmp_path):
    path = tmp_path / "r.json.gz"
    rng = np.random.default_rng(0)
    write_gz(path, [json.dumps({**REVIEW, "asin": str(rng.random())}) for _ in range(2000)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"r.json.gz:\d+: truncated or damaged gzip"):
        read(amazon, path, limit=10**6)


def test_amazon_real_files(data_root):
    options = {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"}
    log, catalog, _, _ = read(amazon, data_root / "amazon-2018-gift-cards", **options)
    assert (len(log), len(log.user_keys), len(log.item_keys)) == (2972, 458, 148)
    assert catalog["B004LLIKVU"]["title"] == "Amazon eGift Card"
    music = data_root / "amazon-2014-musical-instruments/reviews_Musical_Instruments_5.json.gz"
    log = read(amazon, music)[0]
    assert (len(log), len(log.user_keys), len(log.item_keys)) == (10_261, 1429, 900)


# --- Steam


def test_steam_both_layouts(tmp_path):
    reviews = [
        {"user_id": "u", "item_id": 10, "title": "Half  Life", "posted": "1970-01-03"},
        {"username": "v", "product_id": "20", "date": "1970-01-02", "recommend": False},
    ]
    text = json.dumps(reviews[0]) + "\n" + repr(reviews[1]) + "\n"
    (tmp_path / "reviews.jsonl").write_text(text)
    (tmp_path / "games.jsonl").write_text('{"item_id": 20, "title": "Portal", "genres": ["A"]}\n')
    log, catalog, rows, _ = read(steam, tmp_path)
    assert rows == [("u", "10"), ("v", "20")]
    assert log.timestamps.tolist() == [2 * 86400, 86400]
    assert catalog == {"10": {"title": "Half Life"}, "20": {"title": "Portal", "genres": ["A"]}}
    assert read(steam, tmp_path, recommended_only=True)[2] == [("u", "10")]
    (tmp_path / "reviews.jsonl").write_text('{"user_id": "u", "item_id": 1, "posted": "May 3"}\n')
    with pytest.raises(
        InputError, match="reviews.jsonl:1: 'posted' is 'May 3'; expected seconds or"
    ):
        read(steam, tmp_path)


def test_steam_real_files(data_root):
    from recjax.data.filters import select

    log, catalog, _, _ = read(steam, data_root / "steam-reviews")
    assert (len(log.user_keys), len(log.item_keys), len(log)) == (22_683, 2885, 48_011)
    titled = np.array([bool(catalog.get(k, {}).get("title")) for k in log.item_keys])
    core = k_core(select(log, titled[log.items]), 3, 3)
    counts = (len(np.unique(core.users)), len(np.unique(core.items)), len(core))
    assert counts == (4838, 880, 20_970)


# --- sequence text


def test_sequence_text(tmp_path):
    (tmp_path / "s.txt").write_text("7 3 1 2\n\n9 1\n7 2 2\n4\n")
    (tmp_path / "items.jsonl").write_text('{"item_id": 1, "title": "One", "x": [1]}\n')
    path = tmp_path / "s.txt"
    with pytest.raises(InputError, match="s.txt:2: expected 'user item item ...', got ''"):
        read(sequences_txt, path)
    with pytest.raises(InputError, match=r"s.txt:4: user 7 again \(first on line 1\)"):
        read(sequences_txt, path, limit=1)
    _, catalog, rows, bad = read(sequences_txt, path, limit=3, items="items.jsonl")
    assert rows == [("7", "3"), ("7", "1"), ("7", "2"), ("9", "1")]
    assert catalog == {"1": {"title": "One", "x": [1]}}
    assert bad.count == 3


def test_missing_empty_and_foreign_text(tmp_path):
    with pytest.raises(InputError, match="none.txt: no such file"):
        read(sequences_txt, tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="empty.txt: the file is empty"):
        read(sequences_txt, tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"1 2 3\n4 caf\xe9 5\n")
    with pytest.raises(InputError, match=r"latin.txt:2: not utf-8 text \(byte 0xe9\)"):
        read(sequences_txt, tmp_path / "latin.txt")


# --- tables


def test_csv_with_other_names_and_dates(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "when,who,what,name,stars\n"
        '2020-01-02,ann,x,"A, B",4.5\n1970-01-01 00:01,bob,y,"C ""D""",1\n',
        encoding="utf-8-sig",
    )
    options = {"user": "who", "item": "what", "timestamp": "when", "rating": "stars"}
    log, catalog, rows, _ = read(table, path, **options, title="name")
    assert rows == [("ann", "x"), ("bob", "y")]
    assert log.timestamps.tolist() == [1577923200, 60] and log.ratings.tolist() == [4.5, 1]
    assert catalog == {"x": {"title": "A, B"}, "y": {"title": 'C "D"'}}
    with pytest.raises(InputError, match=r"no column 'whoo' \(config.data.options.user\); known: "):
        read(table, path, **options | {"user": "whoo"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u,i", "log.csv:3: 2 fields; expected 3"),
        (",i,5", "log.csv:3: 'user' is ''; expected an id"),
        ("u,i,soon", "log.csv:3: 'timestamp' is 'soon'; expected seconds or an ISO date"),
        ("u,i,inf", "log.csv:3: 'timestamp' is 'inf'; expected seconds"),
        ("", "log.csv:3: a blank line; expected 3"),
    ],
)
def test_bad_rows_of_a_table(tmp_path, row, message):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,timestamp\na,b,1\n{row}\nc,d,2\n")
    with pytest.raises(InputError, match=message):
        read(table, path)
    assert read(table, path, limit=1)[2] == [("a", "b"), ("c", "d")]


def test_tsv_without_times_and_an_items_file(tmp_path):
    (tmp_path / "log.tsv").write_text("user\titem\na\tz\na\ty\n")
    (tmp_path / "items.csv").write_text("item,title,genre\ny,Why,q\nz,,r\n")
    options = {"file": "log.tsv", "timestamp": "", "items": "items.csv"}
    log, catalog, rows, _ = read(table, tmp_path, **options)
    assert rows == [("a", "z"), ("a", "y")] and log.timestamps is None
    assert catalog == {"y": {"title": "Why", "genre": "q"}, "z": {"title": None, "genre": "r"}}
    assert [f.name for f in table.files(tmp_path, table.Options(**options))] == [
        "log.tsv",
        "items.csv",
    ]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "log.parquet"
    columns = {"user": [1, 2], "item": ["a", "b"], "timestamp": [5, 6]}
    parquet.write_table(pyarrow.table(columns), path)
    log, _, rows, _ = read(table, path)
    assert rows == [("1", "a"), ("2", "b")] and log.timestamps.tolist() == [5, 6]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="log.parquet: not a parquet file"):
        read(table, path)


def test_recbole_atomic_files(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "toy.inter").write_text(inter + "u\ti\t4\t10.0\nu\tj\t5\tx\n")
    item = "item_id:token\tmovie_title:token_seq\tgenre:token_seq\n"
    (folder / "toy.item").write_text(item + "i\tThe Big One\tA B\n")
    with pytest.raises(InputError, match="toy.inter:3: 'timestamp' is 'x'; expected seconds"):
        read(recbole, folder)
    log, catalog, rows, _ = read(recbole, folder, limit=1, rating="rating")
    assert rows == [("u", "i")] and log.timestamps.tolist() == [10]
    assert catalog == {"i": {"title": "The Big One", "genre": ["A", "B"]}}
    with pytest.raises(InputError, match=r"toy.inter:1: no field 'user'; did you mean 'user_id'"):
        read(recbole, folder, user="user")
