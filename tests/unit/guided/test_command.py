"""`recjax score`: whole files, interrupted ones, and what is refused."""

import json
import time

import numpy as np
import pytest

from recjax.guided.prompts import answer_form, parse
from recjax.guided.score_files import read_item_scores, read_user_scores, write_scores
from recjax.guided.scoring import Rater
from recjax.guided.tables import item_subjects, user_subjects

FULL = "tension: 5\npace: 6\nlength: 7"


@pytest.fixture
def run(recjax, sample_store, own_file, scorer_folder, tmp_path):
    """`run("items", "--flag=...")`, with the store, the aspects and a file."""

    def call(kind, *flags, llm=scorer_folder, out=tmp_path / "s.tsv"):
        own = [f"--data={sample_store.path}", f"--aspects={own_file}", f"--out={out}"]
        own += [] if llm is None else [f"--llm={llm}"]
        return recjax("score", kind, *own, "--json", *flags)

    return call


@pytest.fixture
def few(tmp_path, sample_store):
    """A file with six items."""
    path = tmp_path / "few.txt"
    path.write_text("".join(f"{r['key']}\n" for r in sample_store.catalog[1:7]))
    return path


def test_all_items_into_a_file(run, tmp_path, sample_store, scorer, own):
    status, result, err = run("items", "--batch-size=64")
    count = sample_store.n_items - 1
    assert status == 0, err
    assert (result["finished"], result["scored"], result["total"]) == (True, count, count)
    assert not (tmp_path / "s.tsv.parts").exists() and f"{count} of {count} items scored" in err
    found = read_item_scores(tmp_path / "s.tsv", sample_store.catalog)
    assert found.aspects == own and found.missing == 0
    subjects = item_subjects(sample_store)
    expected = Rater(scorer, own, "item")([subjects.text(p) for p in (0, 5)])
    assert found.values[[1, 6]].tolist() == [list(one.scores) for one in expected]
    status, _, err = run("items")
    assert status == 2 and "exists already; --overwrite replaces it" in err


@pytest.mark.devices
@pytest.mark.parametrize("mesh", [(), ("--mesh=2,1,4",)], ids=["rows", "parameters"])
def test_several_devices(run, few, tmp_path, sample_store, scorer, own, mesh):
    status, _, err = run("items", f"--among={few}", *mesh)
    assert status == 0, err
    found = read_item_scores(tmp_path / "s.tsv", sample_store.catalog)
    subjects = item_subjects(sample_store)
    expected = Rater(scorer, own, "item")([subjects.text(p) for p in range(6)])
    assert found.values[1:7].tolist() == [list(one.scores) for one in expected]


def test_users_by_what_they_chose_before_the_test(run, tmp_path, sample_store, recjax):
    users = tmp_path / "users.txt"
    users.write_text("".join(f"{key}\n" for key in sample_store.user_keys[:4]))
    flags = (f"--among={users}", "--history=3", "--leave-out=2", "--value=expected")
    status, result, err = run("users", *flags, out=tmp_path / "u.parquet")
    assert status == 0 and result["scored"] == 4, err
    numbers = {key: n for n, key in enumerate(sample_store.user_keys)}
    found = read_user_scores(tmp_path / "u.parquet", numbers)
    assert found.missing == sample_store.n_users - 4 and (found.values % 1).any()
    text = user_subjects(sample_store, ("title",), history=3, leave_out=2).text(0)
    last = int(sample_store.offsets[1]) - 2
    shown = [sample_store.titles[i] for i in sample_store.items[last - 3 : last]]
    told = [line.split("title: ")[1] for line in text.split("\n")]
    assert told == shown
    assert user_subjects(sample_store, leave_out=10**6).text(0) == ""
    status, result, err = run("users", f"--among={users}", "--leave-out=100000")
    assert result["without_text"] == 4 and "4 users have no history" in err


def test_an_interrupted_command_goes_on(run, endpoint, few, tmp_path):
    """The endpoint ends after three items; what they got is kept, and nobody is asked twice."""
    endpoint.reply = staticmethod(lambda asked, n: (200, FULL) if n <= 3 else (400, "no"))
    flags = (f"--among={few}", "--llm-model=m", "--concurrency=1", "--shard=2")
    status, _, err = run("items", *flags, llm=endpoint.url)
    assert status == 2 and "status 400" in err and "3 of 6 are kept in" in err
    assert len(err.strip().split("\n")) == 1 and not (tmp_path / "s.tsv").exists()
    status, _, err = run("items", *flags[:3], "--shard=3", llm=endpoint.url)
    assert status == 2 and "begun with another 'shard' (2, now 3)" in err
    endpoint.reply = staticmethod(lambda asked, n: (200, FULL))
    status, result, _ = run("items", *flags, llm=endpoint.url)
    assert (status, result["scored"], result["before"]) == (0, 3, 3)
    asked = [messages[-1]["content"] for messages in endpoint.requests]
    assert len(set(asked)) == 6 and len(asked) == 7  # one of them twice: what failed
    lines = (tmp_path / "s.tsv").read_text().splitlines()
    assert lines[0] == "item_id\ttension\tpace\tlength" and len(lines) == 7
    assert all(line.endswith("\t5\t6\t7") for line in lines[1:])


@pytest.mark.parametrize(
    ("reply", "timeout", "message"),
    [
        (lambda asked, n: (503, "busy"), 30, "status 503, after 2 attempts"),
        (lambda asked, n: (401, "who?"), 30, "status 401 (is the key right?)"),
        (lambda asked, n: (200, ["a list"]), 30, "an answer of another form"),
        (lambda asked, n: time.sleep(0.5) or (200, FULL), 0.2, "timed out, after "),
    ],
    ids=["down", "denied", "wrong", "slow"],
)
def test_endpoints_that_fail(run, endpoint, few, reply, timeout, message):
    endpoint.reply = staticmethod(reply)
    flags = (f"--among={few}", "--llm-model=m", "--retries=1", f"--timeout={timeout}")
    status, _, err = run("items", *flags, llm=endpoint.url)
    assert status == 2 and message in err and len(err.strip().split("\n")) == 1
    endpoint.reply = staticmethod(lambda asked, n: (200, FULL))
    status, result, _ = run("items", *flags[:-1], llm=endpoint.url)
    assert status == 0 and result["scored"] + result["before"] == 6


def test_answers_of_another_form_and_a_budget(run, endpoint, few, tmp_path, sample_store):
    endpoint.reply = staticmethod(
        lambda asked, n: (200, FULL if n % 2 else "tension: 11\npace: 3\npaces: 1")
    )
    flags = (f"--among={few}", "--llm-model=m", "--concurrency=1", "--budget=4")
    status, result, err = run("items", *flags, llm=endpoint.url)
    assert (status, result["finished"], result["left"]) == (0, False, 2)
    assert "the budget has ended; 2 are left" in err and not (tmp_path / "s.tsv").exists()
    _, result, err = run("items", *flags, llm=endpoint.url)
    wrong = {name: result[name] for name in ("malformed", "missing", "out_of_range", "extra")}
    assert wrong == {"malformed": 3, "missing": 3, "out_of_range": 3, "extra": 3}
    assert "3 answers of another form: 3 scores missing, 3 out of range, 3 extra" in err
    found = read_item_scores(tmp_path / "s.tsv", sample_store.catalog)
    assert found.gaps == 6 and sorted(found.values[1:7, 1]) == [3, 3, 3, 6, 6, 6]
    assert (found.values[1:7, 0] == 5).all()  # the mean stands in


def test_overwriting_with_a_budget_comes_to_its_end(run, endpoint, few, tmp_path, own):
    write_scores(tmp_path / "s.tsv", ["old"], [[9, 8, 7]], own)
    endpoint.reply = staticmethod(lambda asked, n: (200, FULL))
    flags = (f"--among={few}", "--llm-model=m", "--budget=4", "--overwrite")
    _, result, _ = run("items", *flags, llm=endpoint.url)
    assert result["left"] == 2 and "old" in (tmp_path / "s.tsv").read_text()
    _, result, _ = run("items", *flags, llm=endpoint.url)
    assert (result["finished"], result["before"], result["scored"]) == (True, 4, 2)
    assert "old" not in (tmp_path / "s.tsv").read_text() and len(endpoint.requests) == 6


def test_answers_without_any_score_are_an_error(run, endpoint, few, tmp_path):
    endpoint.reply = staticmethod(lambda asked, n: (200, "I cannot do that."))
    for flags in ((f"--among={few}",), (), ("--budget=3",)):
        status, _, err = run("items", *flags, "--llm-model=m", llm=endpoint.url)
        assert status == 2 and "answers has a score" in err and "'I cannot do that.'" in err
        assert [path.name for path in tmp_path.glob("s.tsv*")] == []
    assert len(endpoint.requests) < 6 + 20 + 8 + 3  # the second run has ended after 20


def test_a_question_that_a_filter_refuses_is_declined(run, endpoint, few, tmp_path):
    filtered = {"error": {"code": "content_filter", "message": "no"}}
    endpoint.reply = staticmethod(lambda asked, n: (400, filtered) if n == 2 else (200, FULL))
    flags = (f"--among={few}", "--llm-model=m", "--concurrency=1")
    status, result, err = run("items", *flags, llm=endpoint.url)
    assert (status, result["scored"], result["malformed"], result["missing"]) == (0, 6, 1, 3), err
    endpoint.reply = staticmethod(lambda asked, n: (400, "too long") if n == 8 else (200, FULL))
    status, _, err = run("items", *flags, "--overwrite", llm=endpoint.url)
    assert status == 2 and ": item " in err and "status 400" in err


def test_known_scores_are_taken_over(run, endpoint, few, tmp_path, sample_store, own):
    keys = [record["key"] for record in sample_store.catalog[1:4]]
    write_scores(tmp_path / "known.csv", ["elsewhere", *keys], [[9, 8, 7]] * 4, own)
    flags = (f"--among={few}", "--llm-model=m", f"--known={tmp_path / 'known.csv'}")
    _, result, err = run("items", *flags, llm=endpoint.url)
    assert (result["known"], result["scored"], len(endpoint.requests)) == (3, 3, 3), err
    lines = (tmp_path / "s.tsv").read_text().splitlines()
    assert [line[-5:] for line in lines[1:]] == ["9\t8\t7"] * 3 + ["5\t6\t7"] * 3


def test_pairs_of_a_teacher(run, tmp_path, sample_store, own):
    keys = [record["key"] for record in sample_store.catalog[1:4]]
    teacher = tmp_path / "t.tsv"
    write_scores(teacher, keys, [[9, 8, 10], [1, 2.4, 3], [1, np.nan, 3]], own)
    out = tmp_path / "pairs.jsonl"
    status, result, _ = run("items", f"--teacher={teacher}", llm=None, out=out)
    assert status == 0 and result == {
        "out": str(out), "pairs": 2, "left_out": sample_store.n_items - 3,
    }  # fmt: skip
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    assert [pair["answer"] for pair in pairs] == [
        answer_form(own).text([8, 7, 9]), answer_form(own).text([0, 1, 2]),
    ]  # fmt: skip
    assert parse(pairs[0]["answer"], own).scores == (9, 8, 10)
    assert pairs[0]["prompt"].endswith("\n\n") and "title: " in pairs[0]["prompt"]
    flags = (f"--teacher={teacher}", "--form=chat", "--overwrite")
    run("items", *flags, llm=None, out=out)
    assert set(json.loads(out.read_text().splitlines()[0])) == {"system", "prompt", "answer"}
    run("items", *flags, "--brief", llm=None, out=out)
    brief = json.loads(out.read_text().splitlines()[0])
    assert set(brief) == {"prompt", "answer"} and brief["prompt"].startswith("title: ")


@pytest.mark.parametrize(
    ("kind", "flags", "options", "message"),
    [
        ("items", (), {"llm": None}, "score needs one of --llm DIR_OR_URL and --teacher FILE"),
        ("items", ("--teacher=x",), {}, "score needs one of --llm DIR_OR_URL and --teacher FILE"),
        ("items", ("--history=3",), {}, "--history: for users"),
        ("items", ("--budget=3",), {}, "--budget: with an endpoint's URL as --llm"),
        ("items", ("--teacher=x", "--how=free"), {"llm": None}, "--how: not with --teacher"),
        ("items", (), {"llm": "http://h/v1"}, "--llm URL needs --llm-model NAME"),
        ("items", ("--calibrate",), {"llm": "http://h/v1"}, "--calibrate: not with an endpoint"),
        ("items", ("--batch-size=0",), {}, "--batch-size 0: expected 1 to 65536"),
        ("users", ("--leave-out=-1",), {}, "--leave-out -1: expected 0 to"),
        ("items", ("--fields=titel",), {}, "--fields: no item has 'titel'; did you mean 'title'"),
        ("items", ("--how=free", "--calibrate"), {}, "free answers have no probabilities"),
        ("items", ("--config.x=1",), {}, "score takes no --config.KEY; see `recjax score --help`"),
    ],
)
def test_what_is_refused(run, kind, flags, options, message, tmp_path):
    status, _, err = run(kind, *flags, **options)
    assert status == 2 and message in err and len(err.strip().split("\n")) == 1
    assert not list(tmp_path.glob("s.tsv*"))


def test_files_that_are_refused(run, tmp_path, few):
    other = tmp_path / "log.csv"
    other.write_text("user_id_of_mine,item_id\nann,tea\n")
    for out, message in (
        (tmp_path / "s.txt", "expected a name that ends in .tsv, .csv, .parquet"),
        (tmp_path, "expected a name that ends"),
        (tmp_path / "no" / "s.tsv", "there is no folder"),
        (other, "another file is there, and recjax never replaces it"),
    ):
        status, _, err = run("items", "--overwrite", out=out)
        assert status == 2 and message in err
    few.write_text(few.read_text() + "nobody\n")
    status, _, err = run("items", f"--among={few}")
    assert status == 2 and "few.txt: no item 'nobody'" in err
    first = few.read_text().split("\n")[0]
    few.write_text(f"{first}\n{first}\n")
    status, _, err = run("items", f"--among={few}")
    assert status == 2 and "a second time" in err
