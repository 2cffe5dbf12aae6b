"""Explanations and P5's answers are measured on eight devices as on one."""

import json

import jax
import numpy as np
import pytest

from recjax.config import build
from recjax.data.interactions import LogBuilder
from recjax.data.store import write_store
from recjax.recsysllm.p5 import P5Config, P5Run
from recjax.sharded import MESH_AXES
from recjax.training.explanation import ExplanationConfig, ExplanationRun

WORDS = ("strings", "pickup", "finish", "cable", "pedal", "tuner")
SMALL = {"dim": 16, "mlp_dim": 32, "heads": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A store of 18 users with 5 items each, and a review of each rating."""
    folder, lines = tmp_path_factory.mktemp("written"), []
    log = LogBuilder(timestamps=True, ratings=True)
    for user in range(24):
        for time in range(5):
            item = (user + time) % 7
            log.add(f"u{user}", f"i{item}", time, 1 + (user + item) % 5)
            text = f"The {WORDS[(user + 5 * time) % 6]} sounds quite fine today."
            lines.append({"reviewerID": f"u{user}", "asin": f"i{item}", "reviewText": text})
    (folder / "reviews.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return write_store(folder / "store", log.build(), {}, {"options": {}})


def explanations(store):

    def said(run, params):
        rows = run._arrays(run.parts_of_data["test"].some(16, 0))
        return run.writer(params)(rows)

    return ExplanationRun, ExplanationConfig, said, {
        "model": {"name": "peter", **SMALL},
        "text": {"reviews": str(store.path.parent / "reviews.json"), "max_tokens": 12},
        "tokenizer": {"vocab_size": 290},
        "train": {"batch_size": 16},
        "evaluation": {"batch_size": 10},
    }  # fmt: skip


def p5(store):
    del store

    def said(run, params):
        """The items of each question's beams."""
        passages = run.source.questions("test", "2-3", 10, 0)[1]
        lines = run.answerer(params).titles(passages)
        return [tuple(items[0] for items, _ in beams) for beams in lines]

    return P5Run, P5Config, said, {
        "model": {"name": "t5", **SMALL, "layers": 1, "encoder_layers": 1, "kv_heads": 2,
                  "head_dim": 8, "max_length": 64},
        "whole_words": 24, "answer": 4, "tokenizer": {"vocab_size": 290},
        "text": {"tasks": {"sequential": 1.0, "only": ("2-3",), "history": 3},
                 "answers": {"beams": 2, "batch_size": 10, "free": 2, "cutoffs": (1,)}},
        "train": {"batch_size": 16}, "evaluation": {"batch_size": 10},
    }  # fmt: skip


@pytest.mark.parametrize("system", [explanations, p5])
def test_as_on_one_device(data, system):
    made, kind, said, section = system(data)
    store = {"source": "simulated", "store": str(data.path)}
    run = made(build(kind, {"data": store, **section}, "config"), data)
    assert run.mesh.size == 8
    rng = np.random.default_rng(0)
    host, params = {}, run.whole(run.init_state().params)
    for path, a in params.items():  # no two texts alike
        host[path] = np.asarray(a + rng.normal(0, 0.3, a.shape).astype(np.float32))
        params[path] = jax.device_put(host[path], a.sharding)
    evaluator = run.evaluator("test")
    found = evaluator.run(params)
    one = made(run.config, data)
    one.mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), MESH_AXES)
    expected = one.evaluator("test").run(host)
    texts = said(run, params)
    assert texts == said(one, host) and len({*texts}) > 1
    assert set(found) == set(expected) == set(evaluator.metric_names)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, nan_ok=True), name
