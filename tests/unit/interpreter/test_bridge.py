"""What lies between states and a language model: what is measured, soft tokens, where it lives."""

import dataclasses

import jax
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.questions import Questions
from recjax.llm import LanguageModel
from recjax.text.tasks import RESIDUAL


def test_what_is_measured_is_of_real_states(make_bridge, states):
    """Padding, which has no state, does not count."""
    h = np.array(states(7))
    h[0, :3], h[1, :1] = 0, 0
    real = np.concatenate([h[0, 3:], h[1, 1:], h[2:].reshape(-1, 6)])
    bridge = make_bridge()
    params, expected = bridge.initial(h, 0), bridge.initial(real[:, None], 0)
    for path, value in params.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)
    (mean,) = (value for path, value in params.items() if path.endswith("/mean"))
    np.testing.assert_allclose(mean, real.mean(axis=0), rtol=1e-5)
    assert {path: a.shape for path, a in params.items()} == {
        path: a.shape for path, a in bridge.adapter.shapes.items()
    }


def test_states_that_are_all_padding_or_alike(make_bridge, states):
    with pytest.raises(InputError, match="states: all of them are zero"):
        make_bridge().initial(np.zeros((3, 4, 6), np.float32), 0)
    with pytest.raises(InputError, match="states: all 12 are the same: they tell no history"):
        make_bridge().initial(np.full((3, 4, 6), 0.1, np.float32), 0)


def test_soft_tokens_have_the_size_of_the_models_own(make_bridge, states, llm):
    bridge = make_bridge({}, {"soft": 8})
    h = np.asarray(states(200))
    soft = bridge.soft(bridge.initial(h, 0), h[:, None])
    own = np.sqrt((np.asarray(llm.params["embedding"]) ** 2).mean())
    assert 0.7 < np.sqrt((np.asarray(soft) ** 2).mean()) / own < 1.4


def test_one_adapter_serves_all_representations_in_their_order(make_bridge, states):
    bridge = make_bridge()
    h = states(5)
    params = bridge.initial(np.asarray(h), 0)
    both = bridge.soft(params, np.stack([h, h[::-1]], axis=1))
    assert both.shape == (5, 4, 64)
    alone = np.asarray(bridge.adapter.merge(params)(h))
    np.testing.assert_allclose(both[:, :2], alone, atol=1e-6)
    np.testing.assert_allclose(both[:, 2:], alone[::-1], atol=1e-6)


def test_the_seed_is_the_adapters(make_bridge, states):
    bridge, h = make_bridge(), np.asarray(states(9))
    one, same, other = (bridge.initial(h, seed)["body/out/kernel"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_the_models_own_limit_and_soft_tokens_are_the_questions(make_bridge, llm):
    bridge = make_bridge({}, {"soft": 5})
    assert isinstance(bridge.questions, Questions)
    assert sum(bridge.questions.question(RESIDUAL).is_soft) == 10
    config = dataclasses.replace(llm.config, max_length=40)
    short = LanguageModel(llm.definition, llm.params, config, tokenizer=llm.tokenizer)
    with pytest.raises(InputError, match="the language model reads 40"):
        make_bridge(llm=short)


def test_a_model_without_a_tokenizer(make_bridge, llm, tmp_path):
    for folder, where in ((None, "the language model"), (tmp_path, str(tmp_path))):
        mute = LanguageModel(llm.definition, llm.params, llm.config, folder=folder)
        with pytest.raises(InputError, match=f"^{where}: no tokenizer; an interpreter asks in wo"):
            make_bridge(llm=mute)


def test_the_adapter_is_where_the_language_model_is(make_bridge, llm):
    bridge = make_bridge()
    assert bridge.mesh.devices.tolist() == [[[jax.devices()[0]]]]
    assert {path for path, _ in bridge.axes} == set(bridge.adapter.shapes)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1), bridge.mesh.axis_names)
    split = LanguageModel(
        llm.definition, llm.params, llm.config, tokenizer=llm.tokenizer, mesh=mesh
    )
    assert make_bridge(llm=split).mesh is mesh
