"""Every recommender against the contract; a new one joins by a line in CASES."""

import pytest

from recjax.errors import InputError
from recjax.models.recommender import NAMES, model_module, read_config
from recjax.testing import contracts

CASES = [
    {"name": "sasrec", "max_length": 9, "dim": 8, "mlp_dim": 12, "heads": 2, "dropout": 0.3},
    {"name": "sasrec", "max_length": 9, "dim": 8, "layers": 1, "scale_embedding": True},
    {"name": "sasrec", "max_length": 9, "dim": 8, "block": "query", "layers": 1, "norm_eps": 1e-8},
    {"name": "sasrec", "max_length": 9, "dim": 8, "block": "query", "layers": 1, "padding": "zero"},
    {"name": "sasrec", "max_length": 9, "dim": 8, "block": "pre", "padding": "carried"},
    {
        "name": "sasrec",
        "max_length": 9,
        "dim": 8,
        "block": "post",
        "layers": 1,
        "padding": "carried",
    },
    {"name": "sasrec", "max_length": 9, "dim": 8, "heads": 2, "layers": 1, "padding": "zero"},
    {
        "name": "sasrec",
        "max_length": 9,
        "dim": 8,
        "layers": 1,
        "activation": "none",
        "padding": "carried",
    },
    {"name": "gru4rec", "max_length": 9, "dim": 8, "layers": 2},
    {"name": "gru4rec", "max_length": 9, "dim": 8, "tied": False},
    {"name": "caser", "max_length": 9, "dim": 8, "window": 4, "horizontal": 3, "vertical": 2},
    {"name": "caser", "max_length": 9, "dim": 8, "window": 9, "projection": False, "targets": 1},
    {"name": "caser", "max_length": 9, "dim": 8, "window": 3, "tied": True},
    {"name": "bert4rec", "max_length": 9, "dim": 8, "mlp_dim": 12, "dropout": 0.3},
    {
        "name": "bert4rec",
        "max_length": 9,
        "dim": 8,
        "layers": 1,
        "mask_share": 0.3,
        "last_share": 0.0,
    },
    {"name": "dreamrec", "max_length": 9, "dim": 8, "steps": 5, "schedule": "sqrt", "dropout": 0.3},
    {
        "name": "dreamrec",
        "max_length": 9,
        "dim": 8,
        "steps": 20,
        "denoiser_dim": 12,
        "dropout": 0.3,
        "sampler": "ddim",
        "sampler_steps": 4,
        "layers": 1,
        "schedule": "cosine",
    },
    {"name": "hgn", "max_length": 9, "dim": 8, "window": 9, "dropout": 0.3},
    {"name": "fdsa", "max_length": 9, "dim": 8, "mlp_dim": 12, "layers": 1, "dropout": 0.3},
    {"name": "s3rec", "max_length": 9, "dim": 8, "mlp_dim": 12, "dropout": 0.3},
    {"name": "s3rec", "max_length": 9, "dim": 8, "layers": 1, "stage": "pretrain", "dropout": 0.3},
    {"name": "bpr", "max_length": 9, "dim": 8, "dropout": 0.3},
    {"name": "bpr", "max_length": 9, "dim": 8, "hidden": (12,), "dropout": 0.3},
    {"name": "simplex", "max_length": 9, "dim": 8, "dropout": 0.3},
    {
        "name": "ligr",
        "max_length": 9,
        "dim": 8,
        "mlp_dim": 12,
        "layers": 1,
        "relative": True,
        "cosine": True,
        "repeats": True,
    },
    {
        "name": "ligr",
        "max_length": 9,
        "dim": 8,
        "gated": False,
        "feed_forward": "gelu",
        "layers": 1,
    },
    {"name": "filtered", "max_length": 9, "dim": 8, "mlp_dim": 12, "layers": 1, "repeats": True},
    {
        "name": "filtered",
        "max_length": 8,
        "dim": 8,
        "mlp_dim": 12,
        "layers": 1,
        "filter": "learned",
        "filter_share": 1.0,
    },
    {"name": "wearec", "max_length": 9, "dim": 8, "mlp_dim": 12, "layers": 1, "heads": 2},
    {"name": "hstu", "max_length": 9, "dim": 8, "layers": 1, "positions": "none"},
    {"name": "hstu", "max_length": 9, "dim": 8, "layers": 1, "times": True},
]
ids = [f"{k}-{c['name']}" for k, c in enumerate(CASES)]


def test_all_models_are_here():
    assert {case["name"] for case in CASES} == set(NAMES)


@pytest.mark.parametrize(
    "assertion",
    [getattr(contracts, name) for name in dir(contracts) if name.startswith("assert_")],
    ids=lambda f: f.__name__.removeprefix("assert_"),
)
# Below the other: all assertions of a model stand side by side, in one worker.
@pytest.mark.parametrize("section", CASES, ids=ids)
def test_contract(assertion, section):
    assertion(section)


def test_presets():
    for name in NAMES:
        module = model_module(name)
        for preset, expected in module.PRESETS.items():
            assert read_config({"name": name, "preset": preset})[1] == expected
    config = read_config({"name": "sasrec", "preset": "s3rec-benchmark", "dim": 32})[1]
    assert (config.heads, config.dim) == (2, 32)
    with pytest.raises(InputError, match="no preset 'papr' of sasrec; "):
        read_config({"name": "sasrec", "preset": "papr"})
    with pytest.raises(InputError, match=r"lacks the key 'name' \(gru4rec, caser, .*hstu\)"):
        read_config({"dim": 32})


def test_rows_longer_than_the_window_are_refused():
    import jax.numpy as jnp

    model = contracts.build(CASES[0])
    with pytest.raises(ValueError, match=r"rows of 10 items; the model's max_length is 9"):
        model.encode(jnp.ones((1, 10), jnp.int32))
