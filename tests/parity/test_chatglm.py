"""ChatGLM-6B computes what its public PyTorch code computes (random tiny models, float32).

`tests/data/glm/chatglm_v1*/README.md` says what each array is and how it was made.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.convert.language_model import read_language_model
from recjax.llm import LanguageModel
from recjax.models import chatglm
from recjax.nn.positions import rope_angles, rope_frequencies
from recjax.recsysllm.infill import Infiller
from recjax.recsysllm.spans import Marks
from recjax.testing.compiled import Compiled

DATA = Path(__file__).parent.parent / "data" / "glm"
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=["chatglm_v1", "chatglm_v1_28layer"])
def folder(request):
    """Of 2 layers, and of as many as the original has."""
    return DATA / request.param


@pytest.fixture(scope="module")
def io(folder):
    return np.load(folder / "io.npz")


@pytest.fixture(scope="module")
def loaded(folder):
    return read_language_model(folder)


@pytest.fixture(scope="module")
def model(loaded):
    return Compiled(loaded.definition.merge(loaded.params))


def difference(ours, theirs, where=...):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs)[where].max()


def given(io, name):
    """Positions, and the mask: the original's says who may *not* attend."""
    return {"positions": io[f"{name}_position_ids"], "mask": ~io[f"{name}_attention_mask"]}


def test_prefix(model, io):
    """[gMASK] at the prompt's end, [MASK] inside; given, and by the tokens alone."""
    tokens, expected = io["prefix_input_ids"], io["prefix_logits"]
    hidden, _ = model.hidden(tokens, **given(io, "prefix"))
    assert difference(hidden, io["prefix_final_norm"]) < TOLERANCE
    assert difference(model.logits(hidden), expected) < TOLERANCE
    assert difference(model(tokens)[0], expected) < TOLERANCE
    square = given(io, "prefix") | {"mask": ~io["prefix_attention_mask"][:, 0]}
    assert difference(model(model.embed(tokens), **square)[0], expected) < TOLERANCE


def test_left_padding(model, io):
    """By the original's positions and mask, by real tokens alone, and as without padding."""
    tokens, expected = io["padded_input_ids"], io["padded_logits"]
    real = tokens != 3
    assert not real.all()
    assert difference(model(tokens, **given(io, "padded"))[0], expected, real) < TOLERANCE
    assert difference(model(tokens, mask=real)[0], expected, real) < TOLERANCE
    alone, _ = model(tokens[1:, ~real[1] @ np.ones(16, int) :])
    assert difference(alone, expected[1:, real[1]]) < TOLERANCE


def test_training(loaded, io):
    """Logits, the loss of the next token, and its gradients of three parameters."""
    tokens, labels = io["train_input_ids"], io["train_labels"][:, 1:]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        logits, _ = loaded.definition.merge(params)(tokens, **given(io, "train"))
        logs, counted = jax.nn.log_softmax(logits[:, :-1]), labels >= 0
        chosen = jnp.take_along_axis(logs, jnp.where(counted, labels, 0)[..., None], axis=-1)
        return -(chosen[..., 0] * counted).sum() / counted.sum(), logits

    (loss, logits), gradients = run(loaded.params)
    assert difference(logits, io["train_logits"]) < TOLERANCE
    assert abs(loss - io["train_loss"]) < TOLERANCE
    start = "train_grad."
    ours = {
        "transformer.layers.0.attention.query_key_value.weight": gradients[
            "layers/query_key_value/kernel"
        ][0].T,
        "transformer.word_embeddings.weight": gradients["embedding"],
        "lm_head.weight": gradients["head/kernel"].T,
    }
    assert {start + name for name in ours} == {n for n in io.files if n.startswith(start)}
    for name, gradient in ours.items():
        assert difference(gradient, io[start + name]) < TOLERANCE


def test_greedy_without_a_cache(model, io):
    """The original's tokens, all at once: its logits at every step."""
    tokens, expected = io["gen_prompt_ids"], io["gen_tokens"]
    whole, _ = model(np.concatenate([tokens, expected[:, :-1]], axis=1))
    steps = np.asarray(whole)[:, tokens.shape[1] - 1 :]
    assert difference(steps, io["gen_step_logits"]) < TOLERANCE
    np.testing.assert_array_equal(steps.argmax(-1), expected)


@pytest.fixture(scope="module")
def small():
    """The model of two layers, whose arrays tell what its mutations compute."""
    loaded = read_language_model(DATA / "chatglm_v1")
    model = Compiled(loaded.definition.merge(loaded.params))
    return model, np.load(DATA / "chatglm_v1" / "io.npz")


def test_greedy(small):
    """The prompt and <sop> at once, then token by token, of the model of two layers."""
    model, io = small
    tokens, expected = io["gen_prompt_ids"], io["gen_tokens"]
    rows, first = tokens.shape
    assert io["gen_margin"].min() > TOLERANCE
    logits, cache = model(tokens, cache=model.empty_cache(rows, first + expected.shape[1]))
    for at in range(expected.shape[1]):
        last = np.asarray(logits)[:, -1]
        assert difference(last, io["gen_step_logits"][:, at]) < TOLERANCE
        chosen = last.argmax(-1)
        np.testing.assert_array_equal(chosen, expected[:, at])
        np.testing.assert_array_equal(cache.position, io["gen_full_position_ids"][..., first + at])
        logits, cache = model(chosen[:, None], cache=cache)


def test_infilling_writes_what_the_original_writes(small):
    """Up to the first `<sop>`, which infilling never writes in a text."""
    loaded, io = read_language_model(DATA / "chatglm_v1"), small[1]
    lm = LanguageModel(loaded.definition, loaded.params, loaded.config)
    marks = Marks(cls=0, eos=1, sop=154, eop=155, mask=150, sentence=150, document=151)
    found = Infiller(lm, marks=marks)(io["gen_prompt_ids"], max_new_tokens=16)
    for row, expected in enumerate(io["gen_tokens"]):
        before = int(np.argmax(expected == marks.sop))
        assert before >= 2
        np.testing.assert_array_equal(found.tokens[row, 0, 0, :before], expected[:before])


def test_the_whole_prompt_s_blank_goes_before_another(small):
    """[gMASK] is filled even where a [MASK] comes first, as in the original."""
    model, config = small[0], small[0].config
    whole, inner = config.blank_ids
    assert (config.start_id, whole, inner) == (154, 151, 150)
    for prompt, place in {
        (7, inner, 8, whole): 3,
        (7, inner, 8, 9): 1,
        (whole, inner, 8): 0,
    }.items():
        tokens = np.array([[*prompt, config.start_id, 5]])
        _, cache = model(tokens, cache=model.empty_cache(1, 8))
        np.testing.assert_array_equal(cache.position, [[place, 3]])


def thirds(self, x, angles, key):
    parts = self.query_key_value(x, key).reshape(*x.shape[:2], 3, self.heads, -1)
    q, k, v = jnp.einsum("BTPNH->PBNTH", parts)
    return chatglm._turned(q, angles), chatglm._turned(k, angles), v


def exact(self, x, positions):
    frequencies = rope_frequencies(self.config.head_dim // 2, 10000.0)
    return x, [rope_angles(positions[:, row], frequencies) for row in range(2)]


@pytest.mark.parametrize(
    ("owner", "name", "value", "same_as"),
    [
        (chatglm.Layers, "project", thirds, None),
        (chatglm.Layers, "add", lambda self, before, normed, new: before + new, None),
        (chatglm, "RESIDUAL", 2.0, "prefix_logits_alpha_num_layers"),
        (chatglm.ChatGLM, "begin", exact, "prefix_logits_exact_inv_freq"),
    ],
    ids=["thirds", "plain residual", "scale of two layers", "exact frequencies"],
)
def test_mutations_are_seen(monkeypatch, small, owner, name, value, same_as):
    """A model with one fact changed fails the parity above; some have numbers of their own."""
    model, io = small
    monkeypatch.setattr(owner, name, value)
    logits, _ = Compiled(model.module)(io["prefix_input_ids"], **given(io, "prefix"))
    assert difference(logits, io["prefix_logits"]) > 1.2 * TOLERANCE
    if same_as is not None:
        assert difference(logits, io[same_as]) < TOLERANCE / 10


@pytest.mark.parametrize("moved", ["one more", "one less", "causal"])
def test_the_mask_s_place_is_seen(small, moved):
    """A prompt that is read both ways one token too far, one too short, or not at all."""
    model, io = small
    asked = given(io, "prefix")
    both = asked["mask"][:, 0].all(axis=1).sum(axis=-1)[:, None]  # tokens that all see
    place = np.arange(asked["mask"].shape[-1])
    ends = {"one more": both + 1, "one less": both - 1, "causal": 0 * both}[moved]
    mask = (place[:, None] >= place)[None] | (place < ends)[:, None]
    logits, _ = model(io["prefix_input_ids"], positions=asked["positions"], mask=mask)
    assert difference(logits, io["prefix_logits"]) > 10 * TOLERANCE
    mask = (place[:, None] >= place)[None] | (place < both)[:, None]
    logits, _ = model(io["prefix_input_ids"], positions=asked["positions"], mask=mask)
    assert difference(logits, io["prefix_logits"]) < TOLERANCE
