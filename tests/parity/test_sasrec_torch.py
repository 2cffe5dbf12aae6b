"""Imported PyTorch weights score as in PyTorch (`tests/data/make_sasrec_torch.py`, torch 2.15)."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.convert import seqrec_torch
from recjax.models.definition import define
from recjax.models.sasrec import Recommender

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "sasrec_torch.npz")
HEADS, TOLERANCE = 2, 1e-5
CASES = sorted({tuple(key.split("/")[:2]) for key in GOLDEN if key.endswith("/scores")})


def state_dict(weights):
    """The PyTorch state dict of a set of weights."""
    origin = "sharp" if weights == "zeroed" else weights
    keys = (key.partition("/")[2] for key in GOLDEN if key.startswith(f"{origin}/"))
    state = {key: GOLDEN[f"{origin}/{key}"] for key in keys if "/" not in key}
    if weights == "zeroed":
        state = {key: value.copy() for key, value in state.items()}
        state["item_emb.weight"][0] = state["pos_emb.weight"][0] = 0
    return state


def imported(folder, weights, variant, **changes):
    """Config and parameters through a file."""
    np.savez(folder / "sasrec.npz", **state_dict(weights))
    config, params = seqrec_torch.load(folder / "sasrec.npz", variant=variant, heads=HEADS)
    return dataclasses.replace(config, **changes), params


def scores(config, params, ids):
    definition = define(lambda rngs: Recommender(config, len(params["items/embedding"]), rngs=rngs))
    model = definition.merge({key: jnp.array(value) for key, value in params.items()})
    return jax.jit(lambda ids: model.score(model.encode(ids)[:, -1]))(ids)


def difference(folder, weights, variant, **changes):
    """Largest distance from torch's scores."""
    config, params = imported(folder, weights, variant, **changes)
    if changes.get("padding") in ("masked", "zero") and variant > "2020z":
        params["positions/embedding"] = params["positions/embedding"][1:]
    got = scores(config, params, GOLDEN[f"{weights}/{variant}/ids"])
    return np.abs(got - GOLDEN[f"{weights}/{variant}/scores"]).max()


def test_every_version_is_there():
    assert {variant for _, variant in CASES} == set(seqrec_torch.VARIANTS)
    short = [(GOLDEN[f"{w}/{v}/ids"] != 0).sum(1).min() for w, v in CASES]
    assert max(short) == 1, "histories shorter than the window are the point"


@pytest.mark.parametrize(("weights", "variant"), CASES)
def test_scores(tmp_path, weights, variant):
    assert difference(tmp_path, weights, variant) < TOLERANCE


# What each version's scores must tell apart: (weights, changed fields).
WRONG = {
    "2020-09": [("sharp", {"activation": "relu"}), ("sharp", {"padding": "masked"})],
    "2020": [
        ("sharp", {"activation": "none"}),
        ("sharp", {"padding": "masked"}),
        ("sharp", {"block": "pre"}),
        ("sharp", {"block": "post"}),
    ],
    "2024": [
        ("sharp", {"padding": "masked"}),
        ("zeroed", {"padding": "zero"}),
        ("sharp", {"block": "pre"}),
    ],
    "2025-post": [
        ("zeroed", {"padding": "masked"}),
        ("zeroed", {"padding": "zero"}),
        ("sharp", {"block": "pre"}),
        ("sharp", {"block": "query"}),
    ],
    "2025-pre": [
        ("zeroed", {"padding": "masked"}),
        ("zeroed", {"padding": "zero"}),
        ("sharp", {"block": "query"}),
    ],
}
EVERY = [
    ("small", {"norm_eps": 1e-6}),
    ("sharp", {"heads": 1}),
    ("sharp", {"scale_embedding": False}),
]


@pytest.mark.parametrize(
    ("variant", "weights", "changes"),
    [(variant, *case) for variant, cases in WRONG.items() for case in EVERY + cases],
    ids=str,
)
def test_the_scores_show_a_wrong_model(tmp_path, variant, weights, changes):
    assert difference(tmp_path, weights, variant, **changes) > 3 * TOLERANCE


@pytest.mark.parametrize("weights", ["sharp", "small"])
def test_a_hidden_state_of_every_position(tmp_path, weights):
    """Packed rows count each history's own padding."""
    for variant in seqrec_torch.VARIANTS:
        config, params = imported(tmp_path, weights, variant)
        length = config.max_length
        definition = define(lambda rngs, c=config: Recommender(c, 21, rngs=rngs))
        model = definition.merge({key: jnp.array(value) for key, value in params.items()})
        ids = GOLDEN[f"{weights}/{variant}/ids"]
        histories = [row[row != 0] for row in ids[2:]]  # 5 + 3 + 2 + 1: in one row
        row, positions, segments = np.zeros((3, 1, 11), np.int32)
        row[0] = np.concatenate(histories)
        positions[0] = np.concatenate([np.arange(length - len(h), length) for h in histories])
        segments[0] = np.repeat(np.arange(1, 5), [5, 3, 2, 1])
        wide = dataclasses.replace(config, max_length=max(length, 11))
        model.config = wide  # the row is longer than the window, which each history still has
        h = jax.jit(model.encode)(row, positions=positions, segments=segments)
        got = jax.jit(model.score)(np.asarray(h)[0, np.array([4, 7, 9, 10])])
        expected = GOLDEN[f"{weights}/{variant}/scores"][2:]
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_gradients_leave_the_padding_rows_alone(tmp_path):
    """`padding_idx=0` upstream: what padding holds is not trained, all else is."""
    config, params = imported(tmp_path, "sharp", "2024")
    definition = define(lambda rngs: Recommender(config, 21, rngs=rngs))
    ids = jnp.array(GOLDEN["sharp/2024/ids"])

    def total(params):
        h = definition.merge(params).encode(ids)[:, -1]
        return (h**3).sum()

    gradient = jax.jit(jax.grad(total))({key: jnp.array(value) for key, value in params.items()})
    assert not gradient["positions/embedding"][0].any()
    assert not gradient["items/embedding"][0].any()
    assert gradient["positions/embedding"][1:].any(axis=1).all()


def test_a_fresh_model_starts_with_padding_rows_of_zero():
    config = seqrec_torch.Config(dim=4, mlp_dim=4, max_length=6, padding="carried")
    model = Recommender(config, 5, rngs=nnx.Rngs(0))
    assert model.positions.embedding[...].shape == (7, 4)
    for table in (model.items, model.positions):
        assert not table.embedding[...][0].any() and table.embedding[...][1:].any()
