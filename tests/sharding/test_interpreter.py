"""An interpreter's training step on eight devices is that of one."""

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.interpreter.adapters import Config as AdapterConfig
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.examples import States
from recjax.interpreter.learning import Learner
from recjax.interpreter.questions import AskConfig
from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.text.bpe import train_bpe
from recjax.text.tasks import RESIDUAL
from recjax.training.optim import OptimConfig
from recjax.training.parallel import data_size, make_mesh, param_shardings

RNG = np.random.default_rng(0)
BEFORE, AFTER = RNG.normal(size=(2, 16, 3, 6)).astype(np.float32)
TITLES = ["Alien", "Dune", "Paris, Texas", "The Omen"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TITLES, 320)


def losses(tokenizer, mesh, parts=1):
    """Loss and gradient norm of three steps; parameters afterwards."""
    config = Config(
        vocab_size=tokenizer.size, dim=32, mlp_dim=48, layers=2, heads=4, kv_heads=2, head_dim=8,
        init_std=0.3,
    )  # fmt: skip
    definition = define(lambda rngs: Llama(config, rngs=rngs))
    params = params_of(Llama(config, rngs=nnx.Rngs(0)))
    if mesh is not None:
        shardings = param_shardings(definition.shapes, PARAM_AXES, mesh)
        params = {path: jax.device_put(a, shardings[path]) for path, a in params.items()}
        assert any(any(s.spec) for s in shardings.values()) == (mesh.shape["data"] < 8)
    llm = LanguageModel(definition, params, config, tokenizer=tokenizer, mesh=mesh)
    bridge = Bridge(llm, AskConfig(), AdapterConfig(soft=2), 3, 6)
    optim = OptimConfig(learning_rate=1e-2)
    learner = Learner(bridge, States(BEFORE, AFTER, TITLES), batch_size=8, optim=optim, parts=parts)
    learner.asked = lambda step: (RESIDUAL, 0)
    state, steps, out = learner.init_state(), learner.make_steps(), []
    for step in range(3):
        batch = learner.place(step)
        if mesh is not None:
            tokens = batch.arrays["tokens"]
            rows = tokens.sharding.shard_shape(tokens.shape)[0]
            assert rows * data_size(mesh) == len(tokens)
        state, metrics = steps(state, batch)
        out += [float(metrics["loss"][0]), float(metrics["grad_norm"][0])]
    for path, value in state.params.items():
        assert value.sharding.is_fully_replicated, path
    return out, {path: np.asarray(value) for path, value in state.params.items()}


@pytest.fixture(scope="module")
def alone(tokenizer):
    return losses(tokenizer, None)


@pytest.mark.parametrize(
    ("shape", "parts"), [((4, 1, 2), 1), ((1, 4, 2), 2), ((8, 1, 1), 1)], ids=str
)
def test_steps_are_those_of_one_device(tokenizer, alone, shape, parts):
    """Also where a step takes the rows in two parts, one after the other."""
    got, params = losses(tokenizer, make_mesh(shape), parts)
    assert got == pytest.approx(alone[0], rel=1e-5)
    for path, value in alone[1].items():
        np.testing.assert_allclose(params[path], value, atol=1e-4, err_msg=path)
