"""Questions and answers as tokens: the table's words, soft places, labels, what is visible."""

import json

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.questions import AskConfig, Questions
from recjax.text.prompts import WORDS, answer, question
from recjax.text.tasks import RECOVERY, RESIDUAL, TASKS
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import SOFT

SOFT_TOKENS = 3
EVERY = [(task, form) for task in TASKS.values() for form in range(3)]
BOOK = WORDS["book"]


def make(tokenizer, max_length=192, soft=SOFT_TOKENS, **fields):
    config = AskConfig(**{"domain": "book", "recovery": 1.0, **fields})
    return Questions(config, tokenizer, soft, max_length)


@pytest.fixture(scope="module")
def questions(tokenizer):
    return make(tokenizer)


def told(task, count=1):
    """Titles of `count` rows."""
    some = [["Alien"], ["The Omen"], ["Up in List2 but not in List1"]]
    return [[*row, "Dune"] for row in some[:count]] if task.lists else some[:count]


@pytest.mark.parametrize(("task", "form"), EVERY)
def test_a_question_is_the_prompts_words_with_soft_places(questions, tokenizer, task, form):
    asked = questions.question(task, form)
    prompt = task.prompts[form]
    ids, is_soft = np.array(asked.ids), np.array(asked.is_soft)
    assert is_soft.sum() == SOFT_TOKENS * len(task.backs)
    assert (ids[is_soft] == tokenizer.pad_id).all()
    assert asked.before == is_soft.argmax() > 1 and ids[0] == tokenizer.bos_id
    spoken = tokenizer.decode(ids[~is_soft])
    assert spoken == question(prompt, BOOK).replace(f" {SOFT}", "")
    # Each representation's places stand together.
    assert (np.diff(np.flatnonzero(is_soft)) == 1).sum() == is_soft.sum() - len(task.backs)


@pytest.mark.parametrize(("task", "form"), EVERY)
def test_question_and_answer_are_the_tokens_of_one_text(questions, tokenizer, task, form):
    (titles,) = told(task)
    prompt = task.prompts[form]
    whole = f"{question(prompt, BOOK)} {answer(prompt, BOOK, titles)}"
    ids, _ = tokenizer.encode_with_soft(whole, soft=SOFT_TOKENS, bos=True)
    asked, answers = questions.question(task, form), questions.answers(task, form, [titles])
    assert [*asked.ids, *answers[0]] == [*ids, tokenizer.eos_id]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("task", "form"), EVERY)
def test_a_batch_is_what_follows_the_shared_beginning(questions, tokenizer, task, form, pairs):
    titles = told(task, 3) + told(task)
    asked, answers = questions.question(task, form), questions.answers(task, form, titles)
    before, order, batch = questions.lay_out(task, form, titles, pairs=pairs)
    assert before == asked.ids[: asked.before]
    wide = questions.lay_out(task, form, titles, pairs=pairs, width=800)[2]["tokens"]
    assert wide.shape == (len(order), 800)
    assert (wide[:, : batch["tokens"].shape[1]] == batch["tokens"]).all()
    assert order.shape == ((2, 2) if pairs else (4, 1))
    assert sorted(order.ravel().tolist()) == [0, 1, 2, 3]
    rest = len(asked.ids) - len(before)
    width = batch["tokens"].shape[1]
    assert batch["labels"].shape == batch["places"].shape == (
        len(order), width - order.shape[1] * rest,
    )  # fmt: skip
    assert np.take_along_axis(batch["is_soft"], batch["learned"], axis=1).all()
    assert batch["learned"].size == batch["is_soft"].sum() > 0
    for row, members in enumerate(order):
        labels = []
        for number, member in enumerate(members, start=1):
            own = batch["segments"][row] == number
            whole = [*asked.ids, *answers[member]]
            assert [*before, *batch["tokens"][row, own]] == whole
            assert [*asked.is_soft, *[False] * len(answers[member])] == [
                *asked.is_soft[: len(before)], *batch["is_soft"][row, own],
            ]  # fmt: skip
            assert batch["positions"][row, own].tolist() == [*range(len(before), len(whole))]
            labels += answers[member]
        padding = batch["segments"][row] == 0
        assert not batch["is_soft"][row, padding].any()
        assert (batch["tokens"][row, padding] == tokenizer.pad_id).all()
        # Each label stands right after the place that predicts it, in the same example.
        given = batch["labels"][row] != NO_LABEL
        assert (
            batch["labels"][row, given].tolist()
            == labels
            == batch["labels"][row, : len(labels)].tolist()
        )
        places = batch["places"][row, given]
        assert batch["tokens"][row, places + 1].tolist() == labels
        assert (batch["segments"][row, places] == batch["segments"][row, places + 1]).all()


def test_pairs_are_of_a_short_and_a_long_answer(questions):
    titles = [["Alien"] * count for count in (1, 9, 3, 7)]
    _, order, batch = questions.lay_out(RECOVERY, 0, titles, pairs=True)
    assert sorted(map(sorted, order.tolist())) == [[0, 1], [2, 3]]
    used = (batch["segments"] > 0).sum(axis=1)
    assert used.max() - used.min() <= 1 and 0 <= batch["tokens"].shape[1] - used.max() < 8


@pytest.mark.parametrize(("task", "form"), EVERY)
def test_no_target_text_is_visible_in_the_prompt(questions, tokenizer, titles, task, form):
    """What stands before the answer is the same tokens, whatever the target."""
    asked = questions.question(task, form)
    seen = set()
    for title in titles[1:]:
        before, _, batch = questions.lay_out(task, form, [[title]])
        rest = len(asked.ids) - len(before)
        assert batch["labels"][0, 0] == batch["tokens"][0, rest]
        shown = (*before, *batch["tokens"][0, :rest].tolist())
        seen.add((shown, tuple(batch["is_soft"][0, :rest])))
        assert title not in tokenizer.decode(shown)
    assert len(seen) == 1


def test_answers_are_cut_at_the_longest(tokenizer):
    full = make(tokenizer)
    short = make(tokenizer, residual_tokens=5, recovery_tokens=7)
    for task, longest in ((RESIDUAL, 5), (RECOVERY, 7)):
        (whole,), (cut,) = (q.answers(task, 0, [["Paris, Texas"]]) for q in (full, short))
        assert whole[-1] == tokenizer.eos_id and len(whole) > longest
        assert cut == whole[:longest]


def test_a_title_longer_than_an_answer_is_cut(tokenizer):
    """A stated rule: an answer has `residual_tokens` at most."""
    questions = make(tokenizer)
    (ids,) = questions.answers(RESIDUAL, 0, [["Omen " * 500]])
    assert len(ids) == 50 and ids[-1] != tokenizer.eos_id
    assert len(questions.answers(RECOVERY, 0, [["Omen " * 500]])[0]) == 100


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_question_and_answer_must_fit(tokenizer, task):
    titles = [["Dune"], ["Omen " * 9], ["Alien"]]
    (asked, answers) = make(tokenizer).question(task), make(tokenizer).answers(task, 0, titles)
    fits = len(asked.ids) + len(answers[1])
    assert fits > max(len(make(tokenizer).question(task, form).ids) for form in range(3))
    only = {"residual": 0.0, "recovery": 0.0, task.name: 1.0}
    assert make(tokenizer, max_length=fits, **only).answers(task, 0, titles) == answers
    short = make(tokenizer, max_length=fits - 1, **only)
    message = (
        f"prompt 0 of {task} takes {len(asked.ids)} tokens and its answer about 'Omen Omen .*' "
        f"{len(answers[1])}; the language model reads {fits - 1} .config.ask.{task}_tokens cuts"
    )
    for call in (short.answers, short.lay_out):
        with pytest.raises(InputError, match=message):
            call(task, 0, titles)
        call(task, 0, titles[::2])
    # What is cut fits.
    short = make(tokenizer, max_length=fits - 1, **only, **{f"{task}_tokens": len(answers[1]) - 1})
    assert len(short.answers(task, 0, titles)[1]) == len(answers[1]) - 1


def test_words_of_the_domain(tokenizer):
    for domain, word in (("book", "read"), ("game", "played"), ("movie", "watched")):
        ids = np.array(make(tokenizer, domain=domain).question(RESIDUAL).ids)
        assert f"has {word} a series" in tokenizer.decode(ids)
    with pytest.raises(InputError, match="no words for the domain 'bok'; did you mean 'book'"):
        make(tokenizer, domain="bok")


def test_a_file_adds_prompts(tokenizer, tmp_path):
    file = tmp_path / "prompts.json"
    added = {"question": "{soft} and {soft}?", "answer": "{titles}"}
    file.write_text(json.dumps({"residual": [added]}))
    questions = make(tokenizer, prompts=str(file))
    assert (questions.forms(RESIDUAL), questions.forms(RECOVERY)) == (4, 3)
    asked = questions.question(RESIDUAL, 3)
    # The beginning that is shared is the token that begins a text, alone.
    assert asked.before == 1 and sum(asked.is_soft) == 6
    assert tokenizer.decode(questions.answers(RESIDUAL, 3, [["Dune"]])[0]) == " Dune"


def test_a_question_must_leave_room(tokenizer):
    longest = max(len(make(tokenizer).question(*one).ids) for one in EVERY)
    make(tokenizer, max_length=longest + 1)
    with pytest.raises(InputError, match=f"residual takes {longest} tokens.* reads {longest}"):
        make(tokenizer, max_length=longest)
    # Only of tasks that are trained.
    make(tokenizer, max_length=longest, residual=0.0)


def test_tasks_and_lengths():
    assert AskConfig().tasks == (RESIDUAL,)
    assert AskConfig(recovery=0.1).tasks == (RESIDUAL, RECOVERY)
    assert AskConfig(residual=0.0, recovery=2.0).tasks == (RECOVERY,)
    # Section 4.1.2.
    assert [AskConfig().longest(task) for task in (RESIDUAL, RECOVERY)] == [50, 100]
    assert AskConfig().window == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 1}, "window: expected 2 to 1000"),
        ({"residual": 0.0}, "residual: this or recovery: expected more than 0"),
        ({"residual": -1.0, "recovery": 2.0}, "residual: expected at least 0"),
        ({"residual_tokens": 0}, "_tokens: expected 1 to"),
        ({"recovery_tokens": 0}, "_tokens: expected 1 to"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(InputError, match=message):
        AskConfig(**fields)
