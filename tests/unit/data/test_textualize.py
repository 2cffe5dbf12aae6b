import collections
import re

import numpy as np
import pytest

from recjax.data.splits import Spans, chronological_sequences, chronological_time, leave_one_out
from recjax.data.textualize import (
    KINDS,
    NAMING,
    RECOVERY,
    RESIDUAL,
    WORDS,
    Documents,
    TextConfig,
    answer,
    history_text,
    item_text,
    item_titles,
    item_tokens,
    question,
)
from recjax.data.tokenizers import train_bpe
from recjax.errors import InputError

MOVIE = WORDS["movie"]


def catalogue(n=40):
    records = [{"title": f"Film {k}", "year": 1900 + k, "genres": ["War"]} for k in range(1, n)]
    return [None, *records]


def runs(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Spans(np.arange(len(lengths), dtype=np.int32), offsets[:-1], offsets[1:])


def documents(config=None, lengths=(5, 1, 12, 3), **options):
    items = 1 + np.arange(sum(lengths), dtype=np.int32)
    return Documents(config or TextConfig(window=4), catalogue(), items, runs(lengths), **options)


def test_titles_are_readable_and_none_is_empty():
    records = [None, {"title": " The  Matrix "}, {"title": None}, None, {"title": ""}]
    expected = ["", "The Matrix", "Untitled game 2", "Untitled game 3", "Untitled game 4"]
    assert item_titles(records, WORDS["game"]) == expected


def test_the_papers_prompts_word_by_word():
    assert question(RECOVERY[0], MOVIE) == (
        "A person has watched a series of movies. The watching list can be represented as: "
        "{soft}. Describe this watching history of the person in detail."
    )
    titles = ["Twelve Monkeys", "Cat People", "Cape Fear"]
    assert answer(RECOVERY[0], MOVIE, titles) == (
        "This user has watched Twelve Monkeys, Cat People, Cape Fear in the previous."
    )
    assert question(RESIDUAL[0], MOVIE) == (
        "A person has watched a series of movies. The watching list can be represented as List1: "
        "{soft}. After watching another movie, the watching list can further be represented as "
        "List2: {soft}. What is the movie in List2 but not in List1?"
    )
    assert answer(RESIDUAL[0], MOVIE, titles[:1]) == (
        "This user watched movie Twelve Monkeys in List2 but not in List1."
    )


@pytest.mark.parametrize("domain", WORDS)
@pytest.mark.parametrize("task", [RECOVERY, RESIDUAL, NAMING])
def test_every_prompt_in_every_domain(domain, task):
    marks = {RECOVERY: 1, RESIDUAL: 2, NAMING: 1}[task]
    for prompt in task:
        text = question(prompt, WORDS[domain], ["<<x>>"] * marks)
        assert text.count("<<x>>") == marks and not set("{}") & set(text)
        # Braces in a title are text, and every title is there.
        said = answer(prompt, WORDS[domain], ["{soft}", "B {0}"])
        assert "{soft}, B {0}" in said
        with pytest.raises(InputError, match=f"a prompt with {marks} of"):
            question(prompt, WORDS[domain], ["x"] * 3)


def test_what_is_known_of_an_item():
    film = {"title": "x", "year": 1999, "genres": ["Action", "Sci-Fi"], "price": 3}
    assert item_text(film, "The Matrix", MOVIE) == (
        "The movie The Matrix came out in 1999, belongs to Action and Sci-Fi."
    )
    assert item_text(film, "The Matrix", MOVIE, 1).endswith(
        "belongs to Action and Sci-Fi? The Matrix."
    )
    polish = {"brand": "OPI", "categories": [["Beauty", "Nails", "Polish"]]}
    assert item_text(polish, "Red", WORDS["product"]) == (
        "The product Red is by OPI, belongs to Beauty, Nails and Polish."
    )
    assert item_text({}, "Red", WORDS["product"]) == "The product Red exists."
    assert item_text(None, "Red", WORDS["product"], 1) == "Which product exists? Red."


def test_histories_keep_their_order():
    for form in (0, 1):
        assert "A, C, B" in history_text(["A", "C", "B"], MOVIE, form)
    assert history_text(["A"], MOVIE, 0) != history_text(["A"], MOVIE, 1)


def test_an_epoch_has_what_the_config_says_and_every_item_equally_often():
    config = TextConfig(items=2.0, naming=3.0, histories=0.5, recovery=1.0, residual=2.0)
    stream = documents(config)
    assert stream.counts == {
        "items": 78, "naming": 117, "histories": 2, "recovery": 4, "residual": 6,
    }  # fmt: skip
    for epoch in (0, 1):
        read = [stream(epoch * len(stream) + k) for k in range(len(stream))]
        assert collections.Counter(d.kind for d in read) == stream.counts
        named = collections.Counter(d.prompt for d in read if d.kind == "naming")
        tokens = collections.Counter()
        for text, count in named.items():
            tokens[re.search("<item_\\d+>", text)[0]] += count
        assert set(tokens.values()) == {3} and len(tokens) == 39


def test_documents_depend_on_seed_and_place_alone_and_epochs_differ():
    first, again, other = (documents(seed=seed) for seed in (1, 1, 2))
    places = [len(first) + 3, 0, 5, 2 * len(first) + 1]
    assert [first(k) for k in places] == [again(k) for k in reversed(places)][::-1]
    whole = [first(k) for k in range(2 * len(first))]
    assert whole[: len(first)] != whole[len(first) :]
    assert whole != [other(k) for k in range(2 * len(first))]


def test_windows_are_parts_of_one_run_and_all_parts_are_drawn():
    stream = documents(TextConfig(items=0, naming=0, window=4))
    owner = np.repeat(np.arange(4), [5, 1, 12, 3])
    seen = collections.defaultdict(set)
    for k in range(60 * len(stream)):
        document = stream(k)
        text = document.text if document.kind != "residual" else document.prompt
        found = [int(n) for n in re.findall("Film (\\d+)|<item_(\\d+)>", text) for n in n if n]
        if document.kind == "residual":
            new = int(re.search("Film (\\d+)", document.text)[1])
            half = len(found) // 2
            assert found[half:] == [*found[:half], new]
            found = found[half:]
        assert 1 <= len(found) <= 4
        assert found == list(range(found[0], found[0] + len(found)))
        assert len(set(owner[np.array(found) - 1])) == 1
        if document.kind == "recovery":
            shown = re.findall("<item_(\\d+)>", document.prompt)
            assert [int(n) for n in shown] == found
        seen[document.kind] |= {(f, len(found)) for f in found}
    # Of every item, in windows of every size that its run has room for.
    assert {item for item, _ in seen["histories"]} == set(range(1, 22))
    assert {item for item, _ in seen["residual"]} == set(range(1, 22)) - {6}
    assert {size for _, size in seen["recovery"]} == {1, 2, 3, 4}


@pytest.mark.parametrize("split", [leave_one_out, chronological_sequences, chronological_time])
def test_no_interaction_of_validation_or_test_is_read(split):
    """Items that only validation or test interactions name are in no history that trains."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.sort(rng.integers(0, 10_000, lengths.sum()))  # rising within every user
    items = np.ones(lengths.sum(), np.int32)
    parts = split(offsets) if split is leave_one_out else split(offsets, times)
    trained = np.zeros(len(items), bool)
    for start, stop in zip(parts.train.starts, parts.train.stops, strict=True):
        trained[start:stop] = True
    items[~trained] = 2
    assert (~trained).sum() > 10
    config = TextConfig(items=0, naming=0)
    for seed in range(3):
        stream = Documents(config, catalogue(4), items, parts.train, seed)
        for k in range(5 * len(stream)):
            document = stream(k)
            whole = document.prompt + document.text
            assert "Film 2" not in whole and "<item_2>" not in whole
    # The measure sees one that does: the same histories with the items after them.
    leaky = Documents(
        config, catalogue(4), items, Spans(parts.train.users, offsets[:-1], offsets[1:])
    )
    assert any("Film 2" in leaky(k).text for k in range(len(leaky)))


def test_fixed_documents_end_with_the_run():
    stream = documents()
    assert stream.fixed("residual", 2).text.count("Film 18") == 1
    assert "Film 15, Film 16, Film 17, Film 18" in stream.fixed("histories", 2).text
    assert [stream.members(kind).tolist() for kind in KINDS[2:]] == [[0, 1, 2, 3]] * 2 + [[0, 2, 3]]
    texts = {stream.fixed("naming", item).prompt.replace(str(item), "") for item in (1, 2, 3)}
    assert len(texts) == 3  # paraphrases take turns


def test_item_tokens_are_single_tokens_in_the_text():
    tokenizer = train_bpe(["The movie Film 7 came out."], 300, extra_tokens=item_tokens(40))
    ids = tokenizer.encode(documents().fixed("recovery", 2).prompt)
    first = tokenizer.id_of("<item_1>")
    assert [k - first + 1 for k in ids if k >= first] == [15, 16, 17, 18]
    assert not TextConfig(naming=0, recovery=0, residual=0).item_tokens


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 1}, "config.text.window: expected at least 2"),
        ({"naming": -1.0}, "config.text: items, naming, histories, recovery, residual are at le"),
    ],
)
def test_bad_config(values, message):
    with pytest.raises(InputError, match=message):
        TextConfig(**values)


def test_nothing_to_read_is_an_error():
    with pytest.raises(InputError, match="config.text: no document in an epoch"):
        documents(TextConfig(items=0, naming=0, histories=0, recovery=0, residual=0))
