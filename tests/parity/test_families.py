"""Qwen3, GLM-4 and GPT-2 compute what transformers does: logits, greedy, beams, 20 steps of LoRA.

`tests/data/make_families_torch.py` made the models and the numbers (float32).
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import recjax
from recjax.convert.language_model import read_language_model
from recjax.convert.peft import adapted, read_adapter, write_adapter
from recjax.models import glm4
from recjax.models.language import family_for
from recjax.nn.lora import is_lora
from recjax.nn.positions import rotate

DATA = Path(__file__).parent.parent / "data" / "families"
NAMES = sorted(path.name for path in DATA.iterdir())
TUNED = [name for name in NAMES if (DATA / name / "adapter").exists()]
TOLERANCE = 1e-4
STOP = (1, 2)


def difference(ours, theirs, where=...):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs)[where].max()


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """`(the model's object, the arrays)`."""
    folder = DATA / request.param
    return recjax.load_llm(folder), np.load(folder / "io.npz")


def test_logits_behind_padding(case):
    lm, io = case
    assert io["logits"].std() > 1 and not io["real"].all()
    assert difference(lm(io["tokens"], mask=io["real"]), io["logits"], io["real"]) < TOLERANCE


def assert_same_tokens(got, theirs):
    """Up to what ended each row; [B N] or [B beams N]."""
    theirs = theirs.reshape(got.tokens.shape)
    real = np.arange(theirs.shape[-1]) < np.asarray(got.lengths)[..., None]
    np.testing.assert_array_equal(np.asarray(got.tokens)[real], theirs[real])
    assert ((theirs == 3) | real).all()


def test_greedy(case):
    lm, io = case
    new = io["greedy"].shape[1]
    got = lm.generate(io["tokens"], mask=io["real"], max_new_tokens=new, stop=STOP)
    assert_same_tokens(got, io["greedy"])


def test_beams(case):
    lm, io = case
    new, beams = io["beams"].shape[1], len(io["beams"]) // len(io["tokens"])
    options = {"max_new_tokens": new, "stop": STOP, "beams": beams}
    got = lm.generate(io["tokens"], mask=io["real"], **options)
    np.testing.assert_allclose(np.ravel(got.scores), io["beam_scores"], atol=TOLERANCE)
    assert_same_tokens(got, io["beams"])


@pytest.mark.parametrize("name", TUNED)
def test_twenty_steps_of_lora(name, tmp_path):
    """The loss before each step of Adam; what is trained is written and read."""
    base, io = read_language_model(DATA / name), np.load(DATA / name / "io.npz")
    lora, start = read_adapter(DATA / name / "adapter", base)
    definition, tokens = adapted(base, lora, start).definition, jnp.asarray(io["batch"])

    def loss(own):
        logits, _ = definition.merge({**base.params, **own})(tokens)
        logs = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1).mean()

    optimizer = optax.adam(0.02)

    @jax.jit
    def step(own, state):
        value, gradient = jax.value_and_grad(loss)(own)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(own, change), state, value

    own, curve = start, []
    state = optimizer.init(own)
    for _ in range(len(io["curve"])):
        own, state, value = step(own, state)
        curve.append(float(value))
    np.testing.assert_allclose(curve, io["curve"], atol=1e-3)
    assert curve[-1] < 0.7 * curve[0]
    write_adapter(tmp_path / "tuned", base, lora, own)
    again, params = read_adapter(tmp_path / "tuned", base)
    assert set(params) == {path for path in own if is_lora(path)}
    assert again.targets == lora.targets
    logits, _ = adapted(base, again, params).definition.merge({**base.params, **params})(tokens)
    # Adam's steps carry rounding on: 6e-3 was seen on one processor.
    assert difference(logits, io["tuned_logits"]) < 2e-2


def logits_of(loaded, io, **changes):
    wrong = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, **changes))
    return wrong.definition.merge(loaded.params)(io["tokens"], mask=io["real"])[0]


MUTATIONS = {
    "theta": ("qwen3", {"rope_theta": 2e4}),
    "epsilon": ("qwen3", {"norm_eps": 1e-2}),
    "rotated share": ("glm", {"rotary_share": 1.0}),
    "rotated pairs": ("glm", {}),
    "norms of queries": ("qwen3", {}),
    "norms of what is added": ("glm4", {}),
    "halves of gate and up": ("glm4", {}),
    "erf": ("gpt2", {"gelu": "erf"}),
    "thirds": ("gpt2", {}),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_model_is_seen(mutation, monkeypatch):
    name, changes = MUTATIONS[mutation]
    loaded, io = read_language_model(DATA / name), np.load(DATA / name / "io.npz")
    params = dict(loaded.params)
    if mutation == "rotated pairs":

        def halves(x, angles):
            turned = 2 * angles[0].shape[-1]
            return jnp.concatenate([rotate(x[..., :turned], angles), x[..., turned:]], axis=-1)

        monkeypatch.setattr(glm4, "rotate_neighbours", halves)
    elif mutation == "norms of queries":
        scale = params["layers/attention/query_norm/scale"]
        params["layers/attention/query_norm/scale"] = jnp.ones_like(scale)
    elif mutation == "norms of what is added":
        params["layers/after_mlp/scale"], params["layers/mlp_norm/scale"] = (
            params["layers/mlp_norm/scale"],
            params["layers/after_mlp/scale"],
        )
    elif mutation == "thirds":  # side by side in each head
        path = "layers/attention/query_key_value/kernel"
        layers, dim, width = params[path].shape
        parts = params[path].reshape(layers, dim, 3, loaded.config.heads, -1)
        params[path] = parts.swapaxes(2, 3).reshape(layers, dim, width)
    elif mutation == "halves of gate and up":
        fused = params["layers/gate_up/kernel"]
        params["layers/gate_up/kernel"] = jnp.roll(fused, fused.shape[-1] // 2, axis=-1)
    wrong = dataclasses.replace(loaded, params=params)
    assert difference(logits_of(wrong, io, **changes), io["logits"], io["real"]) > 4 * TOLERANCE


def test_published_numbers_of_parameters():
    """Of the model cards: what a size that was typed wrong would change."""
    published = {
        "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-8b": 8_190_735_360,
        "glm-4-9b-chat": 9_399_951_360, "glm-4-9b-0414": 9_400_279_040, "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168, "gpt2-xl": 1_557_611_200,
    }  # fmt: skip
    for name, number in published.items():
        config = recjax.models.language.presets()[name]
        shapes = recjax.models.definition.define(
            lambda rngs, config=config: family_for(config).build(config, rngs=rngs)
        ).shapes
        assert sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) == number
