"""Answers: what is asked of the language model, and what its words name."""

import json

import numpy as np
import pytest

from recjax.interpreter.reader import Reader
from recjax.text.tasks import RECOVERY, RESIDUAL, TASKS
from recjax.text.titles import normalise

BOTH = {"residual": 1.0, "recovery": 1.0}
ADDED = " This user read book {} in List2 but not in List1."
LISTED = " This user has read {} in the previous."


class Spoken:
    """What `generate` gives back."""

    def __init__(self, texts):
        self.texts = texts


@pytest.fixture
def make_reader(make_bridge, states, titles):
    def make(**ask):
        bridge = make_bridge(BOTH | ask)
        return Reader(bridge, bridge.initial(np.asarray(states(20)), 0), titles)

    return make


@pytest.fixture
def saying(make_reader, states, monkeypatch):
    """`saying(text, task) -> Answer`: how a text is understood."""

    def understand(text, task=RESIDUAL, **options):
        reader = make_reader()
        monkeypatch.setattr(
            reader.bridge.llm, "generate", lambda ids, **options: Spoken([text] * len(ids))
        )
        shown = np.asarray(states(2))[None, : len(task.backs)]
        (answer,) = reader.read(shown, task, **options)
        assert answer.text == text
        return answer

    return understand


def named(answer):
    return [(one.text, one.items) for one in answer.named]


def test_the_title_between_an_answers_words(saying):
    answer = saying(ADDED.format("Brazil"))
    assert named(answer) == [("Brazil", (3,))]
    assert answer.strict == ((3,),) and answer.known
    assert answer.items == answer.strict_items == {3}


def test_two_items_of_one_title_both_count(saying):
    answer = saying(ADDED.format("Alien"))
    assert answer.items == answer.strict_items == {1, 6}


@pytest.mark.parametrize("said", ["the alien", "ALIEN!", "Alien  "])
def test_normal_and_strict_forms(saying, said):
    answer = saying(ADDED.format(said))
    assert answer.items == {1, 6}
    assert answer.strict_items == (set() if said.strip() != "Alien" else {1, 6})


def test_a_title_with_an_answers_own_words(saying):
    assert saying(ADDED.format("Up in List2 but not in List1")).items == {8}


@pytest.mark.parametrize("said", ["Casablanca", "Alie", "Alien Dune", "???", "Alien, Dune"])
def test_titles_outside_the_catalogue(saying, said):
    """A residual answer is one title, as it stands."""
    answer = saying(ADDED.format(said))
    assert named(answer) == [(said, ())] and answer.strict == ((),)
    assert not answer.known and not answer.items


def test_an_answer_that_was_cut_off(saying):
    assert named(saying(" This user read book Brazil")) == [("Brazil", (3,))]
    assert named(saying(" This user read book Braz")) == [("Braz", ())]
    cut = saying(" This user has read Dune, Paris, Texas, Ali", RECOVERY)
    assert named(cut) == [("Dune", (5,)), ("Paris, Texas", (7,)), ("Ali", ())]


@pytest.mark.parametrize("text", ["", "Brazil", " The user read Brazil.", ADDED.format("")])
def test_other_words_name_nothing(saying, text):
    answer = saying(text)
    assert answer.named == answer.strict == () and not answer.known


def test_a_list_of_titles(saying):
    answer = saying(LISTED.format("Dune, the omen, Paris, Texas, Casablanca, Alien"), RECOVERY)
    assert named(answer) == [
        ("Dune", (5,)), ("the omen", (2,)), ("Paris, Texas", (7,)), ("Casablanca", ()),
        ("Alien", (1, 6)),
    ]  # fmt: skip
    assert answer.items == {5, 2, 7, 1, 6} and answer.strict_items == {5, 7, 1, 6}
    assert [len(items) for items in answer.strict] == [1, 0, 1, 0, 2]


def test_the_words_are_those_of_the_prompt(saying):
    assert saying(" The new book is Dune.", form=2).items == {5}
    assert saying(ADDED.format("Dune"), form=2).items == set()
    assert saying(" The books are Dune.", RECOVERY, form=2).items == {5}


def test_what_the_model_is_asked(make_reader, states, monkeypatch):
    """Full batches always, the rest of a list padded; each row has its own soft tokens."""
    reader, calls, done = make_reader(), [], []

    def generate(ids, **options):
        calls.append((ids, options))
        rows = np.asarray(options["soft"][1])
        return Spoken([f"{row.sum():.3f}" for row in rows])

    monkeypatch.setattr(reader.bridge.llm, "generate", generate)
    shown = np.asarray(states(140)).reshape(70, 2, 4, 6)
    answers = reader.read(shown, RESIDUAL, form=1, progress=done.append)
    assert done == [64, 6] and len(calls) == 2 and len(answers) == 70
    soft = np.asarray(reader.bridge.soft(reader._params, shown))
    assert [a.text for a in answers] == [f"{row.sum():.3f}" for row in soft]
    asked = reader.bridge.questions.question(RESIDUAL, 1)
    for ids, options in calls:
        is_soft, vectors = options["soft"]
        assert ids.shape == is_soft.shape == (64, len(asked.ids))
        assert vectors.shape == (64, 4, 64)
        assert (ids == asked.ids).all() and (is_soft == asked.is_soft).all()
        assert options["max_new_tokens"] == 24
        assert options["beams"] == 1 and options["processors"] == ()
    reader.read(shown[:9], RESIDUAL)
    assert calls[-1][0].shape[0] == 64
    reader.read(shown[:8], RESIDUAL)
    assert calls[-1][0].shape[0] == 8
    reader.read(shown[:17, :1], RECOVERY, decoding="beam")
    assert [len(ids) for ids, _ in calls[-2:]] == [16, 16]  # four beams each
    reader.read(shown[:1, :1], RECOVERY, decoding="beam")
    assert len(calls[-1][0]) == 1
    assert calls[-1][1]["max_new_tokens"] == 40
    assert calls[-1][1]["beams"] == 4 and calls[-1][1]["processors"] == ()
    reader.read(shown[:1], RESIDUAL, decoding="constrained")
    assert calls[-1][1]["beams"] == 1 and len(calls[-1][1]["processors"]) == 1


def test_greedy_answers_are_the_models_own(make_reader, states):
    reader = make_reader(residual_tokens=6)
    bridge, shown = reader.bridge, np.asarray(states(6)).reshape(3, 2, 4, 6)
    answers = reader.read(shown, RESIDUAL)
    asked = bridge.questions.question(RESIDUAL)
    ids, is_soft = (np.tile(a, (3, 1)) for a in (asked.ids, asked.is_soft))
    soft = bridge.soft(reader._params, shown)
    expected = bridge.llm.generate(ids, soft=(is_soft, soft), max_new_tokens=6).texts
    assert [answer.text for answer in answers] == expected and len(set(expected)) > 1


def test_a_long_list_is_read_more_at_a_time(make_reader, states, monkeypatch):
    reader = make_reader(residual_tokens=6)
    shown = np.asarray(states(1000)).reshape(500, 2, 4, 6)
    expected, done = reader.read(shown, RESIDUAL), []
    monkeypatch.setattr("recjax.interpreter.reader._LONG", 500)
    monkeypatch.setattr("recjax.interpreter.reader._MANY", 256)
    assert reader.read(shown, RESIDUAL, progress=done.append) == expected
    assert done == [256, 244]


def test_rows_at_a_time(make_reader, monkeypatch):
    """Multiples of 64 that share a list about evenly, as many as the cache has room for."""
    reader = make_reader(residual_tokens=6)
    sizes = {count: reader._size(count, RESIDUAL, 0, "greedy") for count in (2048, 2049, 5000)}
    assert sizes == {2048: 512, 2049: 448, 5000: 512}
    asked, config = reader.bridge.questions.question(RESIDUAL), reader.bridge.llm.config
    slots = len(asked.ids) - asked.before + 6
    cache = reader.bridge.llm.definition.merge(reader.bridge.llm.params).empty_cache(1, slots)
    row = sum(a.nbytes for a in (*cache.keys, *cache.values))
    assert len(cache.keys) == config.layers
    for rows, expected in ((200, 192), (127, 64), (1, 64)):
        monkeypatch.setattr("recjax.interpreter.reader._ROOM", row * rows)
        assert reader._size(2048, RESIDUAL, 0, "greedy") == expected


@pytest.mark.parametrize("said", ["{titles}", "{titles} is new.", "It was: {titles}"])
def test_constrained_answers_are_those_that_are_trained(
    make_reader, states, tmp_path, monkeypatch, said
):
    """Token by token, wherever an answer has its title."""
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"residual": [{"question": "{soft}, {soft}?", "answer": said}]}))
    reader, told = make_reader(prompts=str(file)), []
    questions, llm = reader.bridge.questions, reader.bridge.llm
    generate = llm.generate

    def listen(*args, **options):
        told.append(generate(*args, **options))
        return told[-1]

    monkeypatch.setattr(llm, "generate", listen)
    shown = np.asarray(states(40)).reshape(20, 2, 4, 6)
    answers = reader.read(shown, RESIDUAL, decoding="constrained", form=3)
    titles = [[one.text for one in answer.named] for answer in answers]
    assert len({*map(tuple, titles)}) > 1 and all(answer.known for answer in answers)
    for row, expected in enumerate(questions.answers(RESIDUAL, 3, titles)):
        assert told[0].tokens[row, : told[0].lengths[row]].tolist() == expected


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_constrained_answers_are_in_the_catalogue(make_reader, states, titles, task):
    reader = make_reader()
    shown = np.asarray(states(40)).reshape(-1, len(task.backs), 4, 6)
    answers = reader.read(shown, task, decoding="constrained")
    before, after = (LISTED if task.lists else ADDED).split("{}")
    known, said = {normalise(title) for title in titles if title}, set()
    for answer in answers:
        assert answer.text.startswith(before)
        whole = answer.text.endswith(after)
        assert whole or task.lists  # a list may be longer than an answer
        pieces = answer.named if whole else answer.named[:-1]
        said |= {normalise(one.text) for one in pieces}
        assert all(one.items for one in pieces)
    assert said <= known and len(said) > 1
    assert (max(len(answer.named) for answer in answers) > 1) == task.lists
    assert all(answer.known for answer in answers)
    free = reader.read(shown, task)
    assert not any(answer.known for answer in free), "a random model says no title by itself"
