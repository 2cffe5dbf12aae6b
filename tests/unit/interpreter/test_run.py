"""An interpreter's run: its config, what it reads, resuming, checkpoints of other models."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from recjax.config import build
from recjax.errors import InputError
from recjax.interpreter.run import InterpreterRun, InterpreterRunConfig
from recjax.models.definition import fingerprint
from recjax.text.tasks import RESIDUAL
from recjax.training.workdir import build_config, open_run, start_run
from recjax.training.workdir import complete as complete_any


@pytest.fixture
def make(interpreter_section, tmp_path):
    """`make(**section) -> InterpreterRun` in a new folder, or one that is named."""

    def start(workdir=tmp_path / "run", **changes):
        return start_run(build_config(interpreter_section(**changes)), workdir)

    return start


@pytest.fixture(scope="module")
def run(finished):
    return open_run(finished[0])


# The config.


def test_defaults_are_the_papers():
    config = build(InterpreterRunConfig, {"recommender": "r", "llm": "l"}, "config")
    assert config.ask.window == 10 and config.adapter.name == "linear" and config.adapter.soft == 1
    assert (config.ask.residual_tokens, config.ask.recovery_tokens) == (50, 100)
    assert config.train.epochs == 20.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"asks": {}}, "unknown config key 'config.asks'; did you mean 'ask'"),
        ({"ask": {"widow": 3}}, "unknown config key 'config.ask.widow'; did you mean 'window'"),
        ({"adapter": {"name": "lora"}}, "config.adapter.name"),
        ({"adapter": {"soft": 0}}, "config.adapter.soft: expected 1 to"),
        ({"ask": {"window": 1}}, "config.ask.window: expected 2 to 1000"),
        ({"train": {"steps_per_call": 2}}, "config.train.steps_per_call: expected 1"),
        ({"train": {"drawn": 1.5}}, "config.train.drawn: expected 0 to 1"),
        ({"evaluation": {"max_examples": -1}}, "max_examples: expected at least 0"),
        ({"llm": 3}, "config.llm"),
    ],
)
def test_bad_configs(changes, message):
    given = {"system": "interpreter", "recommender": "r", "llm": "l"} | changes
    with pytest.raises(InputError, match=message):
        complete_any(given)


def test_a_section_without_a_recommender():
    with pytest.raises(InputError, match="recommender"):
        build_config({"system": "interpreter", "llm": "l"})


# What it reads.


def test_a_recommender_that_is_none(make, finished, sample_store, tmp_path):
    with pytest.raises(InputError, match="nowhere/config.json: missing"):
        make(recommender=str(tmp_path / "nowhere"))
    for key in ("recommender", "llm"):
        with pytest.raises(InputError, match=f"config.{key}: is empty; expected"):
            make(**{key: ""})
    texts = tmp_path / "texts"
    start_run(build_config({
        "system": "language_model",
        "data": {"source": "simulated", "store": str(sample_store.path),
                 "options": {"users": 120, "mean_length": 10.0, "max_length": 30}},
        "model": {"name": "llama", "dim": 16, "layers": 1},
        "text": {"domain": "book"},
    }), texts)  # fmt: skip
    for other in (texts, finished[0]):
        with pytest.raises(InputError, match=f"{other}: a run of another kind; expected a recom"):
            make(recommender=str(other))


def test_a_recommender_with_a_shorter_window(make):
    with pytest.raises(InputError, match="dreamrec reads 6 items, config.ask.window is 7"):
        make(ask={"domain": "book", "window": 7})


def test_a_language_model_without_a_tokenizer(make, llm_folder, tmp_path):
    mute = tmp_path / "mute"
    shutil.copytree(llm_folder, mute, ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(InputError, match=f"{mute}: no tokenizer"):
        make(llm=str(mute)).train()
    with pytest.raises(InputError, match="no such folder"):
        make(tmp_path / "other", llm=str(tmp_path / "gone")).train()


def test_training_reads_windows_of_training_sequences_alone(run):
    windows = run.learner.examples.windows
    split, store = run.recommender.split, run.store
    assert len(windows) == (split.train.stops - split.train.starts - 1).sum()
    held = np.zeros(len(store.items), bool)
    for part in (split.validation, split.test):
        for start, stop in zip(part.starts, part.stops, strict=True):
            held[start : stop + 1] = True
    seen = np.zeros(len(store.items), bool)
    for start, stop in zip(windows.starts, windows.stops, strict=True):
        seen[start:stop] = True
    assert seen.any() and not (seen & held).any()


def test_training_may_have_drawn_items_and_measuring_has_none(make, run):
    more = make(train={"drawn": 0.5})
    own = len(run.learner.examples)
    windows = more.learner.examples.windows
    assert len(windows) == own + round(0.5 * own)
    assert (windows.drawn > 0).sum() == len(windows) - own
    for name in ("validation", "test"):
        assert more.windows(name, newest=False).drawn is None


def test_what_is_measured_ends_with_the_targets(run):
    for name in ("validation", "test"):
        spans = getattr(run.recommender.split, name)
        newest = run.windows(name, newest=True)
        np.testing.assert_array_equal(newest.newest, run.store.items[spans.stops])
        anywhere = run.windows(name, newest=False)
        assert len(anywhere) == (spans.stops - spans.starts).sum() > len(newest)


@pytest.mark.parametrize("split", ["leave_one_out", "chronological_time"])
def test_where_targets_alone_are_held_out_they_alone_are_measured(
    interpreter_section, recommender_config, sample_store, tmp_path, split
):
    """Older windows of such a sequence are trained on."""
    start_run(recommender_config("sasrec", split=split), tmp_path / "sasrec")
    given = interpreter_section(recommender=str(tmp_path / "sasrec"))
    run = InterpreterRun(build_config(given), sample_store)
    trained_on = set(run.windows("train", newest=False).stops.tolist())
    for name in ("validation", "test"):
        windows = run.windows(name, newest=False)
        np.testing.assert_array_equal(windows.stops, getattr(run.recommender.split, name).stops + 1)
        assert not trained_on & set(windows.stops.tolist())
    assert all("test/windows" not in name for name in run.evaluator("test").metric_names)


def test_the_sample_is_drawn_once(make):
    run = make()
    windows = run.windows("test", newest=False)
    some, again = run.sample(windows), run.sample(windows)
    assert len(some) == 5 and some.stops.tolist() == again.stops.tolist()
    assert set(some.stops.tolist()) < set(windows.stops.tolist())
    config = dataclasses.replace(run.config, evaluation=dataclasses.replace(
        run.config.evaluation, max_examples=0))  # fmt: skip
    assert len(type(run)(config, run.store).sample(windows)) == len(windows)


# Training.


def test_the_adapters_size_is_reported(run):
    trained = 5 + 8 * 64 + 64
    llm = sum(a.size for a in run.llm.params.values())
    text = run.describe()
    assert f"the adapter has {trained:,} ({trained / llm:.2%})" in text
    assert "dreamrec's states [5 8] to 1 soft token(s)" in text and f"of {llm:,} parameters" in text


def test_the_final_line_has_both_kinds_of_windows(run, finished):
    final = finished[1]
    names = {
        "residual": ("accuracy", "strict", "outside"),
        "recovery": ("mean", "strict", "none", "more_than_3", "more_than_5", "outside"),
    }
    expected = {
        f"{part}/{task}/{name}"
        for part in ("test", "test/windows") for task in names for name in names[task]
    }  # fmt: skip
    assert {key for key in final if "/" in key} == expected and final["finished"]
    lines = [json.loads(x) for x in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/recovery/mean" in line for line in lines)
    assert all("test/windows" not in name for name in run.evaluator("validation").metric_names)
    # Both tasks are asked of all newest windows, and of a sample of the others.
    sequences = len(run.windows("test", newest=True))
    assert sequences > 5 and run.evaluator("test").count == 2 * (sequences + 5)
    assert run.evaluator("validation").count == 2 * 3 * 5  # in every prompt


def test_validation_asks_every_prompt(run, finished):
    lines = [json.loads(x) for x in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "final" not in line):
        for task, main in (("residual", "accuracy"), ("recovery", "mean")):
            asked = [line[f"validation/{task}/prompt{form}/{main}"] for form in range(3)]
            assert line[f"validation/{task}/worst/{main}"] == min(asked)
            assert line[f"validation/{task}/{main}"] == asked[0]
    assert {key for line in lines for key in line if key.startswith("loss/")} <= {
        f"loss/{task}/prompt{form}" for task in ("residual", "recovery") for form in range(3)
    }


def test_frozen_means_frozen(run, llm):
    assert fingerprint(run.llm.params) == fingerprint(llm.params)
    other = open_run(run.config.recommender)
    assert fingerprint(run.recommender_params) == fingerprint(other.restore(other.best_step()))
    restored = run.restore(run.latest_step())
    assert set(restored) == set(run.bridge.adapter.shapes)


def test_resumed_is_uninterrupted(make, run, finished, tmp_path):
    expected = finished[1]
    work = tmp_path / "resumed"
    half = make(work, train={"batch_size": 64, "epochs": 0.17, "evaluate_every": 0.17})
    half.train()
    assert half.latest_step() == 2 and run.latest_step() == 4
    again = make(work)
    assert again.train() == expected
    got, wanted = again.restore(again.latest_step()), run.restore(run.latest_step())
    for path, value in wanted.items():
        np.testing.assert_array_equal(got[path], value, err_msg=path)


def test_checkpoints_of_other_models_are_refused(make, run, trained, other_llm_folder, tmp_path):
    """Naming which: the recommender, the language model, or the adapter."""
    for changes, which in (
        ({"llm": str(other_llm_folder)}, "llm"),
        ({"recommender": str(trained("sasrec", seed=1))}, "recommender"),
        ({"adapter": {"soft": 2}}, "adapter"),
    ):  # fmt: skip
        work = tmp_path / which
        other = make(work, **changes)
        shutil.copytree(run.workdir / "checkpoints", work / "checkpoints")
        with pytest.raises(InputError, match=f"a checkpoint of another {which} "):
            other.restore(other.latest_step())
        with pytest.raises(InputError, match=f"a checkpoint of another {which} "):
            other.train()


PROMPT = {"question": "{soft} and {soft}?", "answer": "{titles}"}


def test_the_file_of_prompts_is_found_from_anywhere_and_may_move(make, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    file = tmp_path / "here" / "prompts.json"
    file.write_text(json.dumps({"residual": [PROMPT]}))
    ask = {"domain": "book", "window": 5}
    monkeypatch.chdir(file.parent)
    work = make(ask=ask | {"prompts": "prompts.json"}).workdir
    config = json.loads((work / "config.json").read_text())["config"]
    assert config["ask"]["prompts"] == str(file)
    monkeypatch.chdir(tmp_path / "there")
    assert open_run(work).bridge.questions.forms(RESIDUAL) == 4
    moved = file.rename(tmp_path / "there" / "moved.json")
    with pytest.raises(InputError, match=f"{file}: no such file"):
        open_run(work).describe()
    make(ask=ask | {"prompts": "moved.json"})
    config = json.loads((work / "config.json").read_text())["config"]
    assert config["ask"]["prompts"] == str(moved)


def test_a_checkpoint_belongs_to_what_a_file_asks(make, run, tmp_path):
    file, found = tmp_path / "prompts.json", []
    for content in ({"residual": [PROMPT]}, {"residual": [PROMPT, PROMPT]}, {}):
        file.write_text(json.dumps(content))
        ask = {"domain": "book", "window": 5, "prompts": str(file)}
        other = make(tmp_path / str(len(found)), ask=ask)
        found.append(other.identity["prompt table"])
    assert len(set(found)) == 3 and run.identity["prompt table"] is None
    shutil.copytree(run.workdir / "checkpoints", other.workdir / "checkpoints")
    with pytest.raises(InputError, match="a checkpoint of another prompt table .None, expected"):
        other.restore(other.latest_step())


def test_paths_are_kept_absolute_and_may_move(make, run, finished, tmp_path, monkeypatch):
    moved = {name: tmp_path / name for name in ("recommender", "llm", "run")}
    for name, source in (
        ("recommender", run.config.recommender), ("llm", run.config.llm), ("run", run.workdir),
    ):  # fmt: skip
        shutil.copytree(source, moved[name])
    monkeypatch.chdir(tmp_path)
    assert make(moved["run"], recommender="recommender", llm="llm").train() == finished[1]
    config = json.loads((moved["run"] / "config.json").read_text())["config"]
    for name in ("recommender", "llm"):
        assert config[name] == str(moved[name])
    with pytest.raises(InputError, match="another config .seed differ"):
        make(moved["run"], recommender="recommender", llm="llm", seed=1)


# What does not fit is told before anything is written.


@pytest.mark.devices
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"batch_size": 12}}, "config.train.batch_size: 12 is no multiple of the 8 part"),
        (
            {"train": {"batch_size": 32, "accumulate": 3}},
            "32 is no multiple of the 8 parts .*, times config.train.accumulate=3",
        ),
        ({"train": {"metric": "validation/residual/exact"}}, "config.train.metric: no metric 'val"),
        ({"start": {"examples": 5}}, "item_vectors.safetensors: missing; .*config.start.examples"),
    ],
)
def test_settings_that_do_not_fit(make, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.devices
def test_parts_rules_and_types_of_training(make, tmp_path):
    """`train.accumulate`, `train.rules` (of both models) and `train.dtype` hold here, too."""

    def first(**train):
        run = make(workdir=tmp_path / "-".join(train) / "run", train={"batch_size": 64, **train})
        _, metrics = run.make_steps()(run.init_state(), run.place(0, 1))
        return run, float(metrics["loss"][0]), float(metrics["grad_norm"][0])

    _, loss, norm = first(mesh=(2, 4, 1))
    rules = {"embed": (), "vocab": ("tensor",)}
    other, *got = first(mesh=(2, 4, 1), accumulate=4, rules=rules)
    assert got == pytest.approx([loss, norm], rel=1e-4)
    assert all(a.sharding.is_fully_replicated for a in other.llm.params.values())
    _, low, _ = first(mesh=(2, 4, 1), dtype="bfloat16")
    assert low != loss and low == pytest.approx(loss, rel=0.03)


def test_a_language_model_in_8_bits(make, tmp_path):
    """The adapter is trained before narrow kernels nearly as before wide ones."""
    losses = []
    for quant in ("", "int8"):
        run = make(quant=quant, workdir=tmp_path / f"run{quant}")
        _, metrics = run.make_steps()(run.init_state(), run.place(0, 1))
        losses.append(float(metrics["loss"][0]))
    assert run.llm.params["layers/gate/kernel"].dtype == np.int8
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_split_without_a_test(make):
    run = make()
    nothing = dataclasses.replace(run.recommender.split.test, **{
        name: getattr(run.recommender.split.test, name)[:0] for name in ("users", "starts", "stops")
    })  # fmt: skip
    run.recommender.split = dataclasses.replace(run.recommender.split, test=nothing)
    with pytest.raises(InputError, match="the test split has no history of two items to ask about"):
        run.check()


def test_plain_python_opens_any_run(finished, interpreter_section):
    """In a fresh process, where nothing of the interpreter was imported before."""
    code = f"""
import recjax, sys
assert "recjax.interpreter.run" not in sys.modules
print(type(recjax.open_run({str(finished[0])!r})).__name__)
print(type(recjax.open_run({interpreter_section()["recommender"]!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["InterpreterRun", "RecommenderRun"], done.stderr


def test_an_interpreter_recommends_nothing(finished, recjax):
    status, _, err = recjax("recommend", f"--workdir={finished[0]}")
    assert status == 2 and "a run of another kind; expected a recommender's" in err
