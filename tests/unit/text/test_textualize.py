"""Items and histories as text."""

from recjax.text.prompts import WORDS
from recjax.text.textualize import history_text, item_text, item_titles

MOVIE = WORDS["movie"]


def test_titles_are_readable_and_none_is_empty():
    records = [None, {"title": " The  Matrix "}, {"title": None}, None, {"title": ""}]
    expected = ["", "The Matrix", "Untitled game 2", "Untitled game 3", "Untitled game 4"]
    assert item_titles(records, WORDS["game"]) == expected


def test_what_is_known_of_an_item():
    film = {"title": "x", "year": 1999, "genres": ["Action", "Sci-Fi"], "price": 3}
    assert item_text(film, "The Matrix", MOVIE) == (
        "The movie The Matrix came out in 1999, belongs to Action and Sci-Fi."
    )
    assert item_text(film, "The Matrix", MOVIE, 1).endswith(
        "belongs to Action and Sci-Fi? The Matrix."
    )
    polish = {"brand": "OPI", "categories": [["Beauty", "Nails", "Polish"]]}
    product = WORDS["product"]
    assert item_text(polish, "Red", product) == (
        "The product Red is by OPI, belongs to Beauty, Nails and Polish."
    )
    soup = {
        "key": "1",
        "title": "Soup",
        "main_course": "no",
        "tags": ["Thai", "hot"],
        "x": 2 * ["y" * 99],
    }
    assert item_text(soup, "Soup", product) == (
        "The product Soup has main course no, has tags Thai and hot."
    )
    assert item_text({}, "Red {item}", product) == "The product Red {item} exists."
    assert item_text(None, "Red", product, 1) == "Which product exists? Red."


def test_histories_keep_their_order():
    for form in (0, 1):
        assert "A, C, {B}" in history_text(["A", "C", "{B}"], MOVIE, form)
    assert history_text(["A"], MOVIE, 0) != history_text(["A"], MOVIE, 1)
