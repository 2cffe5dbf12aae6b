"""`recjax plan` of an interpreter's config: its own step, without the models' weights."""

import dataclasses

import jax
import pytest
from jax.sharding import AbstractMesh

from recjax.interpreter.run import InterpreterRun
from recjax.sharded import MESH_AXES
from recjax.training.run_plan import plan_run
from recjax.training.workdir import build_config


@pytest.fixture(scope="module")
def config(interpreter_section):
    return build_config(interpreter_section())


@pytest.fixture(scope="module")
def run(config, sample_store):
    return InterpreterRun(config, sample_store)


def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)


def test_planned_inputs_are_those_of_training(run):
    planned, (params, _, prefix) = run.outline().abstract_inputs()
    steps = {planned["tokens"].shape: None}
    for step in range(20):
        arrays, given = run.inputs(run.place(step, 1))
        steps[arrays["tokens"].shape] = arrays, given
    assert max(steps) == planned["tokens"].shape, "another step has more tokens"
    arrays, (own, _, read) = steps[planned["tokens"].shape]
    assert shapes(params) == shapes(own)
    assert shapes(planned) == shapes(arrays)
    assert shapes(prefix) == shapes(read)


def test_plans_without_weights(config, monkeypatch):
    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("recjax.convert.language_model.load", read)
    monkeypatch.setattr("recjax.training.checkpoint.Checkpoints.restore", read)
    plan = plan_run(config, (1, 1, 1))
    assert plan.trained < plan.parameters
    assert plan.total_bytes == plan.compiled.peak_bytes + plan.held_bytes > plan.held_bytes > 0
    assert "of frozen models" in plan.table()
    narrow = plan_run(dataclasses.replace(config, quant="int8"), (1, 1, 1))
    assert narrow.compiled.argument_bytes < plan.compiled.argument_bytes
    assert narrow.held_bytes == plan.held_bytes


def test_a_mesh_that_does_not_divide_the_language_model(run):
    outlined = run.outline()
    outlined.mesh = AbstractMesh((1, 1, 5), MESH_AXES)
    assert any("tensor = 5" in line and "layers/" in line for line in outlined.undivided())
