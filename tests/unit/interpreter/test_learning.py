"""Training an adapter: its loss by hand, what learns and what does not, what a step is made of."""

import collections
import dataclasses
import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.examples import States
from recjax.interpreter.learning import Learner
from recjax.llm import LanguageModel
from recjax.models.definition import fingerprint
from recjax.text.tasks import RECOVERY, RESIDUAL
from recjax.training.optim import OptimConfig

HISTORIES = [["Dune", "Alien"], ["Brazil"], ["Alien", "Dune", "Paris, Texas"], ["Cat People"]]
BOTH = {"residual": 1.0, "recovery": 1.0}


@pytest.fixture
def make_learner(make_bridge, states):
    """`make_learner(ask, rows, **learner) -> Learner` over states of random numbers."""

    def make(ask=None, rows=4, bridge=None, **options):
        names = [HISTORIES[row % 4] for row in range(rows)]
        examples = States(states(rows, 1), states(rows, 2), [row[-1] for row in names], names)
        bridge = bridge or make_bridge(BOTH | (ask or {}))
        return Learner(bridge, examples, **{"batch_size": 4} | options)

    return make


def by_hand(learner, params, task, form):
    """The loss (sum, number) of rows one by one: no prefix, no padding, no cache."""
    bridge, total, count = learner.bridge, 0.0, 0
    rows = np.arange(2)
    model = bridge.llm.definition.merge(bridge.llm.params)
    asked = bridge.questions.question(task, form)
    h = learner.examples.states(rows, task.backs)
    answers = bridge.questions.answers(task, form, learner.examples.titles(rows, lists=task.lists))
    for row, answer in enumerate(answers):
        x = model.embed(jnp.array([*asked.ids, *answer]))
        soft = jnp.concatenate([bridge.adapter.merge(params)(one[None])[0] for one in h[row]])
        x = x.at[np.flatnonzero(asked.is_soft)].set(soft)
        scores = jax.nn.log_softmax(model(x[None])[0][0])
        places = len(asked.ids) - 1 + np.arange(len(answer))
        total -= scores[places, np.array(answer)].sum()
        count += len(answer)
    return total, count


def differentiated(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(("task", "form"), [(RESIDUAL, 0), (RECOVERY, 2)])
def test_loss_and_gradients_are_those_of_rows_alone(make_learner, monkeypatch, task, form):
    learner = make_learner()
    monkeypatch.setattr(learner, "asked", lambda step: (task, form))
    monkeypatch.setattr(learner, "rows", lambda step: np.arange(2))
    batch = learner.place(0)
    _, data = learner.inputs(batch)
    assert batch.prefix.prefix_length > 2
    params = learner.init_state().params

    (total, count), got = differentiated(
        lambda params: learner.loss_fn(params, batch.arrays, data, None)
    )(params)
    (expected, labels), gradients = differentiated(
        lambda params: by_hand(learner, params, task, form)
    )(params)
    assert int(count) == labels > 15
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    for path, gradient in gradients.items():
        scale = float(jnp.abs(gradient).max())
        np.testing.assert_allclose(got[path], gradient, atol=3e-5 * max(scale, 1.0), err_msg=path)
        assert (scale > 0) == path.startswith("body/"), path


def test_a_question_without_a_shared_beginning(make_bridge, make_learner, llm, tmp_path):
    """The first token is soft: no prefix."""
    file = tmp_path / "prompts.json"
    prompt = {"question": "{soft} then {soft}?", "answer": "{titles}"}
    file.write_text(json.dumps({"residual": [prompt]}))
    bridge = make_bridge({"prompts": str(file)})
    asked = bridge.questions.question(RESIDUAL, 3)
    start = type(asked)(asked.ids[1:], asked.is_soft[1:])  # without <s>
    bridge.questions.question = lambda task, form: start
    learner = make_learner(bridge=bridge)
    learner.asked = lambda step: (RESIDUAL, 3)
    learner.rows = lambda step: np.arange(2)
    batch = learner.place(0)
    assert batch.prefix is None and start.before == 0
    params = learner.init_state().params
    total, count = jax.jit(learner.loss_fn)(params, batch.arrays, learner.inputs(batch)[1], None)
    expected, labels = jax.jit(lambda params: by_hand(learner, params, RESIDUAL, 3))(params)
    assert int(count) == labels == 6 and float(total) == pytest.approx(float(expected), rel=1e-5)


def test_only_the_adapter_learns_and_what_it_measured_does_not(make_learner, llm):
    learner = make_learner(optim=OptimConfig(learning_rate=0.1, weight_decay=0.1))
    state, before = learner.init_state(), fingerprint(llm.params)
    assert set(state.params) == set(learner.bridge.adapter.shapes)
    moments = jax.tree_util.tree_leaves_with_path(state.opt_state)
    assert not any("whitening" in str(path) for path, _ in moments)
    start = {path: np.array(value) for path, value in state.params.items()}
    steps = learner.make_steps()
    for step in range(2):
        state, metrics = steps(state, learner.place(step))
    assert metrics["loss"].shape == (1,) and int(state.step) == 2
    assert fingerprint(llm.params) == before
    for path, value in state.params.items():
        same = np.array_equal(value, start[path])
        assert same != path.startswith("body/"), path


def test_what_is_measured_is_of_the_states_after(make_learner):
    learner = make_learner(rows=9)
    params = learner.init_state().params
    after = np.asarray(learner.examples.after).reshape(-1, 6)
    (mean,) = (value for path, value in params.items() if path.endswith("/mean"))
    np.testing.assert_allclose(mean, after.mean(axis=0), rtol=1e-5)


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(make_learner):
    learner = make_learner(rows=13, batch_size=4)
    assert learner.steps_per_epoch == 3
    rows = np.concatenate([learner.rows(step) for step in range(13)]).reshape(4, 13)
    for epoch in rows:
        assert sorted(epoch.tolist()) == list(range(13))
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 4
    assert (make_learner(rows=13, seed=1).rows(0) != rows[0][:4]).any()


def test_steps_that_ask_alike_are_as_wide(make_learner):
    learner = make_learner(rows=60, batch_size=4)
    needed, widths = {}, {}
    for step in range(30):
        task, form = learner.asked(step)
        for width, seen in ((0, needed), (None, widths)):
            _, _, arrays = learner._laid_out(step, task, form, width=width)
            seen.setdefault((task.name, form), set()).add(arrays["tokens"].shape[1])
    programs, otherwise = (sum(map(len, each.values())) for each in (widths, needed))
    assert len(widths) <= programs < otherwise
    assert all(max(needed[asked]) <= max(width) for asked, width in widths.items())


def test_tasks_and_prompts_are_drawn_by_step(make_learner):
    learner = make_learner({"residual": 3.0, "recovery": 1.0})
    drawn = [learner.asked(step) for step in range(400)]
    found = collections.Counter(drawn)
    assert len(found) == 6, "every prompt of both tasks"
    residual = sum(count for (task, _), count in found.items() if task is RESIDUAL)
    assert 260 < residual < 340
    assert min(found.values()) > 15
    assert {task for task, _ in map(make_learner({"recovery": 0.0}).asked, range(50))} == {RESIDUAL}
    assert [make_learner(seed=1).asked(step) for step in range(20)] != drawn[:20]


def test_a_step_is_the_same_after_a_restart(make_learner):
    """Batches are a function of the step alone, in whatever order they are asked for."""
    learner = make_learner(rows=9)
    steps = [learner.place(step) for step in range(6)]
    for step in (5, 2):
        batch = make_learner(rows=9).place(step)
        assert batch.arrays.keys() == steps[step].arrays.keys()
        for key, value in batch.arrays.items():
            np.testing.assert_array_equal(value, steps[step].arrays[key], err_msg=key)
        assert batch.prefix.prefix_length == steps[step].prefix.prefix_length
    states = [np.asarray(batch.arrays["states"]) for batch in steps]
    assert not np.array_equal(states[0], states[1])


def test_each_beginning_is_read_once(make_bridge, make_learner, llm, tmp_path, monkeypatch):
    """However many questions there are."""
    file = tmp_path / "prompts.json"
    prompts = [{"question": f"{'a ' * k}{{soft}}?", "answer": "{titles}"} for k in range(1, 4)]
    file.write_text(json.dumps({"recovery": prompts}))
    own = LanguageModel(llm.definition, llm.params, llm.config, tokenizer=llm.tokenizer)
    learner, read = make_learner(bridge=make_bridge(BOTH | {"prompts": str(file)}, llm=own)), []
    monkeypatch.setattr(own, "_read", lambda params, ids: read.append(tuple(ids[0])))
    for step in range(60):
        learner.place(step)
    questions = learner.bridge.questions
    asked = [
        questions.question(t, k) for t in (RESIDUAL, RECOVERY) for k in range(questions.forms(t))
    ]
    beginnings = {tuple(one.ids[: one.before]) for one in asked}
    assert len(beginnings) > 5 and sorted(read) == sorted(beginnings)


def test_answers_that_are_cut_are_told_once(make_bridge, states):
    def warned(ask):
        histories = [["Dune", title] for title in titles]
        learner = Learner(make_bridge(BOTH | ask), States(h, h, titles, histories), batch_size=4)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            learner.check()
        return [str(one.message) for one in told]

    h, titles = (
        np.asarray(states(6)),
        ["Alien", "Omen " * 30, "Dune", "Omen " * 40, "Dune", "Alien"],
    )
    residual, recovery = warned({"residual_tokens": 50, "recovery_tokens": 60})
    pattern = "config.ask.{}_tokens={} cuts {} answers, such as that about '{}.*': the rest is ne"
    assert re.match(pattern.format("residual", 50, "2 of 4", "Omen Omen"), residual)
    assert re.match(pattern.format("recovery", 60, "2 of 6", "Omen Omen"), recovery)
    longest = int(re.search(r"the longest answer has (\d+) tokens", recovery)[1])
    assert warned({"residual_tokens": 120, "recovery_tokens": longest}) == []
    assert len(warned({"residual_tokens": 120, "recovery_tokens": longest - 1})) == 1


def test_one_batch_can_be_learned_by_heart(make_bridge, make_learner, tmp_path):
    """A random frozen model is steered to say four titles."""
    file = tmp_path / "prompts.json"
    prompt = {"question": "{soft}{soft}", "answer": "{titles}"}
    file.write_text(json.dumps({"residual": [prompt]}))
    bridge = make_bridge({"prompts": str(file), "recovery": 0.0}, {"soft": 8})
    learner = make_learner(bridge=bridge, optim=OptimConfig(learning_rate=3e-2))
    learner.asked = lambda step: (RESIDUAL, 3)
    state, steps, batch = learner.init_state(), learner.make_steps(), learner.place(0)
    losses = []
    for _ in range(150):
        state, metrics = steps(state, batch)
        losses.append(float(metrics["loss"][0]))
    assert losses[0] > 3 and losses[-1] < 0.1


def test_a_task_without_titles(make_bridge, states):
    examples = States(states(4), states(4), ["Alien"] * 4)
    learner = Learner(make_bridge({"residual": 0.0, "recovery": 1.0}), examples, batch_size=4)
    with pytest.raises(InputError, match="needs the titles of histories"):
        learner.place(0)


def test_a_title_that_does_not_fit_is_told_at_the_start(llm, make_bridge, states):
    """Whichever example has it, and not at the step that reads it."""
    config = dataclasses.replace(llm.config, max_length=100)
    short = LanguageModel(
        llm.definition, llm.params, config, tokenizer=llm.tokenizer, folder=llm.folder
    )
    bridge = make_bridge({"residual_tokens": 60}, llm=short)
    titles = ["Alien"] * 5000
    shown = np.asarray(states(5000))
    Learner(bridge, States(shown, shown, titles), batch_size=4).check()
    titles[4321] = "Omen " * 30
    learner = Learner(bridge, States(shown, shown, titles), batch_size=4)
    with pytest.raises(InputError, match="prompt . of residual takes .* about 'Omen Omen"):
        learner.check()
