"""The stream of documents that a language model of a catalogue reads."""

import collections
import itertools
import json
import re

import numpy as np
import pytest

from recjax.data.splits import Spans, chronological_sequences, chronological_time, leave_one_out
from recjax.errors import InputError
from recjax.text.corpus import KINDS, Documents, TextConfig
from recjax.text.documents import Blend, Document, blend
from recjax.text.tasks import RECOVERY, RESIDUAL

HISTORIES = ("histories", "recovery", "residual")


def catalogue(n=40):
    records = [{"title": f"Film {k}", "year": 1900 + k, "genres": ["War"]} for k in range(1, n)]
    return [None, *records]


def runs(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Spans(np.arange(len(lengths), dtype=np.int32), offsets[:-1], offsets[1:])


def documents(config=None, lengths=(5, 1, 12, 3), **options):
    items = 1 + np.arange(sum(lengths), dtype=np.int32)
    return Documents(config or TextConfig(window=4), catalogue(), items, runs(lengths), **options)


def only(*kinds, **options):
    return TextConfig(**dict.fromkeys(KINDS, 0.0) | dict.fromkeys(kinds, 1.0) | options)


def films(text):
    return [int(number) for number in re.findall("Film (\\d+)", text)]


def history(document):
    """The items of a document about a history, newest last; the blends must agree."""
    if document.kind == "histories":
        return films(document.text)
    newest = list(document.blends[-1].items)
    if document.kind == "residual":
        before, now = document.blends
        assert before.items == now.items[:-1] and films(document.text) == newest[-1:]
    else:
        assert films(document.text) == newest[::-1]
    return newest


def test_an_epoch_has_what_the_config_says_and_every_item_equally_often():
    config = TextConfig(items=2.0, naming=3.0, names=3, histories=0.5, recovery=1.0, residual=2.0)
    stream = documents(config)
    assert stream.counts == {
        "items": 78, "naming": 117, "histories": 2, "recovery": 4, "residual": 6,
    }  # fmt: skip
    assert len(stream) == 207
    for epoch in (0, 1):
        read = [stream(epoch * len(stream) + k) for k in range(len(stream))]
        assert collections.Counter(d.kind for d in read) == stream.counts
        for kind, times in (("items", 2), ("naming", 3)):
            firsts = collections.Counter(films(d.text)[0] for d in read if d.kind == kind)
            assert firsts == dict.fromkeys(range(1, 40), times)
    # Runs take turns too; one that is too short for a residual has none.
    stream = documents(only("residual", residual=3.0, random=0.0))
    owner = np.repeat(np.arange(4), [5, 1, 12, 3])
    read = collections.Counter(owner[history(stream(k))[-1] - 1] for k in range(len(stream)))
    assert read == {0: 3, 2: 3, 3: 3}


def test_all_paraphrases_are_drawn():
    stream = documents()
    forms = collections.defaultdict(set)
    for place in range(6 * len(stream)):
        document = stream(place)
        forms[document.kind].add(document.given)
    assert len(forms["recovery"]) == len(RECOVERY.prompts)
    assert len(forms["residual"]) == len(RESIDUAL.prompts)


def test_documents_depend_on_seed_and_place_alone_and_epochs_differ():
    first, again, other = (documents(seed=seed) for seed in (1, 1, 2))
    places = [len(first) + 3, 0, 5, 2 * len(first) + 1]
    assert [first(k) for k in places] == [again(k) for k in reversed(places)][::-1]
    whole = [first(k) for k in range(2 * len(first))]
    assert whole[: len(first)] != whole[len(first) :]
    assert whole != [other(k) for k in range(2 * len(first))]


def test_naming_documents_say_each_title_after_its_soft_token():
    stream = documents(only("naming", names=5, window=4, naming=8.0))
    sizes, decays = collections.Counter(), []
    for place in range(len(stream)):
        document = stream(place)
        texts, marks = document.pieces[1::2], document.pieces[::2]
        assert marks == ((None, False),) * 5 and all(learned for _, learned in texts)
        # A blend ends with the item that is named, however many items are before it.
        named = [film for text, _ in texts for film in films(text)]
        assert named == [b.items[-1] for b in document.blends] and len(named) == 5
        assert [text for text, _ in texts] == [f" Film {item}," for item in named]
        assert len(set(named[1:])) == 4  # the others are different ones
        for made in document.blends:
            assert len(set(made.items)) == len(made.items) <= 4
            sizes[len(made.items)] += 1
            if len(made.items) > 1:
                decays.append(made.weights[-2] / made.weights[-1])
    # Half of them the item alone (and a few whose only other item was the same).
    assert 0.45 < sizes[1] / sizes.total() < 0.56
    assert set(sizes) == {1, 2, 3, 4}
    assert 0 < min(decays) < 0.05 and 0.75 < max(decays) < 0.8


def test_a_share_of_naming_documents_lists_short_histories():
    stream = documents(only("naming", names=4, window=9, naming=8.0, listed=0.5))
    lengths, decays = collections.Counter(), []
    for place in range(len(stream)):
        document = stream(place)
        texts = [films(text) for text, learned in document.pieces if learned]
        for named, made in zip(texts, document.blends, strict=True):
            if len(named) == 1:
                assert named == [made.items[-1]]
                continue
            assert named == list(made.items[::-1])  # the newest first
            lengths[len(named)] += 1
            decays.append(made.weights[-2] / made.weights[-1])
    assert set(lengths) == {2, 3, 4, 5}
    assert 0.4 < lengths.total() / (4 * len(stream)) < 0.55
    assert 0.85 <= min(decays) < 0.9 and max(decays) <= 1.0


def test_windows_are_parts_of_one_run_and_all_parts_are_drawn():
    stream = documents(TextConfig(items=0, naming=0, window=4, random=0.0))
    owner = np.repeat(np.arange(4), [5, 1, 12, 3])
    seen = collections.defaultdict(set)
    decays = collections.defaultdict(list)
    for place in range(60 * len(stream)):
        document = stream(place)
        found = history(document)
        assert 1 <= len(found) <= 4
        assert found == list(range(found[0], found[0] + len(found)))
        assert len(set(owner[np.array(found) - 1])) == 1
        seen[document.kind] |= {(film, len(found)) for film in found}
        for made in document.blends:
            if len(made.items) > 1:
                decays[document.kind].append(made.weights[-2] / made.weights[-1])
        if document.kind == "residual" and len(found) > 2:  # both fade alike
            np.testing.assert_allclose(*(np.divide(*b.weights[-2:]) for b in document.blends))
    # Of every item, in windows of every size that its run has room for.
    for kind in ("histories", "recovery"):
        assert {item for item, _ in seen[kind]} == set(range(1, 22))
        assert {size for _, size in seen[kind]} == {1, 2, 3, 4}
    assert {item for item, _ in seen["residual"]} == set(range(1, 22)) - {6}
    assert {size for _, size in seen["residual"]} == {2, 3, 4}
    for kind, (low, high) in {"recovery": (0.85, 1.0), "residual": (0.0, 1.0)}.items():
        assert low <= min(decays[kind]) < low + 0.1 and high - 0.1 < max(decays[kind]) < high


def test_a_share_of_the_histories_is_of_random_items():
    share = collections.defaultdict(list)
    stream = documents(only(*HISTORIES, random=0.3, window=6), lengths=(12, 12, 12))
    sizes, items = collections.Counter(), set()
    for place in range(300 * len(stream)):
        document = stream(place)
        found = history(document)
        if len(found) > 3:  # whether shorter ones are random, one cannot see
            share[document.kind].append(found != list(range(found[0], found[0] + len(found))))
        if share[document.kind] and share[document.kind][-1] and len(found) > 3:
            assert len(set(found)) == len(found) <= 6
            sizes[len(found)] += 1
            items |= set(found)
    assert not any(share["histories"])  # what people take is learned from what they took
    for kind in ("recovery", "residual"):
        assert np.mean(share[kind]) == pytest.approx(0.3, abs=0.08)
    assert set(sizes) == {4, 5, 6} and items == set(range(1, 40))
    every = documents(only("recovery", random=1.0), lengths=(12, 12))
    drawn = [tuple(history(every(place))) for place in range(60)]
    assert len(set(drawn)) > 50  # two runs have not as many windows


def test_few_items_are_enough_for_random_histories_and_names():
    config = TextConfig(random=1.0, names=8)
    stream = Documents(config, catalogue(4), np.array([1, 2, 3], np.int32), runs((3,)))
    for place in range(5 * len(stream)):
        document = stream(place)
        assert set(itertools.chain(*(b.items for b in document.blends))) <= {1, 2, 3}
        if document.kind == "residual":
            assert all(b.items for b in document.blends)


SPLITS = {
    "leave_one_out": lambda offsets, times: leave_one_out(offsets),
    "end": chronological_sequences,
    "start": lambda offsets, times: chronological_sequences(offsets, times, by="start"),
    "user": lambda offsets, times: chronological_sequences(offsets, times, by="user"),
    "time": chronological_time,
}


@pytest.mark.parametrize("split", SPLITS)
def test_no_interaction_of_validation_or_test_is_read(split):
    """Items that only validation or test interactions name are in no history that trains."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.sort(rng.integers(0, 10_000, lengths.sum()))  # rising within every user
    items = np.ones(lengths.sum(), np.int32)
    parts = SPLITS[split](offsets, times)
    trained = np.zeros(len(items), bool)
    for start, stop in zip(parts.train.starts, parts.train.stops, strict=True):
        trained[start:stop] = True
    items[~trained] = 2
    assert (~trained).sum() > 10
    config = TextConfig(items=0, naming=0, random=0)

    def read(document):
        return {*films(document.text), *itertools.chain(*(b.items for b in document.blends))}

    for seed in range(3):
        stream = Documents(config, catalogue(4), items, parts.train, seed)
        for place in range(5 * len(stream)):
            assert read(stream(place)) == {1}
    # The measure sees one that does: the same histories with the items after them.
    leaky = Documents(
        config, catalogue(4), items, Spans(parts.train.users, offsets[:-1], offsets[1:])
    )
    if len(parts.train) < len(lengths):  # whole sequences are left out
        leaky = Documents(config, catalogue(4), items, runs(lengths))
    assert any(2 in read(leaky(place)) for place in range(len(leaky)))


def test_fixed_documents_end_with_the_run_and_draw_nothing():
    stream = documents()
    assert history(stream.fixed("residual", 2)) == [15, 16, 17, 18]
    assert films(stream.fixed("recovery", 2).text) == [18, 17, 16, 15]
    assert "Film 15, Film 16, Film 17, Film 18" in stream.fixed("histories", 2).text
    assert [stream.members(kind).tolist() for kind in HISTORIES] == [[0, 1, 2, 3]] * 2 + [[0, 2, 3]]
    assert stream.fixed("naming", 7) == Document(
        "naming", ((None, False), (" Film 7,", True), ("", False)), (Blend((7,), (1.0,)),)
    )
    assert stream.members("naming").tolist() == list(range(1, 40))
    # Fading is in the middle of what is drawn in training; paraphrases take turns.
    recovery, residual = stream.fixed("recovery", 0), stream.fixed("residual", 0)
    assert recovery.blends == (blend([2, 3, 4, 5], 0.925),)
    assert residual.blends == (blend([2, 3, 4], 0.5), blend([2, 3, 4, 5], 0.5))
    shapes = {stream.fixed("recovery", run).given for run in (0, 1, 2)}
    assert len(shapes) == 3
    other = documents(seed=5)
    for kind in KINDS:
        assert other.fixed(kind, 2) == stream.fixed(kind, 2)


def test_the_tokenizer_s_corpus_has_every_title_and_every_word():
    stream = documents(lengths=(5,))
    whole = " ".join(stream.corpus())
    assert set(films(whole)) == set(range(1, 40)) and "{" not in whole
    for place in range(3 * len(stream)):
        document = stream(place)
        said = document.given.replace("{soft}", " ") + document.text
        assert set(re.findall("[A-Za-z]+", said)) <= set(re.findall("[A-Za-z]+", whole))


def test_a_file_s_prompts_and_words_are_asked_and_learned(tmp_path):
    file = tmp_path / "songs.json"
    words = {"past": "heard", "doing": "hearing", "item": "song", "items": "songs"}
    added = {"question": "Which {items}? {soft}", "answer": "Those: {titles}"}
    file.write_text(json.dumps({"words": {"song": words}, "recovery": [added]}))
    stream = documents(only("recovery", domain="song", prompts=str(file), recovery=9.0))
    given = {stream(place).given for place in range(2 * len(stream))}
    assert len(given) == 4 and "Which songs?{soft}" in given
    assert not any("movie" in text for text in given)
    assert "Those: " in " ".join(stream.corpus())
    with pytest.raises(InputError, match="no words for the domain 'song'"):
        documents(TextConfig(domain="song"))(0)


def test_which_texts_have_soft_tokens():
    assert not only("items", "histories").soft
    assert all(only("items", kind).soft for kind in ("naming", "recovery", "residual"))
    stream = documents(only("items", "histories"))
    assert not any(stream(place).blends for place in range(len(stream)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 1}, "window: expected 2 to 1000"),
        ({"names": 0}, "names: expected 1 to 1000"),
        ({"naming": -1.0}, "naming: expected 0 to 10000, got -1.0"),
        ({"noise": -0.1}, "noise: expected at least 0, got -0.1"),
        ({"random": 1.1}, "random: expected 0 to 1"),
        ({"listed": 1.1}, "listed: expected 0 to 1"),
        ({"random": -0.1}, "random: expected 0 to 1"),
    ],
)
def test_bad_config(values, message):
    with pytest.raises(InputError, match=message):
        TextConfig(**values)


def test_nothing_to_read_is_an_error():
    with pytest.raises(InputError, match="config.text: no document; expected one of items"):
        documents(only())
