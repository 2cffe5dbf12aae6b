"""MovieLens folders beyond the plain case: rows, headers, encodings, titles."""

import numpy as np
import pytest

from recjax.data.interactions import BadRows
from recjax.data.sources import movielens
from recjax.errors import InputError

HEADER = "userId,movieId,rating,timestamp\n"
MOVIES = "movieId,title,genres\n"
ROWS = [("7", "30", 4.5, 100), ("8", "30", 1.0, 50), ("7", "5", 3.0, 200)]
LAYOUTS = {
    "u.data": ("u.item", "\t", "", "5|Heat (1995)|||x\n"),
    "ratings.dat": ("movies.dat", "::", "", "5::Heat (1995)::Action\n"),
    "ratings.csv": ("movies.csv", ",", HEADER, MOVIES + "5,Heat (1995),Action\n"),
}


def read(path, limit=0, **options):
    bad = BadRows(limit)
    log, catalog = movielens.read(path, movielens.Options(**options), bad)
    columns = zip(log.users, log.items, log.ratings, log.timestamps, strict=True)
    rows = [(log.user_keys[u], log.item_keys[i], float(r), int(t)) for u, i, r, t in columns]
    return rows, catalog, bad


def write(folder, ratings, rows=ROWS):
    movies, separator, header, films = LAYOUTS[ratings]
    (folder / movies).write_text(films)
    lines = [separator.join(map(str, row)) for row in rows]
    (folder / ratings).write_text(header + "".join(line + "\n" for line in lines))
    return folder / ratings


@pytest.mark.parametrize("ratings", LAYOUTS)
def test_the_fast_and_the_slow_parser_agree(tmp_path, monkeypatch, ratings):
    write(tmp_path, ratings, [(f"00{user}", f"0{item}", *rest) for user, item, *rest in ROWS])
    calls = []
    slow = movielens._ratings
    monkeypatch.setattr(movielens, "_ratings", lambda *args: calls.append(1) or slow(*args))
    assert read(tmp_path)[0] == ROWS and not calls
    monkeypatch.setattr(movielens, "_fast_ratings", lambda *args: None)
    assert read(tmp_path)[0] == ROWS and calls


@pytest.mark.parametrize("ratings", LAYOUTS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", "expected 'user item rating timestamp', got ''"),
        ("1{}2", "expected 'user item rating time"),
        ("1{}2{}3{}4{}5", "expected 'user item rating time"),
        ("1{}{}3{}4", "'item' is ''; expected an id"),
        ("-1{}2{}3{}4", "'user' is '-1'; expected a whole number"),
        ("1{}2{}nan{}4", "'rating' is 'nan'; expected a number"),
        ("1{}2{}x{}4", "'rating' is 'x'; expected a number"),
    ],
)
def test_bad_rows_are_named_and_counted(tmp_path, ratings, row, message):
    path = write(tmp_path, ratings)
    separator, header = LAYOUTS[ratings][1:3]
    lines = path.read_text().splitlines()
    lines.insert(len(lines) - 1, row.replace("{}", separator))
    path.write_text("\n".join(lines) + "\n")
    number = 3 + bool(header)
    with pytest.raises(InputError, match=rf"{ratings}:{number}: {message}"):
        read(tmp_path)
    rows, _, bad = read(tmp_path, limit=1)
    assert rows == ROWS and bad.count == 1


def test_text_between_the_colons_is_a_bad_row(tmp_path):
    write(tmp_path, "ratings.dat").write_text("1:x:2::3::4\n")
    with pytest.raises(InputError, match=r"ratings\.dat:1: expected 'user item rating timestamp'"):
        read(tmp_path)


@pytest.mark.parametrize("ratings", LAYOUTS)
def test_line_ends_and_byte_order_marks(tmp_path, ratings):
    path = write(tmp_path, ratings)
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read(tmp_path)[0] == ROWS
    path.write_text(text.rstrip("\n"))  # the last line without an end
    assert read(tmp_path)[0] == ROWS


@pytest.mark.parametrize("ratings", LAYOUTS)
def test_damaged_ratings(tmp_path, ratings):
    path = write(tmp_path, ratings)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xe9\n")
    with pytest.raises(InputError, match=rf"{ratings}:\d: not utf-8 text \(byte 0xe9\)"):
        read(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{ratings}: the file is empty"):
        read(tmp_path)


def test_csv_headers_must_be_there(tmp_path):
    path = write(tmp_path, "ratings.csv")
    path.write_text("1,2,3,4\n5,6,3,4\n")
    message = (
        r"ratings\.csv:1: expected the header 'userId,movieId,rating,timestamp', got '1,2,3,4'"
    )
    with pytest.raises(InputError, match=message):
        read(tmp_path)
    path.write_text("movieId,userId,rating,timestamp\n5,6,3,4\n")
    with pytest.raises(InputError, match=r"ratings\.csv:1: expected the header"):
        read(tmp_path)
    path.write_text('"userId","movieId","rating","timestamp"\n5,6,3,1970-01-01 00:01:00\n')
    assert read(tmp_path)[0] == [("5", "6", 3.0, 60)]
    (tmp_path / "movies.csv").write_text("5,Heat (1995),Action\n")
    with pytest.raises(InputError, match=r"movies\.csv:1: expected the header 'movieId,title,gen"):
        read(tmp_path)


def test_ten_million_titles_are_utf_8(tmp_path):
    write(tmp_path, "ratings.dat")
    film = "73::Misérables, Les (1995)::Drama|War\n"
    for encoding in ("utf-8", "latin-1"):  # 10M, 1M
        (tmp_path / "movies.dat").write_text(film, encoding=encoding)
        assert read(tmp_path)[1]["73"]["title"] == "Les Misérables"


def test_movies_with_separators_in_titles_and_bad_lines(tmp_path):
    write(tmp_path, "ratings.dat")
    movies = tmp_path / "movies.dat"
    movies.write_text("1::Life:: A Film (1990)::Drama|(no genres listed)\n2::Short\n3:: ::War\n")
    with pytest.raises(InputError, match=r"movies\.dat:2: expected 'film, title, genres'"):
        read(tmp_path)
    assert read(tmp_path, limit=1)[1] == {
        "1": {"title": "Life:: A Film", "year": 1990, "genres": ["Drama"]},
        "3": {"title": None, "year": None, "genres": ["War"]},
    }
    (tmp_path / "ratings.dat").unlink()
    write(tmp_path, "ratings.csv")
    films = '1,"One, Two (1990)",A|B\n2,"open\n3,short\n'
    (tmp_path / "movies.csv").write_text(MOVIES + films)
    _, catalog, bad = read(tmp_path, limit=2)
    assert catalog == {"1": {"title": "One, Two", "year": 1990, "genres": ["A", "B"]}}
    assert [example.split(":")[1] for example in bad.examples] == ["3", "4"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            "Tale of Zatoichi Continues, The (Zoku Zatôichi monogatari) (Zatôichi 2) (1962)",
            ("The Tale of Zatoichi Continues (Zoku Zatôichi monogatari) (Zatôichi 2)", 1962),
        ),
        (
            "Fist of Fury (Chinese Connection, The) (Jing wu men) (1972)",
            ("Fist of Fury (The Chinese Connection) (Jing wu men)", 1972),
        ),
        ("Frisk (a.k.a. Killer, The) (1995)", ("Frisk (a.k.a. The Killer)", 1995)),
        ("Postman, The (Il Postino) (1994)", ("The Postman (Il Postino)", 1994)),
        ("Vitelloni, I (1953)", ("I Vitelloni", 1953)),
        ("(500) Days of Summer (2009)", ("(500) Days of Summer", 2009)),
        ("Borat! (Part 2) Returns (2020)", ("Borat! (Part 2) Returns", 2020)),
        ("Fawlty Towers (1975-1979)", ("Fawlty Towers", 1975)),
        ("Babylon 5", ("Babylon 5", None)),
        ("Boot, Das (1981)", ("Das Boot", 1981)),
        ("Blechtrommel, Die (1979)", ("Die Blechtrommel", 1979)),
        ("Convento, O (1995)", ("O Convento", 1995)),
        ("", ("", None)),
    ],
)
def test_titles(raw, expected):
    assert movielens.clean_title(raw) == expected


def test_real_titles_lose_no_year_and_keep_no_trailing_article(data_root):
    _, catalog, _ = read(data_root / "ml-100k")
    assert [key for key, film in catalog.items() if film["year"] is None] == ["267"]  # "unknown"
    titles = [film["title"] for film in catalog.values()]
    assert not [t for t in titles if t.endswith((", The", ", A", ", An", ", Le", ", La", ", Il"))]
    assert np.count_nonzero([t.startswith("The ") for t in titles]) > 200
