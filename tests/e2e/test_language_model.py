"""A language model from a catalogue: trained, resumed, evaluated, and loaded as a published one."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import recjax as package
from recjax.text.tokenizers import load_tokenizer
from recjax.training.metrics import read_metrics
from recjax.training.workdir import open_run

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.system = "language_model"
    config.data = {"source": "simulated", "store": STORE,
                   "options": {"users": 60, "mean_length": 10.0, "max_length": 20}}
    config.model = {"name": "llama", "dim": 32, "mlp_dim": 48, "layers": 2, "heads": 2,
                    "kv_heads": 2, "head_dim": 16, "max_length": 160, "tied": True}
    config.tokenizer = {"vocab_size": 600}
    config.text = {"domain": "book", "naming": 1.0, "window": 4}
    config.optim = {"name": "muon", "learning_rate": 3e-3}
    config.train = {"batch_size": 16, "epochs": 1.0, "steps_per_call": 4, "evaluate_every": 0.2}
    config.evaluation = {"max_examples": 16}
    return config
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    path = folder / "config.py"
    path.write_text(CONFIG.replace("STORE", repr(str(folder / "store"))))
    return path


def start(config, workdir):
    command = [sys.executable, "-m", "recjax", "train", f"--config={config}"]
    # One device: the tests' eight would only cost time here. Compiled in a hurry, as in the tests.
    flags = os.environ["XLA_FLAGS"].split()
    flags = [flag for flag in flags if "device_count" not in flag]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": " ".join(flags)},
    )


def finish(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return json.loads(out), err


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """An uninterrupted run: its workdir and its result."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, *finish(start(config, workdir))


def numbers(workdir):
    """All that was measured, but for the clock."""
    lines = read_metrics(workdir / "metrics.jsonl")
    clock = ("documents_per_second", "input_wait")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def test_a_run_ends_with_its_metrics_and_a_folder(whole):
    workdir, result, err = whole
    assert result["finished"] and result["folder"] == str(workdir / "hf")
    assert 0 < result["test/text/loss"] < 6 and 0 <= result["test/naming/exact"] <= 1
    first, last = (
        line["validation/text/loss"] for line in (numbers(workdir)[0], numbers(workdir)[-2])
    )
    assert last < first - 0.3
    assert "documents an" not in err.splitlines()[-1] and "test/naming" in err


def test_killed_and_resumed_is_the_uninterrupted_run(config, whole, tmp_path):
    workdir, result, _ = whole
    killed = tmp_path / "killed"
    process = start(config, killed)
    end = time.time() + 300
    while not list(killed.glob("checkpoints/[0-9]*/commit_success.txt")):
        assert process.poll() is None and time.time() < end, "ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (killed / "hf").exists()
    resumed, _ = finish(start(config, killed))
    assert {**resumed, "folder": ""} == {**result, "folder": ""}
    assert numbers(killed) == numbers(workdir)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (killed / "hf" / name).read_bytes() == (workdir / "hf" / name).read_bytes()


def test_the_folder_loads_as_a_published_model(whole):
    workdir = whole[0]
    lm = package.load_llm(workdir / "hf")
    run = open_run(workdir)
    params = run.restore(run.best_step())
    # The model alone is kept, not the vectors that its soft tokens were made of.
    assert "items" in params
    assert {f"model/{path}" for path in lm.params} == params.keys() - {"items"}
    for path, value in lm.params.items():
        np.testing.assert_array_equal(value, params[f"model/{path}"])
    assert lm.tokenizer.size == lm.config.vocab_size == run.tokenizer.size
    assert lm.stop == (run.tokenizer.eos_id,) and lm.config.max_length == 160
    document = run.documents.fixed("items", 1)
    ids = run.tokenizer.encode(document.text, bos=True)
    assert lm.tokenizer.encode(document.text, bos=True) == ids
    logits = lm(np.array([ids]))
    model = run.model.merge(params).model
    np.testing.assert_allclose(logits, model(np.array([ids]))[0], atol=1e-5)
    # A question with a vector in the place of its soft token is answered.
    question = run.documents.fixed("recovery", 0)
    asked = " {soft}".join(t for t, learned in question.pieces if t is not None and not learned)
    ids, is_soft = lm.tokenizer.encode_with_soft(asked, bos=True)
    (made,) = question.blends
    vector = np.array(made.weights) @ np.asarray(params["items"])[list(made.items)]
    soft = (np.array([is_soft]), vector[None, None].astype(np.float32))
    answers = lm.generate(np.array([ids]), soft=soft, max_new_tokens=4)
    other = lm.generate(np.array([ids]), soft=(soft[0], -soft[1]), max_new_tokens=4)
    assert len(answers.texts) == 1 and not np.array_equal(answers.scores, other.scores)
    assert load_tokenizer(workdir / "hf", size=lm.config.vocab_size).pad_id == 0


def test_evaluate_says_what_training_said(recjax, whole):
    workdir, result, _ = whole
    status, found, err = recjax("evaluate", f"--workdir={workdir}", "--json")
    assert status == 0 and "test/residual" in err
    assert found.keys() == {k for k in result if k.startswith("test/")}
    for name, value in found.items():
        assert value == pytest.approx(result[name], abs=1e-4)
    status, _, err = recjax("evaluate", f"--workdir={workdir}", "--protocols=full")
    assert status == 2 and "--protocols" in err and "is no recommender's run; leave it out" in err


def test_another_config_is_refused(recjax, config, whole, tmp_path):
    train = ("train", f"--config={config}", f"--workdir={whole[0]}")
    status, _, err = recjax(*train, "--config.text.naming=2")
    assert status == 2 and "belongs to a run with another config (text.naming differ)" in err
    elsewhere = ("train", f"--config={config}", f"--workdir={tmp_path}/run")
    status, _, err = recjax(*elsewhere, "--config.train.metric=validation/full/ndcg@10")
    assert status == 2 and "config.train.metric: no metric 'validation/full/ndcg@10'" in err


def test_recommenders_weights_are_not_taken_from_it(recjax, whole, tmp_path):
    arguments = ("convert", f"--workdir={whole[0]}", f"--to={tmp_path}/x.npz")
    status, _, err = recjax(*arguments)
    assert status == 2 and "a run of another kind; expected one of 'sasrec'" in err
