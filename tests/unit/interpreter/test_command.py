"""`recjax interpret`: exit status, one line on errors, JSON on stdout."""

import subprocess
import sys

import numpy as np
import pytest

from recjax.errors import printable
from recjax.report.sections import read_results

H = np.random.default_rng(0).normal(size=(3, 5, 8))


def one_line(err):
    lines = [line for line in err.splitlines() if line.startswith("recjax: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    return lines[0]


def test_a_study(recjax, finished):
    work, final = finished
    status, out, err = recjax("interpret", f"--workdir={work}", "--decoding=greedy", "--json")
    assert status == 0 and "results.json: `recjax report` shows it" in err
    for task, name in (("residual", "accuracy"), ("recovery", "mean"), ("recovery", "outside")):
        for part, key in (("sequences", "test"), ("windows", "test/windows")):
            value = out[f"test/{part}/{task}/greedy/{name}"]
            assert value == pytest.approx(final[f"{key}/{task}/{name}"]), (part, task)
    assert {name.split("/")[3] for name in out} == {"greedy", "popular"}
    assert read_results(work / "results.json")[0].title == "In short"
    assert recjax("report", f"--workdir={work}")[0] == 0
    assert "Residual accuracy (Table 2)" in (work / "report.html").read_text()


def test_a_judge_asks_for_oracle_items(recjax, finished, trained, llm_folder):
    """A random model names no title: that is said, and is no failure."""
    versus = f"--versus={trained('sasrec', seed=1)}"
    status, out, _ = recjax(
        "interpret", f"--workdir={finished[0]}", f"--judge={llm_folder}", versus, "--json"
    )
    assert status == 0 and out["test/sequences/oracle/in_catalogue"] == 0.0
    titles = [section.title for section in read_results(finished[0] / "results.json")]
    assert titles[-2:] == ["Oracle items (section 4.4)", "The judge's choice (Table 3)"]


def test_states_in_a_file(recjax, finished, tmp_path):
    np.savez(tmp_path / "h.npz", before=H, after=H + 1)
    arguments = ("interpret", f"--workdir={finished[0]}", f"--hidden={tmp_path}/h.npz")
    status, out, err = recjax(*arguments, "--json")
    assert status == 0 and [list(answer) for answer in out["answers"]] == [["residual"]] * 3
    assert all(printable(answer["residual"]) in err for answer in out["answers"])
    assert recjax(*arguments)[:2] == (0, None)


def test_a_file_that_does_not_fit(recjax, finished, tmp_path):
    np.savez(tmp_path / "h.npz", hidden=H[..., 1:])
    (tmp_path / "text.npz").write_text("none")
    for name, message in (
        ("gone.npz", "gone.npz: no such file"),
        ("text.npz", "text.npz: not readable as .npz"),
        ("h.npz", "h.npz: hidden: width 7, expected 8: states of another model?"),
    ):
        hidden = f"--hidden={tmp_path / name}"
        status, out, err = recjax("interpret", f"--workdir={finished[0]}", hidden)
        assert (status, out) == (2, None) and message in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decoding=greedy,bean"], "--decoding: no 'bean'; expected some of greedy, beam, con"),
        (["--judge=x"], "--judge and --versus go together"),
        (["--versus=x"], "--judge and --versus go together"),
        (["--judge=http://127.0.0.1:9", "--versus=R"], "--judge URL needs --judge-model NAME"),
        (["--judge=gone", "--versus=R"], "gone: no such folder"),
        (["--judge-model=m"], "--judge-model and --judge-key go with --judge URL"),
        (["--judge=x", "--versus=R", "--judge-key=K"], "--judge-key go with --judge URL"),
        (["--hidden=x", "--decoding=greedy"], "--hidden goes without --decoding"),
        (["--hidden=x", "--split=test", "--controls"], "--hidden goes without --split, --controls"),
        (["--hidden=x", "--oracle"], "--hidden goes without --oracle"),
        (["--hidden=x", "--judge=x", "--versus=x"], "--hidden goes without --judge, --versus"),
        (["--hidden=x", "--judge-model=m", "--judge-key=K"], "without --judge-model, --judge-key"),
        (["--hidden="], "expected a path; it is empty"),
        (["--hidden=H", "--step=999"], "no complete checkpoint of step 999"),
        (["--config.seed=1"], "interpret takes no --config.KEY"),
        (["--step=999"], "no complete checkpoint of step 999"),
        (["--split=train"], "argument --split: invalid choice: 'train'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    recjax, finished, trained, tmp_path, arguments, message
):
    if any("=R" in a for a in arguments):
        arguments = [a.replace("=R", f"={trained('sasrec', seed=1)}") for a in arguments]
    np.savez(tmp_path / "h.npz", hidden=H)
    arguments = [a.replace("=H", f"={tmp_path / 'h.npz'}") for a in arguments]
    status, out, err = recjax("interpret", f"--workdir={finished[0]}", *arguments)
    assert (status, out) == (2, None) and message in one_line(err)


def test_a_workdir_of_another_kind(recjax, trained, tmp_path):
    status, _, err = recjax("interpret", f"--workdir={trained('sasrec', seed=1)}")
    assert status == 2 and "a run of another kind; expected an interpreter's" in one_line(err)
    status, _, err = recjax("interpret", f"--workdir={tmp_path / 'gone'}")
    assert status == 2 and "gone/config.json: missing" in one_line(err)


def test_train_and_evaluate_know_the_system(recjax, finished, interpreter_section, tmp_path):
    work, final = finished
    status, out, err = recjax("evaluate", f"--workdir={work}", "--json")
    assert status == 0 and out == {k: v for k, v in final.items() if "/" in k}
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(arg=None):\n    return ConfigDict({interpreter_section()!r})\n"
    )
    train = ("train", f"--config={config}", f"--workdir={tmp_path / 'w'}")
    status, _, err = recjax(*train, "--config.ask.window=9")
    assert status == 2 and "dreamrec reads 6 items, config.ask.window is 9" in one_line(err)
    status, _, err = recjax(*train, "--config.ask.widow=9")
    assert status == 2 and "config.ask has no 'widow'; did you mean 'window'?" in one_line(err)


def test_the_flags_load_nothing_heavy():
    """They are in the parser of every command."""
    code = "import sys, recjax.cli; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
