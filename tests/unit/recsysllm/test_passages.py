"""Pieces of texts: templates, given entities, tokens; the names of a catalogue."""

import pytest

from recjax.errors import InputError
from recjax.recsysllm import passages
from recjax.recsysllm.catalogue import Names, attributes
from recjax.recsysllm.passages import Piece, PieceEncoder, fill, marked, plain
from recjax.text.textualize import labels


def test_a_template_is_filled_with_entities():
    pieces = fill("Has {past} {titles}.", {"past": "watched", "titles": ("Alien", "Heat")})
    assert pieces == (
        Piece("Has watched"), Piece("Alien", True), Piece(","), Piece("Heat", True), Piece("."),
    )  # fmt: skip
    assert plain(pieces) == "Has watched Alien, Heat."
    assert plain(fill("{titles} is it", {"titles": ("Alien",)})) == "Alien is it"
    assert plain(fill("So {x}.", {"x": (Piece("aged "), Piece("7", True))})) == "So aged  7."


def test_a_profile_without_a_prompts_field_is_an_error():
    with pytest.raises(InputError, match="user 3: nothing is known of 'job'.*known: age"):
        fill("A {job} of {age}.", {"age": "7", "city": ""}, "user 3")


def test_given_entities_are_pieces():
    text = "I saw Alien and Heat."
    pieces = marked(text, [(16, 20), (6, 11)])
    assert [p.text for p in pieces if p.entity] == ["Alien", "Heat"] and plain(pieces) == text


@pytest.mark.parametrize(
    "spans, message",
    [
        ([(6, 11), (9, 20)], r"\(6, 11\) and \(9, 20\) overlap"),
        ([(6, 6)], r"\(6, 6\) holds no entity"),
        ([(5, 6)], "not blanks alone"),
        ([(15, 99)], "text's 21 letters"),
    ],
)
def test_overlapping_entities_are_an_error(spans, message):
    with pytest.raises(InputError, match=message):
        marked("I saw Alien and Heat.", spans)


def test_entities_have_the_same_tokens_everywhere(encoder):
    texts = [fill(t, {"t": ("Alien",)}) for t in ("{t}!", "saw {t}, twice", "so {t}")]
    for pieces, ids in zip(texts, encoder(texts), strict=True):
        place = next(k for k, p in enumerate(pieces) if p.entity)
        assert ids[place] == encoder.entity("Alien") != []


def test_another_thread_s_texts_forget_none(monkeypatch):
    """One that comes in between starts new tables of tokens."""
    monkeypatch.setattr(passages, "_MOST_PLAIN", 0)

    class Between:
        def encode_batch(self, texts, start):
            if "b" in texts:
                assert encoder([(Piece("c"),)]) == [[[99]]]
            return [[ord(text)] for text in texts]

    encoder = PieceEncoder(Between())
    assert encoder([(Piece("a"), Piece("b"))]) == [[[97], [98]]]


def test_repeated_titles_are_one_entity(encoder, marks):
    names = Names(["", "Alien", "Heat", " Alien ", "Alien Resurrection"])
    assert names.distinct == ["Alien", "Heat", "Alien Resurrection"]
    assert names.members == [[1, 3], [2], [4]]
    assert names.items("Alien") == [1, 3] and names.items("Ali") == []
    pool = names.pool(encoder, marks, 64)
    long = encoder.entity("Alien Resurrection")
    assert len(long) > len(encoder.entity("Alien"))
    import numpy as np

    found = pool.read(np.array(long), np.array([len(long)]))
    assert found.tolist() == list(range(1, len(long) + 1))  # the longest match


def test_titles_without_tokens_are_an_error(encoder, marks, glm_tokenizer):
    with pytest.raises(InputError, match="item 2: its title is blank"):
        Names(["", "Alien", "  "]).pool(encoder, marks, 64)
    with pytest.raises(InputError, match=r"entity 'Alien Res.*tokens; expected 1 to 2"):
        Names(["", "Alien Resurrection"]).pool(encoder, marks, 2)

    class Silent:
        def encode_batch(self, texts, **_):
            return [[] for _ in texts]

    from recjax.recsysllm.passages import PieceEncoder

    with pytest.raises(InputError, match="entity 'Alien': its text gives 0 tokens"):
        Names(["", "Alien"]).pool(PieceEncoder(Silent()), marks, 64)


def test_labels_of_any_column():
    assert labels([20190101.0, 12345.67]) == ("20190101", "12345.67")
    assert labels(["a", ["b ", "a"], None, 3, 2.5, {"x": 1}]) == ("a", "b", "3", "2.5")
    assert attributes([None, {"g": ["x", "y"], "b": "z"}, {"g": "x"}], ["g"]) == ["x", "y"]
