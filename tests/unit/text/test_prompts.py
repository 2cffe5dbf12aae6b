"""The words of questions and answers, and files that add to them."""

import json

import pytest

from recjax.errors import InputError
from recjax.text.prompts import (
    WORDS,
    Prompt,
    Words,
    answer,
    around,
    listed,
    question,
    read_prompts,
)
from recjax.text.tasks import PROMPTS, RECOVERY, RESIDUAL, TASKS

MOVIE = WORDS["movie"]
SONG = {"past": "heard", "doing": "hearing", "item": "song", "items": "songs"}
EVERY = [
    (name, number, domain)
    for name, task in TASKS.items()
    for number in range(len(task.prompts))
    for domain in WORDS
]


def test_the_papers_prompts_word_by_word():
    recovery, residual = RECOVERY.prompts[0], RESIDUAL.prompts[0]
    assert question(recovery, MOVIE) == (
        "A person has watched a series of movies. The watching list can be represented as: "
        "{soft}. Describe this watching history of the person in detail."
    )
    titles = ["Twelve Monkeys", "Cat People", "Cape Fear"]
    assert answer(recovery, MOVIE, titles) == (
        "This user has watched Twelve Monkeys, Cat People, Cape Fear in the previous."
    )
    assert question(residual, MOVIE) == (
        "A person has watched a series of movies. The watching list can be represented as List1: "
        "{soft}. After watching another movie, the watching list can further be represented as "
        "List2: {soft}. What is the movie in List2 but not in List1?"
    )
    assert answer(residual, MOVIE, titles[:1]) == (
        "This user watched movie Twelve Monkeys in List2 but not in List1."
    )


@pytest.mark.parametrize(("task", "number", "domain"), EVERY)
def test_every_prompt_in_every_domain(task, number, domain):
    prompt, words = TASKS[task].prompts[number], PROMPTS.of(domain, "")
    asked = question(prompt, words)
    assert asked.count("{soft}") == len(TASKS[task].backs)
    assert not set("{}") & set(asked.replace("{soft}", ""))
    # Braces in a title are text, and what stands around the titles is what `around` says.
    titles = ["{soft}", "B {0}", "{titles} {item"]
    before, after = around(prompt, words)
    assert answer(prompt, words, titles) == before + "{soft}, B {0}, {titles} {item" + after
    assert not set("{}") & set(before + after)
    assert after.startswith((" ", ".")) and before.endswith(" ")


def test_each_prompt_is_one_of_its_own():
    for task in TASKS.values():
        asked = {question(prompt, MOVIE) for prompt in task.prompts}
        assert len(asked) == len(task.prompts) >= 2


def test_titles_in_a_row():
    assert [listed(names) for names in ([], ["A"], ["A", "C", "B"])] == ["", "A", "A, C, B"]


def test_an_unknown_domain_names_the_nearest():
    with pytest.raises(InputError, match="no words for the domain 'movies'; did you mean 'movie'"):
        PROMPTS.of("movies", "config.text.prompts")


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_file_adds_domains_and_prompts(tmp_path):
    added = {
        "words": {"song": SONG, "movie": SONG | {"item": "film"}},
        "recovery": [
            {"question": "Which {items} are in {soft}?", "answer": "It has {titles}, {past}."}
        ],
        "residual": [
            {"question": "{soft} became {soft}", "answer": "{titles}"},
            {"question": "{soft}{soft} {item}?", "answer": "{item} {titles}"},
        ],
    }
    table = read_prompts(write(tmp_path / "more.json", added), PROMPTS)
    song = table.of("song", "")
    assert song == Words("heard", "hearing", "song", "songs")
    # Its words go before ours, its prompts come after them, so what measures stays.
    assert table.of("movie", "").item == "film" and PROMPTS.of("movie", "").item == "movie"
    assert table.words.keys() == {*PROMPTS.words, "song"}
    recovery, residual = table.prompts["recovery"], table.prompts["residual"]
    assert recovery[:-1] == RECOVERY.prompts and residual[:-2] == RESIDUAL.prompts
    assert recovery[-1] == Prompt(**added["recovery"][0])
    assert question(recovery[-1], song) == "Which songs are in {soft}?"
    assert answer(recovery[-1], song, ["Ännchen", "B"]) == "It has Ännchen, B, heard."
    assert [question(prompt, song) for prompt in residual[-2:]] == [
        "{soft} became {soft}",
        "{soft}{soft} song?",
    ]
    assert around(residual[-2], song) == ("", "")
    assert around(residual[-1], song) == ("song ", "")


def test_no_file_and_an_empty_one_add_nothing(tmp_path):
    assert read_prompts("", PROMPTS) is PROMPTS
    assert read_prompts(str(write(tmp_path / "none.json", {})), PROMPTS) == PROMPTS


def test_a_tables_fingerprint_is_that_of_its_content(tmp_path):
    one = {"words": {"song": SONG, "tune": SONG}, "recovery": [ASK]}
    same = {"recovery": [ASK], "words": {"tune": SONG, "song": SONG}}
    others = [{}, {"residual": []}, one | {"recovery": [ASK, ASK]}, one | {"words": {"song": SONG}}]
    prints = [
        read_prompts(write(tmp_path / "p.json", x), PROMPTS).fingerprint
        for x in (one, same, *others)
    ]
    assert prints[0] == prints[1] and prints[2] == prints[3] == PROMPTS.fingerprint
    assert len(set(prints)) == 4


ASK = {"question": "{soft}?", "answer": "{titles}"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a JSON object, got list"),
        ({"naming": []}, "unknown key 'naming'; expected words, recovery or residual"),
        ({"words": []}, "words: expected an object"),
        ({"words": {"song": "heard"}}, "words.song: expected an object"),
        ({"words": {"song": {"past": "x"}}}, "words.song: expected the texts past, doing, item, i"),
        ({"words": {"song": SONG | {"more": "x"}}}, "words.song: expected the texts past, doing"),
        ({"words": {"song": SONG | {"item": 3}}}, "words.song: expected the texts past, doing"),
        ({"words": {"song": SONG | {"item": "{soft}"}}}, "words.song: a brace in '{soft}'"),
        ({"recovery": ASK}, "recovery: expected a list of prompts"),
        ({"recovery": [ASK, "x"]}, "recovery[1]: expected an object"),
        ({"recovery": [{"question": "{soft}"}]}, "recovery[0]: expected the texts question, answ"),
        ({"recovery": [ASK | {"answer": None}]}, "recovery[0]: expected the texts question, ans"),
        ({"recovery": [ASK | {"question": "x"}]}, "recovery[0]: 'x' needs 1 of '{soft}'"),
        ({"recovery": [ASK | {"question": "{soft} {soft}"}]}, "' needs 1 of '{soft}'"),
        ({"residual": [ASK]}, "residual[0]: '{soft}?' needs 2 of '{soft}'"),
        ({"recovery": [ASK | {"answer": "It."}]}, "recovery[0]: 'It.' needs 1 of '{titles}'"),
        ({"recovery": [ASK | {"answer": "{titles} {titles}"}]}, "' needs 1 of '{titles}'"),
        (
            {"recovery": [ASK | {"answer": "'{titles}'"}]},
            "needs words and one blank before '{titles}'",
        ),
        ({"recovery": [ASK | {"answer": "It has ({titles})"}]}, "needs words and one blank bef"),
        ({"recovery": [ASK | {"answer": "{item}{titles}"}]}, "needs words and one blank bef"),
        ({"recovery": [ASK | {"answer": "It has  {titles}"}]}, "needs words and one blank bef"),
        ({"recovery": [ASK | {"answer": "It has\n{titles}"}]}, "needs words and one blank bef"),
        ({"recovery": [ASK | {"answer": " {titles}"}]}, "needs words and one blank bef"),
        ({"recovery": [ASK | {"answer": "{titles} {soft}"}]}, "unknown place '{soft}' in"),
        ({"recovery": [ASK | {"question": "{soft} {titles}"}]}, "unknown place '{titles}' in"),
        ({"recovery": [ASK | {"question": "{soft} {itmes}"}]}, "recovery[0]: unknown place '{itm"),
        ({"recovery": [ASK | {"question": "{soft} {}"}]}, "recovery[0]: unknown place '{}' in"),
        ({"recovery": [ASK | {"question": "{soft} {0}"}]}, "recovery[0]: unknown place '{0}' in"),
        ({"recovery": [ASK | {"question": "{soft} {item"}]}, "recovery[0]: a brace in '{soft} {i"),
        ({"recovery": [ASK | {"question": "{soft} {{soft}}"}]}, "recovery[0]: a brace in '{soft}"),
        ({"recovery": [ASK | {"question": "{soft!r}?"}]}, "recovery[0]: a brace in '{soft!r}?'"),
        ({"recovery": [ASK | {"question": "{soft} {item:d}"}]}, "recovery[0]: a brace in '{soft} "),
        ({"recovery": [ASK | {"answer": "{titles.x}"}]}, "recovery[0]: a brace in '{titles.x}'"),
    ],
)
def test_malformed_files_are_one_error(tmp_path, content, message):
    file = write(tmp_path / "bad.json", content)
    with pytest.raises(InputError) as error:
        read_prompts(file, PROMPTS)
    text = str(error.value)
    assert text.startswith(f"{file}: ") and message in text and "\n" not in text


@pytest.mark.parametrize(
    "content", [None, b"", b"{'words': 1}", b"\xff{}", b'{"words": {', b"[" * 99999]
)
def test_files_that_are_no_json(tmp_path, content):
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_prompts(file, PROMPTS)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)
