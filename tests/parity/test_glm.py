"""GLM computes what the public PyTorch code computes (fixtures of random tiny models, float32).

`tests/data/glm/*/README.md` says what each array is and how it was made.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.convert.language_model import read_language_model
from recjax.llm import LanguageModel
from recjax.models import glm
from recjax.nn.masks import make_mask
from recjax.recsysllm.infill import Infiller
from recjax.recsysllm.spans import Marks
from recjax.testing.compiled import Compiled

DATA = Path(__file__).parent.parent / "data" / "glm"
TOLERANCE = 2e-4
GELUS = {"erf": "", "tanh": "_tanh"}


@pytest.fixture(scope="module")
def io():
    return np.load(DATA / "glm_hf" / "io.npz")


@pytest.fixture(scope="module", params=GELUS)
def case(request):
    """`(model as read, its jitted forward, the suffix of its arrays)`."""
    loaded = read_language_model(DATA / "glm_hf", gelu=request.param)
    return loaded, Compiled(loaded.definition.merge(loaded.params)), GELUS[request.param]


@pytest.fixture(scope="module")
def erf():
    loaded = read_language_model(DATA / "glm_hf", gelu="erf")
    return Compiled(loaded.definition.merge(loaded.params))


def difference(ours, theirs, where=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs)[... if where is None else where].max()


def prefix_mask(sep, length):
    """The first `sep` tokens see each other, the rest is causal."""
    return make_mask(jnp.ones((len(sep), length), bool), jnp.arange(length) >= sep[:, None])


def loss(logits, labels):
    """The mean over labels that are not -100, each at the place of its logits."""
    counted = labels >= 0
    chosen = jnp.take_along_axis(
        jax.nn.log_softmax(logits), jnp.where(counted, labels, 0)[..., None], axis=-1
    )[..., 0]
    return -(chosen * counted).sum() / counted.sum()


def test_the_two_gelus_differ(io):
    """Else one model would pass for both."""
    assert difference(io["causal_logits"], io["causal_logits_tanh"]) > 5 * TOLERANCE
    assert io["causal_logits"].std() > 1


def test_causal(case, io):
    _, model, end = case
    tokens = io["causal_input_ids"]
    rows, length = tokens.shape
    positions = np.zeros((rows, 2, length), int)
    positions[:, 0] = np.arange(length)
    causal = make_mask(jnp.ones(tokens.shape, bool))
    logits, _ = model(tokens, positions=positions, mask=causal)
    assert difference(logits, io[f"causal_logits{end}"]) < TOLERANCE
    both_ways, _ = model(tokens, positions=positions)
    assert difference(both_ways, io[f"causal_logits{end}"]) > 100 * TOLERANCE


def test_prefix(case, io):
    """The mask of each form, and what the tokens alone tell: <sop> ends the prompt."""
    _, model, end = case
    tokens, positions = io["prefix_input_ids"], io["prefix_position_ids"]
    expected = io[f"prefix_logits{end}"]
    four = io["prefix_mask4d"].astype(bool)
    np.testing.assert_array_equal(four[:, 0], prefix_mask(io["prefix_sep"], tokens.shape[1]))
    for mask in (four, four[:, 0]):
        assert difference(model(tokens, positions=positions, mask=mask)[0], expected) < TOLERANCE
    assert difference(model(tokens)[0], expected) < TOLERANCE
    embedded = model.embed(tokens)
    logits, _ = model(embedded, positions=positions, mask=four)
    assert difference(logits, expected) < TOLERANCE
    assert difference(io["prefix_logits_attnscale3"], io["prefix_logits"]) < TOLERANCE


def test_training(case, io):
    """Three spans: logits, the loss, and its gradients of three parameters."""
    loaded, _, end = case
    tokens, positions = io["train_input_ids"], io["train_position_ids"]
    mask = prefix_mask(io["train_sep"], tokens.shape[1])

    @jax.jit
    @jax.grad
    def run(params):
        return training(params)[0]

    def training(params):
        model = loaded.definition.merge(params)
        logits, _ = model(tokens, positions=positions, mask=mask)
        return loss(logits, io["train_labels_hf"]), logits

    got, logits = jax.jit(training)(loaded.params)
    assert difference(logits, io[f"train_logits{end}"]) < TOLERANCE
    assert abs(got - io[f"train_loss{end}"]) < TOLERANCE
    if end:  # those of the original code
        gradients, start = run(loaded.params), "train_grad_tanh."
        fused = gradients["layers/query_key_value/kernel"][0].T
        own = "transformer.layers.0.attention.query_key_value.weight"
        assert difference(fused, io[start + own]) < TOLERANCE
        table = gradients["block_position"]
        there = io[f"{start}transformer.block_position_embeddings.weight"]
        assert difference(table, there) < TOLERANCE
        embedding = gradients["embedding"]
        assert difference(embedding, io[f"{start}word_embeddings.weight"]) < TOLERANCE


def test_answers_behind_prompts(case, io):
    _, model, end = case
    mask = io["sft_mask4d"].astype(bool)
    logits, _ = model(io["sft_input_ids"], positions=io["sft_position_ids"], mask=mask)
    real = mask[:, 0].any(axis=1)
    assert not real.all()
    assert difference(logits, io[f"sft_logits{end}"], real) < TOLERANCE
    assert abs(loss(logits, io["sft_labels"]) - io[f"sft_loss{end}"]) < TOLERANCE


@pytest.mark.parametrize("given", [True, False], ids=["positions given", "by the tokens alone"])
def test_greedy(erf, io, given):
    """The prompt and <sop> at once, then token by token: cached == uncached == the original."""
    tokens, expected = io["gen_input_ids"], io["gen_tokens"]
    positions = io["gen_position_ids"]
    rows, first = tokens.shape
    steps = expected.shape[1]
    assert io["gen_margin"].min() > TOLERANCE
    step = jax.jit(
        lambda t, c, p: erf(t, cache=c, positions=p) if given else erf(t, cache=c)
    )  # fmt: skip
    own = {}
    if given:
        mask = io["gen_mask4d"][:, 0, :first, :first].astype(bool)
        own = {"positions": positions[..., :first], "mask": mask}
    logits, cache = erf(tokens, cache=erf.empty_cache(rows, first + steps), **own)
    for at in range(steps):
        assert difference(logits[:, -1], io["gen_step_logits"][:, at]) < TOLERANCE
        chosen = logits[:, -1].argmax(-1)
        np.testing.assert_array_equal(chosen, expected[:, at])
        place = positions[..., first + at : first + at + 1] if at + 1 < steps else None
        if at + 1 < steps:
            logits, cache = step(chosen[:, None], cache, place)
    whole, _ = erf(np.concatenate([tokens, expected[:, :-1]], axis=1))
    assert difference(whole[:, first - 1 :], io["gen_step_logits"]) < TOLERANCE


def test_two_blanks(case, io):
    """Filled one after the other with one cache; at every place as without it."""
    _, model, _ = case
    prompt, output = io["fill2_prompt_ids"], io["fill2_output_ids_tanh"]
    length, places = prompt.shape[1], io["fill2_mask_positions"]
    new = (output.shape[1] - length) // 2 - 1  # tokens a blank, behind <sop>
    # The last token of the first blank is never fed.
    fed = np.concatenate([output[:, : length + new], output[:, length + new + 1 : -1]], axis=1)
    outer = np.concatenate([np.arange(length), places.repeat(new)])
    inner = np.concatenate([np.zeros(length, int), *[np.arange(1, new + 1)] * 2])
    positions = np.stack([outer, inner])[None]
    written = np.arange(fed.shape[1]) >= length
    mask = make_mask(jnp.ones(fed.shape, bool), written)
    expected, _ = model(fed, positions=positions, mask=mask)
    logits, cache = model(prompt, cache=model.empty_cache(1, fed.shape[1]))
    got, step = [logits], jax.jit(lambda t, p, c: model(t, positions=p, cache=c))
    for at in range(length, fed.shape[1]):
        logits, cache = step(fed[:, at : at + 1], positions[..., at : at + 1], cache)
        got.append(logits)
    got = np.concatenate(got, axis=1)
    assert difference(got, expected) < 2e-5
    for blank in range(2):
        start = length + blank * new
        chosen = got[0, start : start + new].argmax(-1)
        begin = length + blank * (new + 1) + 1
        np.testing.assert_array_equal(chosen, output[0, begin : begin + new])


# Of the fixtures' vocabulary; the tokens that end a text are two that are not written there.
MARKS = Marks(cls=123, eos=1, sop=121, eop=2, mask=124, sentence=126, document=125)


@pytest.mark.parametrize(
    ("gelu", "name"), [("erf", "gen"), ("erf", "fill2"), ("tanh", "fill2")], ids=str
)
def test_infilling_writes_what_the_original_writes(io, gelu, name):
    """Greedy, one blank and two, from the prompts alone; no text ends by itself."""
    loaded = read_language_model(DATA / "glm_hf", gelu=gelu)
    lm = LanguageModel(loaded.definition, loaded.params, loaded.config)
    prompts, new = io[f"{name}_prompt_ids"], 16
    if name == "fill2":
        new = (io["fill2_output_ids_tanh"].shape[1] - prompts.shape[1]) // 2 - 1
        output = io["fill2_output_ids_tanh"][0, prompts.shape[1] :].reshape(2, new + 1)
        assert (output[:, 0] == MARKS.sop).all()
        expected = output[None, None, :, 1:]
    else:
        expected = io["gen_tokens"][:, None, None]
    found = Infiller(lm, marks=MARKS)(prompts, max_new_tokens=new)
    np.testing.assert_array_equal(found.tokens, expected)
    assert not found.valid.any() and (found.lengths == new).all()


def interleaved(self, x, angles, key):
    """Queries, keys and values side by side in each head, as in ChatGLM."""
    parts = self.query_key_value(x, key).reshape(*x.shape[:2], self.heads, 3, -1)
    q, k, v = jnp.einsum("BTNPH->PBNTH", parts)
    return q, k, v


def alpha(self, before, normed, new):
    """The residual of ChatGLM."""
    return normed * np.sqrt(2 * 28) + new


@pytest.mark.parametrize(
    "mutation", ["layout", "residual", "rows swapped", "one more", "one less", "other gelu"]
)
def test_mutations_are_seen(monkeypatch, erf, io, mutation):
    """A model, or a call, with one fact changed fails the parity above."""
    tokens, positions = io["prefix_input_ids"], io["prefix_position_ids"]
    ends = io["prefix_sep"] + {"one more": 1, "one less": -1}.get(mutation, 0)
    if mutation == "layout":
        monkeypatch.setattr(glm.Layers, "project", interleaved)
    elif mutation == "residual":
        monkeypatch.setattr(glm.Layers, "add", alpha)
    elif mutation == "rows swapped":
        positions = positions[:, ::-1]
    mask = prefix_mask(ends, tokens.shape[1])
    logits, _ = Compiled(erf.module)(tokens, positions=positions, mask=mask)
    end = "_tanh" if mutation == "other gelu" else ""
    assert difference(logits, io[f"prefix_logits{end}"]) > 5 * TOLERANCE
