"""LLaMA computes what transformers' LLaMA computes (fixtures of random tiny models, float32).

`tests/data/llama/*/README.md` says what each array is and how it was made.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.convert.language_model import read_language_model
from recjax.nn.positions import RopeScaling, rope_frequencies
from recjax.testing.compiled import Compiled

DATA = Path(__file__).parent.parent / "data" / "llama"
NAMES = ("llama_gqa", "llama3_rope_tied")
TOLERANCE = 1e-4
# float32 angles of large positions lose digits, as the fixtures' README says.
GAPPY = 1e-3


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """`(model as read, its module, the arrays)`."""
    loaded = read_language_model(DATA / request.param)
    arrays = np.load(DATA / request.param / "io.npz")
    return loaded, Compiled(loaded.definition.merge(loaded.params)), arrays


def difference(ours, theirs, where=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs)[... if where is None else where].max()


def test_the_weights_are_sharp(case):
    """A model whose logits hardly vary would agree with anything."""
    assert case[2]["full_logits"].std() > 1 and case[2]["full_hidden"].std() > 0.5


def test_logits(case):
    _, model, io = case
    assert difference(model(io["full_input_ids"])[0], io["full_logits"]) < TOLERANCE
    final, _ = model.hidden(io["full_input_ids"])
    assert difference(final, io["full_final_norm"]) < TOLERANCE


def test_every_layers_hidden_state(case):
    _, model, io = case
    tokens, states = io["full_input_ids"], io["full_hidden"]
    assert difference(model.embed(tokens), states[0]) < TOLERANCE
    for layers in range(1, len(states)):  # the first `layers` of it are a model, too
        h, _ = Compiled(shortened(model.module, layers)).hidden(tokens)
        assert difference(h, model.final_norm(states[layers])) < TOLERANCE


def shortened(model, layers):
    """The model with its first `layers` layers."""
    short = nnx.clone(model)
    short.config = dataclasses.replace(model.config, layers=layers)
    short.layers = model.layers.at(slice(0, layers))
    return short


def test_frequencies(case):
    loaded, _, io = case
    c = loaded.config
    ours = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    np.testing.assert_allclose(ours, io["rope_inv_freq"], rtol=1e-6)


def test_embeddings_in_the_place_of_tokens(case):
    _, model, io = case
    embedded = model.embed(io["full_input_ids"])
    assert difference(model(embedded)[0], io["full_logits"]) < TOLERANCE


def test_left_padding(case):
    _, model, io = case
    real = io["padded_attention_mask"].astype(bool)
    assert not real.all() and real.any(1).all()
    logits, _ = model(io["padded_input_ids"], mask=real)
    assert difference(logits, io["padded_logits"], real) < TOLERANCE
    final, _ = model.hidden(io["padded_input_ids"], mask=real)
    assert difference(final, io["padded_final_norm"], real) < TOLERANCE


def test_gappy_positions(case):
    _, model, io = case
    logits, _ = model(io["pos_input_ids"], positions=io["pos_position_ids"])
    assert difference(logits, io["pos_logits"]) < GAPPY
    assert difference(model(io["pos_input_ids"])[0], io["pos_logits"]) > 100 * GAPPY


@pytest.mark.parametrize("first", [1, 5])
def test_cached(case, first):
    """A prefill of some tokens, then one by one."""
    _, model, io = case
    tokens = io["full_input_ids"]
    logits, cache = model(tokens[:, :first], cache=model.empty_cache(*tokens.shape))
    parts = [logits]
    for at in range(first, tokens.shape[1]):
        logits, cache = model(tokens[:, at : at + 1], cache=cache)
        parts.append(logits)
    assert difference(np.concatenate(parts, 1), io["full_logits"]) < TOLERANCE


def test_cached_with_left_padding(case):
    _, model, io = case
    tokens, real = io["padded_input_ids"], io["padded_attention_mask"].astype(bool)
    first, cache = model(tokens[:, :9], mask=real[:, :9], cache=model.empty_cache(*tokens.shape))
    then, _ = model(tokens[:, 9:], mask=real[:, 9:], cache=cache)
    both = np.concatenate([first, then], 1)
    assert difference(both, io["padded_logits"], real) < TOLERANCE


def test_greedy_tokens(case):
    _, model, io = case
    prompt, expected = io["gen_prompt_ids"], io["gen_tokens"]
    slots = prompt.shape[1] + expected.shape[1]
    logits, cache = model(prompt, cache=model.empty_cache(len(prompt), slots))
    assert io["gen_margin"].min() > 10 * TOLERANCE
    for at in range(expected.shape[1]):
        assert difference(np.asarray(logits)[:, -1], io["gen_step_logits"][:, at]) < TOLERANCE
        chosen = np.asarray(logits)[:, -1].argmax(-1)
        np.testing.assert_array_equal(chosen, expected[:, at])
        logits, cache = model(chosen[:, None], cache=cache)


def token_loss(definition, params, tokens, labels):
    """transformers' loss: labels are shifted inside, -100 does not count."""
    logits, _ = definition.merge(params)(tokens)
    target = labels[:, 1:]
    chosen = jnp.maximum(target, 0)[..., None]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), chosen, -1)[..., 0]
    return jnp.where(target >= 0, losses, 0).sum() / (target >= 0).sum()


def test_loss_and_gradients(case):
    loaded, _, io = case
    tokens, labels = io["full_input_ids"], io["full_labels"]
    gradient = jax.jit(
        jax.value_and_grad(lambda params: token_loss(loaded.definition, params, tokens, labels))
    )
    loss, grads = gradient(loaded.params)
    assert abs(loss - io["full_loss"]) < TOLERANCE
    ours = {
        "embed_tokens": grads["embedding"],
        "layers.0.self_attn.k_proj": grads["layers/attention/key/kernel"][0].T,
        "layers.0.mlp.gate_proj": grads["layers/gate/kernel"][0].T,
    }
    assert sum(key.startswith("full_grad.") for key in io) == len(ours)
    for name, grad in ours.items():
        theirs = io[f"full_grad.model.{name}.weight"]
        assert np.abs(theirs).max() > 100 * TOLERANCE
        assert difference(grad, theirs) < TOLERANCE


def swapped_halves(kernel, heads):
    """Queries or keys [layers E N*H] as a reader of Meta's row order would have them."""
    layers, dim, width = kernel.shape
    pairs = kernel.reshape(layers, dim, heads, width // heads // 2, 2)
    return pairs.swapaxes(-1, -2).reshape(kernel.shape)


@pytest.mark.parametrize(
    "mutation", ["rope_theta", "norm_eps", "rope_scaling", "head_dim", "query", "key"]
)
def test_a_wrong_model_is_seen(case, mutation):
    loaded, _, io = case
    config, params = loaded.config, dict(loaded.params)
    if mutation == "rope_theta":
        config = dataclasses.replace(config, rope_theta=config.rope_theta * 2)
    elif mutation == "norm_eps":
        config = dataclasses.replace(config, norm_eps=1e-3)
    elif mutation == "rope_scaling":
        scaling = config.rope_scaling or RopeScaling(1.0, 1.0, 4.0, 64)
        scaling = dataclasses.replace(scaling, factor=2 * scaling.factor)
        config = dataclasses.replace(config, rope_scaling=scaling)
    elif mutation == "head_dim":  # as many numbers, cut into other heads
        more = {"heads": config.heads * 2, "kv_heads": config.kv_heads * 2}
        config = dataclasses.replace(config, head_dim=config.head_dim // 2, **more)
    else:
        path = f"layers/attention/{mutation}/kernel"
        heads = config.heads if mutation == "query" else config.kv_heads
        params[path] = swapped_halves(params[path], heads)
    wrong = dataclasses.replace(loaded, config=config)
    logits, _ = Compiled(wrong.definition.merge(params))(io["full_input_ids"])
    assert difference(logits, io["full_logits"]) > 10 * TOLERANCE
