"""T5 computes what transformers computes: logits, loss, gradients, greedy, beams, 20 steps of LoRA
with peft; v1.0 and v1.1.

`tests/data/make_t5_torch.py` made the models and the numbers (float32).
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import recjax
from recjax.convert.language_model import read_language_model
from recjax.convert.peft import adapted, read_adapter, write_adapter
from recjax.errors import InputError
from recjax.models import t5
from recjax.testing.compiled import Compiled

DATA = Path(__file__).parent.parent / "data" / "t5"
TOLERANCE = 1e-4


def difference(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max()


@pytest.fixture(scope="module", params=["v10", "v11"])
def case(request):
    """`(the model's object, the arrays, what the encoder reads)`."""
    io = np.load(DATA / request.param / "io.npz")
    read = {"encoder": io["encoder"], "encoder_mask": io["encoder_mask"]}
    return recjax.load_llm(DATA / request.param), io, read


def test_logits(case):
    """With padding on either side of the encoder's rows; without its mask they are others."""
    lm, io, read = case
    assert io["logits"].std() > 0.5
    assert difference(lm(io["tokens"], **read), io["logits"]) < TOLERANCE
    assert difference(lm(io["tokens"], encoder=io["encoder"]), io["logits"]) > 100 * TOLERANCE


def test_distances_beyond_the_last_bucket(case):
    lm, io, _ = case
    long = io["long"]
    assert difference(lm(long[:, :100], encoder=long), io["long_logits"]) < TOLERANCE


def test_loss_and_gradients(case):
    lm, io, read = case
    labels = io["labels"]

    def loss(params):
        logits, _ = lm.definition.merge(params)(io["tokens"], **read)
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], axis=-1
        )[..., 0]
        return -(chosen * (labels >= 0)).sum() / (labels >= 0).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(lm.params)
    assert abs(value - io["loss"]) < TOLERANCE
    for name in ("encoder_bias", "decoder_bias"):
        assert np.abs(io[f"grad.{name}"]).max() > 20 * TOLERANCE
        assert difference(gradient[name], io[f"grad.{name}"]) < TOLERANCE


def assert_same_tokens(got, theirs):
    """Up to what ended each row."""
    theirs = theirs.reshape(got.tokens.shape)
    real = np.arange(theirs.shape[-1]) < np.asarray(got.lengths)[..., None]
    np.testing.assert_array_equal(np.asarray(got.tokens)[real], theirs[real])


@pytest.mark.parametrize("beams", [1, 3])
def test_generation(case, beams):
    """The encoder is read once; every beam keeps its keys and values."""
    lm, io, read = case
    starts = np.zeros((3, 1), np.int32)
    options = {"max_new_tokens": io["greedy"].shape[1], "stop": (1,), "beams": beams}
    got = lm.generate(starts, **read, **options)
    assert_same_tokens(got, io["greedy"] if beams == 1 else io["beams"])
    if beams > 1:
        np.testing.assert_allclose(np.ravel(got.scores), io["beam_scores"], atol=TOLERANCE)


def test_twenty_steps_of_lora(tmp_path):
    """Adapters in both stacks, whose numbers of layers differ; what is trained is written and
    read."""
    name = "v10"
    base, io = read_language_model(DATA / name), np.load(DATA / name / "io.npz")
    lora, start = read_adapter(DATA / name / "adapter", base)
    assert {path.split("/")[0] for path in start} == {"encoder", "layers"}
    definition, labels = adapted(base, lora, start).definition, jnp.asarray(io["labels"])
    read = {"encoder": io["encoder"], "encoder_mask": io["encoder_mask"]}

    @jax.jit
    def logits_of(own):
        return definition.merge({**base.params, **own})(io["tokens"], **read)[0]

    def loss(own):
        logs = jax.nn.log_softmax(logits_of(own))
        chosen = jnp.take_along_axis(logs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return -(chosen * (labels >= 0)).sum() / (labels >= 0).sum()

    optimizer = optax.adam(0.02, eps=1e-4)

    @jax.jit
    def step(own, state):
        value, gradient = jax.value_and_grad(loss)(own)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(own, change), state, value

    own, state, curve = start, optimizer.init(start), []
    for _ in io["curve"]:
        own, state, value = step(own, state)
        curve.append(float(value))
    np.testing.assert_allclose(curve, io["curve"], atol=1e-3)
    assert curve[-1] < 0.5 * curve[0]
    write_adapter(tmp_path / "tuned", base, lora, own)
    again, params = read_adapter(tmp_path / "tuned", base)
    assert again.targets == lora.targets and set(params) == set(own)
    assert difference(logits_of(params), io["tuned_logits"]) < 2e-2  # see test_families


MUTATIONS = {
    "one bucket more": {"max_distance": 60},
    "other buckets": {"buckets": 8},
    "epsilon": {"norm_eps": 1e-2},
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_model_is_seen(mutation):
    loaded, io = read_language_model(DATA / "v10"), np.load(DATA / "v10" / "io.npz")
    params = dict(loaded.params)
    if mutation == "other buckets":
        for name in ("encoder_bias", "decoder_bias"):
            params[name] = params[name][:8]
    config = dataclasses.replace(loaded.config, **MUTATIONS[mutation])
    wrong = dataclasses.replace(loaded, config=config).definition.merge(params)
    logits, _ = Compiled(wrong)(io["long"][:, :100], encoder=io["long"])
    assert difference(logits, io["long_logits"]) > 10 * TOLERANCE


def test_whole_words():
    """P5's vectors of words: tokens of one word have the same added to their embeddings."""
    config = t5.Config(
        vocab_size=32, dim=12, mlp_dim=20, layers=1, encoder_layers=1, heads=2, kv_heads=2,
        head_dim=6, buckets=8, max_distance=16, whole_words=5,
    )  # fmt: skip
    model = Compiled(t5.T5(config, rngs=nnx.Rngs(0)))
    tokens, words = np.array([[3, 4, 5, 6]]), np.array([[1, 1, 2, 0]])
    start = np.zeros((1, 1), np.int32)
    got, _ = model(start, encoder=tokens, words=words)
    model.module.whole_word[...] = model.whole_word[...].at[0].set(0)
    model = Compiled(model.module)
    nothing = np.zeros((1, 4), int)
    added = jnp.concatenate([model.whole_word[...][words[:, :3]], jnp.zeros((1, 1, 12))], axis=1)
    expected, _ = model(start, encoder=model.embed(tokens) + added, words=nothing)
    assert difference(model(start, encoder=tokens, words=words)[0], expected) < 1e-5
    assert difference(model(start, encoder=tokens, words=nothing)[0], expected) > 1e-3
    assert difference(got, expected) > 1e-3  # the word 0 had a vector like the others
    with pytest.raises(ValueError, match="words are expected"):
        model(start, encoder=tokens)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder": np.zeros((2, 4), int)}, "encoder has 2 rows, the decoder's tokens 3"),
        ({"encoder": np.full((3, 4), 99)}, "token 99: expected ids from 0 to 63"),
        ({"encoder_mask": np.ones((3, 4))}, "encoder_mask and words belong to the tokens of enc"),
        ({"encoder": np.zeros((3, 4), int), "encoder_mask": np.ones((3, 5))}, r"expected \(3, 4\)"),
        ({"encoder": np.zeros((3, 4), int), "words": np.ones((3, 4), int)}, "this one has 0"),
    ],
)
def test_wrong_encoders_are_refused(given, message):
    lm = recjax.load_llm(DATA / "v10")
    for call in (lm, lm.generate):
        with pytest.raises(InputError, match=message):
            call(np.zeros((3, 2), int), **given)


def test_other_families_have_no_encoder():
    lm = recjax.load_llm(DATA.parent / "llama" / "llama_gqa")
    with pytest.raises(InputError, match="the family llama has no encoder"):
        lm(np.zeros((1, 2), int), encoder=np.zeros((1, 2), int))
