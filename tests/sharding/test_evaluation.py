"""Evaluation on eight devices measures what one measures; each has an eighth of the examples."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.config import build
from recjax.data.requests import read_request
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.evaluation.pairs import PairEvaluator
from recjax.evaluation.shards import split_batch
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.nn.masks import make_mask
from recjax.text.pairs import Row
from recjax.training import parallel
from recjax.training.recommender import RecommenderRun, RunConfig
from recjax.training.token_loss import token_likelihood

SMALL = {"dreamrec": {"layers": 1, "steps": 50, "schedule": "cosine"}}


def make_run(store, mesh, model, packed):
    section = {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": {"name": model, "max_length": 20, "dim": 16, **SMALL.get(model, {})},
        "train": {"mesh": mesh, "packed": packed},
        # 50 and 20 examples, which eight devices do not divide.
        "evaluation": {
            "batch_size": 50, "item_chunk": 50, "max_examples": 70, "cutoffs": (1, 5),
            "protocols": ("full", "full_with_seen", "uni100"),
        },
    }  # fmt: skip
    return RecommenderRun(build(RunConfig, section, "config"), store)


def one_device(measuring):
    """The same evaluator, or maker of lists, of one device."""
    table = {"table": None} if hasattr(measuring, "table") else {}
    return dataclasses.replace(measuring, sharding=None, **table)


def same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


@pytest.mark.parametrize(
    ("mesh", "model", "packed"),
    [
        ((8, 1, 1), "sasrec", True),
        ((1, 8, 1), "sasrec", False),
        ((2, 2, 2), "caser", True),
        ((8, 1, 1), "dreamrec", True),
    ],
    ids=str,
)
def test_recommenders(sample_store, program, mesh, model, packed):
    run = make_run(sample_store, mesh, model, packed)
    params = run.init_state().params
    host = jax.tree.map(np.asarray, params)
    ours = run.evaluator("test")
    alone = one_device(ours)
    same(ours.measure(params).values, alone.measure(host).values)
    same(ours.run(params), alone.run(host))

    def cost(evaluator, params):
        batch = evaluator._batch(0)
        del batch["weights"], batch["examples"]
        placed = split_batch(batch, evaluator.sharding)
        sizes = {len(a.addressable_shards[0].data) for a in (placed["targets"], placed["ids"])}
        options = {"lists": ("full", "full_with_seen"), "sampled": True}
        return program(evaluator._ranks[0], params, placed, **options), max(sizes)

    (share, mine), (whole, all_of_them) = cost(ours, params), cost(alone, host)
    shards = parallel.data_size(run.mesh)
    assert mine <= -(-50 // shards) < all_of_them
    # A few examples fill rows less well; DreamRec's steps have a product for all examples.
    most = {"dreamrec": 1.7}.get(model, 1.3)
    assert 0 < share.flops <= whole.flops / shards * most
    assert share.gathered < 50 * sample_store.n_items / 2, "scores leave their device"
    request = read_request(
        sample_store, None, [sample_store.catalog[k]["key"] for k in range(5, 60)]
    )
    lists = list(run.lists.stream(params, request, 7))
    same(lists, list(one_device(run.lists).stream(host, request, 7)))


LLAMA = Config(
    vocab_size=320, dim=16, mlp_dim=24, layers=1, heads=8, kv_heads=8, head_dim=4, init_std=0.3
)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1)], ids=str)
def test_language_models(program, mesh):
    mesh = parallel.make_mesh(mesh)
    definition = define(lambda rngs: Llama(LLAMA, rngs=rngs))
    host = {k: np.asarray(v) for k, v in params_of(Llama(LLAMA, rngs=nnx.Rngs(0))).items()}
    shardings = parallel.param_shardings(definition.shapes, PARAM_AXES, mesh)
    params = {path: jax.device_put(a, shardings[path]) for path, a in host.items()}
    rng = np.random.default_rng(0)
    rows = [
        Row(rng.integers(0, 320, n).astype(np.int32), int(rng.integers(1, n)))
        for n in rng.integers(30, 250, 130)
    ]

    def predict(params, batch):
        model = definition.merge(params)
        mask = make_mask(batch["segments"] > 0, 1, batch["segments"])
        h, _ = model.hidden(batch["tokens"], positions=batch["positions"], mask=mask)
        return token_likelihood(h, batch, model.logits)

    ours = PairEvaluator(
        LikelihoodConfig(batch_size=100), "test", rows, 256, predict,
        sharding=parallel.batch_sharding(mesh),
    )  # fmt: skip
    alone = one_device(ours)
    same(ours.run(params), alone.run(host))

    def cost(evaluator, params):
        inputs = {
            k: v for k, v in evaluator._batches[0].items() if k not in ("labels", "documents")
        }
        placed = split_batch(inputs, evaluator.sharding)
        return program(evaluator._predict, params, placed), placed["tokens"].shape

    (share, shape), (whole, one) = cost(ours, params), cost(alone, host)
    assert shape[0] % 8 == 0 and shape[0] < one[0] + 8
    assert 0 < share.flops <= whole.flops / 8 * 1.2
    if mesh.shape["data"] == 8:  # else the layers' products gather what suits them
        assert share.gathered <= LLAMA.vocab_size * LLAMA.dim
