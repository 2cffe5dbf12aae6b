"""The loop: what is written, where rows end, and what compiles again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.generate.beam import beam_search
from recjax.generate.loop import decode
from recjax.generate.processors import ForbiddenTokens, Stateless
from recjax.generate.prompts import bucket
from recjax.generate.sampling import Sampler, row_keys

PROMPTS = np.array([[1, 2], [3, 4], [5, 6], [0, 3]], np.int32)


def by_hand(model, prompt, limit, stop=()):
    """Greedy tokens and their log-probabilities, without a cache or a loop on the device."""
    tokens, log_probs = [int(t) for t in prompt], []
    for _ in range(limit):
        logits = model.after(tokens)
        tokens.append(int(logits.argmax()))
        log_probs.append(float(jax.nn.log_softmax(logits)[tokens[-1]]))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :], log_probs


class Quiet(Stateless):
    """Forbids a token to rows that have written it."""

    def init(self, rows):
        return jnp.zeros((rows, 7), bool)

    def __call__(self, state, logits, step):
        return jnp.where(state, -jnp.inf, logits)

    def update(self, state, tokens, active):
        return state | (active[:, None] & (tokens[:, None] == jnp.arange(7)))


def run(model, prompts=PROMPTS, n=8, **options):
    logits, cache = model.start(prompts)
    return jax.device_get(
        jax.jit(lambda: decode(model.step, logits, cache, max_new_tokens=n, **options))()
    )


@pytest.mark.parametrize("stop", [(), (2,), (2, 5, -1)], ids=str)
@pytest.mark.parametrize("limit", [None, 0, 1, 5, 99, (3, 0, 8, 1)], ids=str)
def test_greedy_rows_end_at_a_stop_or_the_limit(model, stop, limit):
    options = {} if limit is None else {"limit": jnp.array(limit)}
    out = run(model, stop=jnp.array(stop, jnp.int32), pad_id=6, **options)
    limits = np.minimum(np.broadcast_to(8 if limit is None else limit, 4), 8)
    for row, prompt in enumerate(PROMPTS):
        tokens, log_probs = by_hand(model, prompt, limits[row], stop)
        n = int(out.lengths[row])
        assert out.tokens[row, :n].tolist() == tokens
        assert (out.tokens[row, n:] == 6).all() and (out.log_probs[row, n:] == 0).all()
        np.testing.assert_allclose(out.log_probs[row, :n], log_probs, rtol=2e-5, atol=1e-6)
        assert bool(out.stopped[row]) == bool(tokens and tokens[-1] in stop)


def test_the_stops_above_stop_some_rows_and_not_others(model):
    stopped = run(model, stop=jnp.array([2, 5])).stopped
    assert stopped.any() and not stopped.all()


def test_the_loop_ends_with_its_last_row(model):
    """Steps taken: one fewer than the longest row's tokens, however long the buffers."""
    logits, cache = model.start(PROMPTS)
    taken = []

    def step(tokens, cache):
        jax.debug.callback(lambda: taken.append(1))
        return model.step(tokens, cache)

    out = decode(step, logits, cache, max_new_tokens=8, stop=jnp.array([0, 1, 2, 5]))
    jax.effects_barrier()
    assert len(taken) == int(out.lengths.max()) - 1 < 7


def test_sampling_by_row_and_position(model):
    """Row r's token t follows from its key and t: not from the batch, the buffers or the limit."""
    key = jax.random.key(3)
    options = {"sampler": Sampler(1.5), "keys": row_keys(key, jnp.arange(4))}
    whole = run(model, **options).tokens
    assert (whole != run(model).tokens).any()
    assert (
        whole != run(model, **options | {"keys": row_keys(key, jnp.arange(4) + 4)}).tokens
    ).any()
    np.testing.assert_array_equal(whole[:, :5], run(model, n=5, **options).tokens)
    np.testing.assert_array_equal(whole[:, :3], run(model, limit=3, **options).tokens[:, :3])
    for row in range(4):
        keys = row_keys(key, jnp.array([row]))
        alone = run(model, PROMPTS[row : row + 1], **options | {"keys": keys})
        np.testing.assert_array_equal(whole[row], alone.tokens[0])


@pytest.mark.parametrize("drawn", [False, True])
def test_stages_write_the_same_with_less_room_and_fewer_rows(hash_model, drawn):
    """Room for half the tokens, then for all; the last rows go on alone, three times."""
    model, rng = hash_model(room=10), np.random.default_rng(0)
    prompts = rng.integers(0, 7, (256, 2), dtype=np.int32)
    options = {"stop": jnp.array([2, 5]), "pad_id": 6, "limit": jnp.array(rng.integers(0, 9, 256))}
    options |= {"processors": (Quiet(),)}
    if drawn:
        options |= {"sampler": Sampler(1.5), "keys": row_keys(jax.random.key(3), jnp.arange(256))}
    rooms, steps = [], []

    def fit(cache, rows, new):
        rooms.append((None if rows is None else len(rows), new))
        held = cache["tokens"] if rows is None else cache["tokens"][:, rows]
        width = 2 + new - held.shape[2]
        return cache | {"tokens": jnp.pad(held, ((0, 0), (0, 0), (0, width)))}

    def step(tokens, cache):
        jax.debug.callback(lambda: steps.append((len(tokens), cache["tokens"].shape[2])))
        return model.step(tokens, cache)

    logits, cache = model.start(prompts)
    short = cache | {"tokens": cache["tokens"][:, :, :2]}
    got = jax.jit(lambda: decode(step, logits, short, max_new_tokens=8, fit=fit, **options))()
    jax.effects_barrier()
    expected = run(model, prompts, **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert rooms == [(None, 4), (None, 8), (128, 8), (64, 8), (32, 8)]
    assert len(steps) == int(got.lengths.max()) - 1
    shapes = [(256, 6), (256, 10), (128, 10), (64, 10), (32, 10)]
    assert steps == sorted(steps, key=shapes.index)
    assert steps[0] == shapes[0] and steps[-1] == shapes[-1]
    assert (np.sort(got.lengths)[-32:] > 1).all() and len(np.unique(got.lengths)) > 5


def test_positions_are_drawn_apart(hash_model):
    """A flat distribution at every step: one key for all would repeat one token."""
    flat = hash_model(vocab=1000, scale=0.0)
    tokens = run(flat, sampler=Sampler(), keys=row_keys(jax.random.key(0), jnp.arange(4))).tokens
    assert len(np.unique(tokens)) > 28


def test_one_compilation_serves_all_numbers(model):
    @jax.jit
    def generate(logits, cache, limit, stop, pad_id, sampler, keys, processors):
        return decode(
            model.step, logits, cache, max_new_tokens=6, limit=limit, stop=stop, pad_id=pad_id,
            sampler=sampler, keys=keys, processors=processors,
        )  # fmt: skip

    logits, cache = model.start(PROMPTS)
    for seed in range(3):
        keys = row_keys(jax.random.key(seed), jnp.arange(4))
        forbidden = ForbiddenTokens(jnp.array([seed]))
        numbers = jnp.int32(seed + 2), jnp.array([seed, 5])
        out = generate(
            logits, cache, *numbers, jnp.int32(seed), Sampler(1.0 + seed), keys, (forbidden,)
        )
        assert out.lengths.max() <= seed + 2 and (out.tokens[out.log_probs != 0] != seed).all()
    assert model.traces == 1


def test_buckets_compile_once_each(hash_model):
    """Left-padded to their bucket, prompts of eleven lengths need three programs."""
    model = hash_model(room=40)
    sizes, programs = (4, 8, 16), []

    @jax.jit
    def generate(prompts):
        programs.append(prompts.shape)
        return decode(model.step, *model.start(prompts), max_new_tokens=4)

    for length in range(1, 12):
        width = bucket(length, sizes)
        assert width >= length and not any(length <= size < width for size in sizes)
        generate(np.pad(np.ones((2, length), np.int32), ((0, 0), (width - length, 0))))
    assert programs == [(2, 4), (2, 8), (2, 16)]
    with pytest.raises(InputError, match="length 17: expected at most 16"):
        bucket(17, sizes)


def test_bad_usage(model):
    with pytest.raises(ValueError, match="max_new_tokens 0"):
        run(model, n=0)
    with pytest.raises(ValueError, match="needs keys"):
        run(model, sampler=Sampler())


def test_types_of_64_bits_change_no_type_and_no_rank_is_promoted():
    def step(tokens, cache):
        return jnp.broadcast_to(cache[None], (len(tokens), 7)), cache

    def both(logits, cache, keys):
        same = {"max_new_tokens": 3, "stop": [2, 4]}
        sampler = Sampler(0.7, 0.9, 4)
        drawn = decode(step, logits, cache, sampler=sampler, keys=keys, **same)
        return drawn, beam_search(step, logits, cache, lambda cache, rows: cache, beams=2, **same)

    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 5))
        found = jax.eval_shape(both, np.ones((5, 7), "f"), np.ones(7, "f"), keys)
    types = ["int32", "int32", "float32", "bool", "int32", "int32", "float32"]
    assert [str(a.dtype) for a in jax.tree.leaves(found)] == types


def test_half_precision_logits(model):
    logits, cache = model.start(PROMPTS)

    def step(tokens, cache):
        logits, cache = model.step(tokens, cache)
        return logits.astype(jnp.bfloat16), cache

    out = decode(step, logits.astype(jnp.bfloat16), cache, max_new_tokens=4)
    assert out.log_probs.dtype == jnp.float32
