"""An interpreter examined: sections and figures of known answers, controls, judge."""

import json

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.frozen import popular
from recjax.interpreter.measure import Recovery, Residual, popularity_recovery
from recjax.interpreter.study import Study, StudyConfig, deranged
from recjax.interpreter.workdirs import open_interpreter
from recjax.report.sections import Bars, Cases, Table, section_from_json
from recjax.report.sections import section_to_json as to_json
from recjax.training.workdir import build_config, start_run

RESIDUAL = " This user read book {} in List2 but not in List1."
RECOVERY = " This user has read {} in the previous."


class Spoken:
    def __init__(self, texts):
        self.texts = texts


class Speaker:
    """Says, row by row, what was added to the test sequences: right, wrong, right, unknown, ..."""

    def __init__(self, run):
        windows = run.windows("test", newest=True)
        # Of the second sequence, but not what was added to it.
        self.wrong = run.names[windows.ids()[1, -2]]
        self.rows = [run.names[item] for item in windows.newest]
        self.rows[1::4] = [self.wrong] * len(self.rows[1::4])
        self.rows[3::4] = ["Casablanca"] * len(self.rows[3::4])
        self.calls = []

    def __call__(self, ids, *, soft, processors, **options):
        vectors = np.asarray(soft[1])
        self.calls.append((vectors, len(processors)))
        said = [self.rows[k % len(self.rows)] for k in range(len(ids))]
        if vectors.shape[1] == 2:  # a soft token for each history
            return Spoken([RESIDUAL.format(one) for one in said])
        return Spoken([RECOVERY.format(f"{one}, {self.wrong}") for one in said])


@pytest.fixture
def run(finished, monkeypatch):
    run = open_interpreter(finished[0])
    monkeypatch.setattr(run.llm, "generate", Speaker(run))
    return run


@pytest.fixture
def study(run):
    """`study(**config) -> (study, sections by title)`"""

    def make(**config):
        made = Study(run, run.restore(4), StudyConfig(**config))
        sections = made.examine()
        for section in sections:
            plain = json.loads(json.dumps(to_json(section), allow_nan=False))
            section_from_json(plain, section.title)
        return made, {section.title: section for section in sections}

    return make


def metrics_of(study, prefix):
    prefix = f"test/{prefix}/"
    return {k.removeprefix(prefix): v for k, v in study.metrics.items() if k.startswith(prefix)}


def test_figures_of_known_answers(run, study):
    made, sections = study(decodings=("constrained",))
    speaker = run.llm.generate
    windows = run.windows("test", newest=True)
    n = len(windows)
    right = [
        name == run.names[item] for name, item in zip(speaker.rows, windows.newest, strict=True)
    ]
    outside = [name == "Casablanca" for name in speaker.rows]
    found = metrics_of(made, "sequences/residual/greedy")
    assert set(found) == {*Residual.names, "accuracy_low", "accuracy_high"}
    assert found["accuracy"] == found["strict"] == np.mean(right) >= 0.5
    assert found["outside"] == np.mean(outside) > 0
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    anywhere = run.sample(run.windows("test", newest=False))
    hits = [a == run.names[b] for a, b in zip(speaker.rows, anywhere.newest, strict=False)]
    assert metrics_of(made, "windows/residual/greedy")["accuracy"] == np.mean(hits)
    table = sections["Residual accuracy (Table 2)"]
    assert isinstance(table, Table)
    assert [row[:3] for row in table.rows] == [
        ["greedy", "sequences", n], ["greedy", "windows", 5],
        ["constrained", "sequences", n], ["constrained", "windows", 5],
        ["(most popular item)", "sequences", n], ["(most popular item)", "windows", 5],
    ]  # fmt: skip
    assert table.rows[0][3] == found["accuracy"] and table.rows[0][7] == found["outside"]
    # Of each decoding; greedily first, two tasks, two parts, one call each.
    assert [constrained for _, constrained in speaker.calls] == [0, 0, 1, 1] * 2


def test_recovery_beside_popularity(run, study):
    made, sections = study()
    windows = run.windows("test", newest=True)
    speaker = run.llm.generate
    counts = [
        sum(run.names[item] in {name, speaker.wrong} for item in set(row[row > 0]))
        for name, row in zip(speaker.rows, windows.ids(), strict=True)
    ]
    found = metrics_of(made, "sequences/recovery/greedy")
    assert tuple(found) == Recovery.names
    assert found["mean"] == np.mean(counts) > 0
    assert found["outside"] == speaker.rows.count("Casablanca") / (2 * len(windows))
    top = popular(run.windows("train", newest=True), run.store.n_items, 5)
    baseline = popularity_recovery(top, windows)
    assert metrics_of(made, "sequences/recovery/popular") == baseline.metrics()
    bars = sections["Recovered items a sequence (Figure 4)"]
    assert isinstance(bars, Bars) and bars.percent
    assert list(bars.labels) == ["0", "1", "2", "3", "4", "5"]
    assert bars.series["popularity"] == baseline.distribution.tolist()
    assert bars.series["greedy"] == (np.bincount(counts, minlength=6) / len(counts)).tolist()
    # The most popular item alone, as a residual answer.
    share = np.mean([run.names[item] == run.names[top[0]] for item in windows.newest])
    assert metrics_of(made, "sequences/residual/popular") == {"accuracy": share}


def test_cases_errors_and_the_filter(run, study):
    _, sections = study()
    speaker, windows = run.llm.generate, run.windows("test", newest=True)
    cases = sections["Cases: residual (Figure 5)"]
    assert isinstance(cases, Cases) and len(cases.cases) == 6
    history = [run.names[item] for item in windows.ids()[0] if item]
    first, other, _, unknown = cases.cases[:4]
    assert [item.text for item in first.history] == history
    assert first.right and first.history[-1].mark == "hit" and first.answer[0].mark == "hit"
    assert all(item.mark == "" for item in first.history[:-1])
    assert not unknown.right and [item.mark for item in unknown.answer] == ["unknown"]
    assert other.answer[0].text == speaker.wrong and other.answer[0].mark == "miss"
    assert not other.right and all(item.mark == "" for item in other.history)
    recovered = sections["Cases: recovery (Figure 5)"].cases[0]
    assert recovered.right is None and recovered.history[-1].mark == "hit"
    errors = sections["Errors"]
    anywhere = run.sample(run.windows("test", newest=False))
    missed = [
        (run.names[item], name)
        for name, item in zip(speaker.rows, anywhere.newest, strict=False)
        if name != run.names[item]
    ]
    assert errors.note == f"{len(missed)} of 5 windows." and len(missed) > 1
    assert {(row[0], row[3]) for row in errors.rows} == set(missed)
    spans = run.recommender.split.train
    trained = [name for a, b in zip(spans.starts, spans.stops, strict=True)
               for name in np.array(run.names)[run.store.items[a:b]]]  # fmt: skip
    assert [row[1] for row in errors.rows] == [trained.count(row[0]) for row in errors.rows]
    weights = sections["The adapter's filter"]
    assert list(weights.labels) == ["-4", "-3", "-2", "-1", "0"]
    np.testing.assert_allclose(weights.series["weight"], run.restore(4)["body/filter"])


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_nothing_keeps_its_place(count):
    drawn = [deranged(count, np.random.default_rng(seed)) for seed in range(50)]
    for order in drawn:
        assert sorted(order.tolist()) == list(range(count))
        assert (order != np.arange(count)).all()
    assert len({tuple(order) for order in drawn}) > 1 or count == 2


def test_one_window_has_no_other_to_change_places_with():
    with pytest.raises(InputError, match="controls: 1 window to shuffle; expected at least 2"):
        deranged(1, np.random.default_rng(0))


def test_controls_show_states_that_say_nothing(run, study):
    # By chance, one of five would keep its place in each task.
    seed = 3
    rng = np.random.default_rng(seed)
    assert all((rng.permutation(5) == np.arange(5)).any() for _ in range(2))
    made, sections = study(controls=True, seed=seed)
    names = ("shuffled_states", "untrained_recommender", "untrained_adapter")
    for task, figure in (("residual", "accuracy"), ("recovery", "mean")):
        expected = {f"{name}/{figure}" for name in names}
        assert set(metrics_of(made, f"windows/{task}/control")) == expected
    assert [row[:3] for row in sections["Controls"].rows[:3]] == [
        ["residual", name.replace("_", " "), 5] for name in names
    ]
    calls = [soft[:5].reshape(5, -1) for soft, _ in run.llm.generate.calls]
    for windows, (shuffled, recommender, adapter) in (
        (calls[1], calls[4:7]),
        (calls[3], calls[7:]),
    ):
        order = [np.abs(windows - row).max(axis=1).argmin() for row in shuffled]
        np.testing.assert_allclose(windows[order], shuffled, atol=1e-4)
        assert sorted(order) == list(range(5)) and (np.array(order) != np.arange(5)).all()
        for other in (recommender, adapter):
            # By much: they do not start from what was trained.
            assert (np.abs(windows - other).max(axis=1) > 0.1).all()
    fresh = run.histories(run.sample(run.windows("test", newest=False)), untrained=seed + 1)
    soft = run.bridge.soft(run.restore(4), fresh.states(np.arange(5), (1, 0)))
    np.testing.assert_allclose(np.asarray(soft).reshape(5, -1), calls[5], atol=1e-4)


def test_where_targets_alone_are_held_out_nothing_is_asked_twice(run, study, monkeypatch):
    monkeypatch.setattr("recjax.interpreter.study.holds_sequences", lambda run: False)
    made, sections = study(controls=True)
    n = len(run.windows("test", newest=True))
    assert [len(soft) for soft, _ in run.llm.generate.calls] == [64] * 2 + [8] * 6 and 8 < n <= 64
    assert not any("windows" in name for name in made.metrics)
    assert len(metrics_of(made, "sequences/residual/control")) == 3
    assert [row[:3] for row in sections["Residual accuracy (Table 2)"].rows] == [
        ["greedy", "sequences", n], ["(most popular item)", "sequences", n],
    ]  # fmt: skip
    assert sections["Errors"].note.endswith(f" of {n} windows.")
    assert {row[2] for row in sections["Controls"].rows} == {5}


def test_oracle_items_and_a_judge(run, study):
    asked = []

    def judge(questions):
        asked.extend(questions)
        return ["refusal", *[q.options.index("Casablanca") if "Casablanca" in q.options else 0
                             for q in questions[1:]]]  # fmt: skip

    made, sections = study(
        oracle=True, judge=judge, versus=("other", lambda ids: np.full(len(ids), 2))
    )
    speaker, windows = run.llm.generate, run.windows("test", newest=True)
    n = len(windows)
    found = metrics_of(made, "sequences/oracle")
    assert found["in_catalogue"] == 1 - speaker.rows.count("Casablanca") / n
    assert found["hit"] == metrics_of(made, "sequences/residual/greedy")["accuracy"]
    assert {"agrees_with_nearest", "nearest_hit", "hit_low"} < set(found)
    assert sections["Oracle items (section 4.4)"].rows[0] == [
        "oracle/in_catalogue", found["in_catalogue"]
    ]  # fmt: skip
    beyond = sections["Beyond the catalogue"]
    assert {row[0] for row in beyond.rows} == {"Casablanca"}
    assert f"{speaker.rows.count('Casablanca')} of {n}" in beyond.note
    verdict = metrics_of(made, "sequences/judge")
    assert verdict["ballots"] == n and verdict["refusals"] == 1
    assert verdict["dreamrec/share"] >= speaker.rows.count("Casablanca") / n
    table = sections["The judge's choice (Table 3)"]
    assert [row[0] for row in table.rows] == ["random", "other", "dreamrec"]
    # A ballot shows the history without its newest item, in the words of the domain.
    by_number = {question.number: question for question in asked}
    first = by_number[0]
    shown = ", ".join(run.names[item] for item in windows.ids(back=1)[0] if item)
    assert first.prompt.startswith(f"A person has read a series of books: {shown}. Which")
    assert run.names[2] in first.options or run.names[2] == speaker.rows[0]


def test_a_judge_with_nothing_to_choose_from(run, study):
    speaker = run.llm.generate
    speaker.rows = [""] * len(speaker.rows)
    made, sections = study(
        oracle=True, judge=lambda questions: 1 / 0, versus=("other", lambda ids: ids[:, -1])
    )
    assert "nothing to choose from" in sections["The judge's choice (Table 3)"].text
    assert metrics_of(made, "sequences/oracle")["in_catalogue"] == 0.0


def test_settings_that_do_not_fit(run, interpreter_section, trained, tmp_path):
    with pytest.raises(InputError, match="--decoding: no 'greed'; expected some of greedy, beam"):
        StudyConfig(decodings=("greed",))
    with pytest.raises(InputError, match="a judge compares oracle items with another recommender"):
        StudyConfig(oracle=True, judge=lambda questions: [])
    given = interpreter_section(recommender=str(trained("sasrec", seed=1)))
    other = start_run(build_config(given), tmp_path / "sasrec")
    with pytest.raises(InputError, match="--judge. need a generative recommender"):
        Study(other, {}, StudyConfig(oracle=True))
    given = interpreter_section(
        ask={"residual": 0.0, "recovery": 1.0, "window": 5},
        train={"metric": "validation/recovery/mean"},
    )
    other = start_run(build_config(given), tmp_path / "recovery")
    with pytest.raises(InputError, match="oracle items need config.ask.residual"):
        Study(other, {}, StudyConfig(oracle=True))
