"""Generation against transformers' `generate`, live, with the same random weights.

Needs torch and transformers (the extra `torch`); skipped, visibly, without them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.convert.language_model import read_language_model
from recjax.generate.beam import beam_search
from recjax.generate.loop import decode
from recjax.generate.processors import MinNewTokens, RepetitionPenalty, seen_tokens
from recjax.generate.sampling import Sampler, row_keys
from recjax.nn.cache import KVCache

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FOLDER = Path(__file__).parent.parent / "data" / "llama" / "llama_gqa"
PAD, NEW = 3, 12  # no 0: transformers' beam search reads a pad id of 0 as none
STOP = [17, 40, 99]


@pytest.fixture(scope="module")
def models():
    hf = transformers.LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    ours = read_language_model(FOLDER)
    return hf, ours.definition.merge(ours.params)


@pytest.fixture(scope="module")
def prompts():
    """Tokens [B T], padded on the left, and which are real."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(4, 128, (6, 9))
    mask = np.arange(9) >= np.array([0, 3, 5, 0, 7, 1])[:, None]
    return np.where(mask, tokens, PAD), mask


def theirs(hf, prompts, **options):
    tokens, mask = prompts
    with torch.no_grad():
        out = hf.generate(
            torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask.astype(np.int64)),
            max_new_tokens=NEW, do_sample=False, pad_token_id=PAD, return_dict_in_generate=True,
            output_scores=True, **options,
        )  # fmt: skip
    new = out.sequences[:, tokens.shape[1] :].numpy()
    return np.pad(new, ((0, 0), (0, NEW - new.shape[1])), constant_values=PAD), out


def prefilled(model, prompts):
    tokens, mask = prompts
    cache = model.empty_cache(len(tokens), tokens.shape[1] + NEW)
    h, cache = model.hidden(jnp.asarray(tokens), mask=jnp.asarray(mask), cache=cache)

    def step(tokens, cache):
        logits, cache = model(tokens[:, None], cache=cache)
        return logits[:, 0], cache

    return step, model.logits(h[:, -1]), cache


def greedy(model, prompts, **options):
    options |= {"max_new_tokens": NEW, "pad_id": PAD}
    return jax.jit(lambda: decode(*prefilled(model, prompts), **options))()


def test_left_padded_greedy(models, prompts):
    hf, model = models
    expected, out = theirs(hf, prompts, eos_token_id=STOP)
    ours = greedy(model, prompts, stop=jnp.array(STOP))
    np.testing.assert_array_equal(ours.tokens, expected)
    assert ours.stopped.any() and not ours.stopped.all()
    scores = hf.compute_transition_scores(out.sequences, out.scores, normalize_logits=True).numpy()
    real = np.arange(scores.shape[1]) < np.asarray(ours.lengths)[:, None]
    ours = np.asarray(ours.log_probs)[:, : scores.shape[1]]
    np.testing.assert_allclose(ours[real], scores[real], atol=1e-4)


def test_repetition_penalty_and_minimum(models, prompts):
    """Without padding, which transformers counts as said."""
    hf, model = models
    prompts = np.random.default_rng(6).integers(4, 128, (5, 9)), np.ones((5, 9), bool)
    options = {"repetition_penalty": 1.6, "min_new_tokens": 7}
    early = [33, 47]  # what two rows would say second
    expected, _ = theirs(hf, prompts, eos_token_id=early, **options)
    stop = jnp.array(early)
    seen = seen_tokens(*map(jnp.asarray, prompts), 128)
    both = RepetitionPenalty(jnp.float32(1.6), seen), MinNewTokens(jnp.int32(7), stop)
    for processors, same in ((both, True), (both[:1], False), (both[1:], False)):
        found = greedy(model, prompts, stop=stop, processors=processors).tokens
        assert np.array_equal(found, expected) == same


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_beam_search(models, prompts, penalty, early):
    (hf, model), beams = models, 3
    expected, out = theirs(
        hf, prompts, eos_token_id=STOP, num_beams=beams, num_return_sequences=beams,
        length_penalty=penalty, early_stopping=early,
    )  # fmt: skip

    @jax.jit
    def search():
        return beam_search(
            *prefilled(model, prompts), KVCache.take, max_new_tokens=NEW, beams=beams, pad_id=PAD,
            stop=jnp.array(STOP), length_penalty=penalty, early_stopping=early,
        )  # fmt: skip

    ours = search()
    scores = out.sequences_scores.numpy().reshape(len(prompts[0]), beams)
    np.testing.assert_allclose(ours.scores, scores, atol=1e-4, rtol=1e-5)
    np.testing.assert_array_equal(ours.tokens, expected.reshape(ours.tokens.shape))
    # A stop token ended some, unless the penalty prefers length to probability.
    assert penalty > 1 or ours.lengths.min() < NEW


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 9},
        {"top_p": 0.8},
        {"temperature": 1.6, "top_k": 20, "top_p": 0.7},
    ],
    ids=str,
)
def test_the_sampled_distribution(options):
    """Shares of 20,000 draws of one row against the probabilities after transformers' warpers."""
    logits = np.random.default_rng(7).normal(0, 2, 60).astype(np.float32)
    warped = torch.from_numpy(logits)[None]
    warpers = (
        ("temperature", transformers.TemperatureLogitsWarper),
        ("top_k", transformers.TopKLogitsWarper),
        ("top_p", transformers.TopPLogitsWarper),
    )
    for name, warper in warpers:
        if name in options:
            warped = warper(options[name])(None, warped)
    expected = torch.softmax(warped, -1)[0].numpy()
    rows = jnp.broadcast_to(jnp.asarray(logits), (20_000, 60))
    drawn = jax.jit(Sampler(**options).__call__)(
        rows, row_keys(jax.random.key(0), jnp.arange(len(rows)))
    )
    found = np.bincount(drawn, minlength=60) / len(rows)
    assert not found[expected == 0].any()
    spread = np.sqrt(expected * (1 - expected) / len(rows))
    assert (np.abs(found - expected) <= 4.5 * spread + 1e-9).all()
