"""The head's loss on eight devices: each computes an eighth, of the positions that it holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recjax.data.splits import Spans
from recjax.training.objectives import Objective, ObjectiveConfig
from recjax.training.parallel import make_mesh, shard_batch
from recjax.training.token_loss import label_loss, token_loss

RNG = np.random.default_rng(0)
B, L, D, I = 16, 21, 8, 64  # noqa: E741 - the letters of design.md
H = RNG.standard_normal((B, L, D)).astype(np.float32)
TABLE = RNG.standard_normal((I, D)).astype(np.float32)
TARGETS = RNG.integers(1, I, (B, L)).astype(np.int32)
TARGETS[:, -3:] = 0  # no target
LABELS = np.where(RNG.random((B, L)) < 0.3, TARGETS, -100).astype(np.int32)
LABELS[::2], LABELS[::2, 1:7] = -100, 5  # as many in each two rows
LABELS[1::2, 7:] = -100
SPANS = Spans(np.arange(4), np.arange(4) * 16, np.arange(4) * 16 + 16)


def objective_loss(name, mesh, h, table, targets):
    drawn = {} if name in ("softmax", "mse") else {"negatives": 16}
    config = ObjectiveConfig(name, states_weight=0.5 * (name == "mse"), **drawn)
    objective = Objective(config, np.arange(I) % (I - 1) + 1, SPANS, I, mesh)
    flat = jnp.tanh(h).reshape(-1, D)
    sequences = jnp.broadcast_to(jnp.arange(B)[:, None] % 4, (B, L)).reshape(-1)
    data = jax.tree.map(jnp.asarray, objective.data)
    given = (flat, table, targets.reshape(-1), sequences, data, jax.random.key(0))
    return objective(*given, flat if name == "mse" else None)[0]


def tokens(function, mesh, h, table, labels, **options):
    return function(jnp.tanh(h), table, labels, chunk=16, mesh=mesh, **options)[0]


def answers(mesh, h, table, labels):
    """As an interpreter asks: the places are chosen before."""
    return tokens(label_loss, mesh, h, table, labels)


def budgeted(mesh, h, table, labels):
    return tokens(token_loss, mesh, h, table, labels, budget=128)


LOSSES = {
    "tokens": functools.partial(tokens, token_loss),
    "tokens, budget": budgeted,
    "answers": answers,
    **{
        name: functools.partial(objective_loss, name)
        for name in ("softmax", "mse", "bce", "sampled_softmax", "bpr_max")
    },
}


def compiled(program, name, mesh):
    """Value and gradients of a loss, and its program."""
    labels = LABELS if name.startswith(("tokens", "answers")) else TARGETS
    arrays = H, TABLE, labels
    if mesh is not None:
        rows = shard_batch({"h": H, "labels": labels}, mesh)
        split = NamedSharding(mesh, PartitionSpec(("fsdp", "tensor")))
        arrays = rows["h"], jax.device_put(TABLE, split), rows["labels"]
    function = jax.jit(jax.value_and_grad(functools.partial(LOSSES[name], mesh), (0, 1)))
    return function(*arrays), program(function, *arrays)


@pytest.fixture(scope="module")
def alone():
    """Of one device, by loss."""
    return {}


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        *((name, mesh) for name in LOSSES for mesh in ((8, 1, 1), (1, 8, 1))),
        *((name, (2, 2, 2)) for name in ("softmax", "tokens, budget")),
    ],
    ids=str,
)
def test_each_device_computes_its_share(program, alone, name, mesh):
    """Of the products an eighth. States leave their device only where the table is split over the
    batch's axes: it stays where it is, and a chunk of states is gathered in its place."""
    if name not in alone:
        alone[name] = compiled(program, name, None)
    (expected, gradients), whole = alone[name]
    (value, found), share = compiled(program, name, make_mesh(mesh))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(found, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
    assert 0 < share.flops <= whole.flops / 8 * 1.1
    assert share.gathered <= (TABLE.size if mesh[1] == 1 else H.size)
    assert TABLE.size < H.size / 2


def test_positions_that_do_not_divide_and_those_over_the_budget(program):
    mesh = make_mesh((2, 4, 1))
    h, labels = jnp.asarray(H[:3]), jnp.asarray(LABELS[:3])
    given = h, jnp.asarray(TABLE), labels
    loss = jax.value_and_grad(tokens, argnums=2)
    expected, gradient = loss(label_loss, None, *given)
    found, ours = loss(label_loss, mesh, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4, atol=1e-5)
    short = int((LABELS[:3] >= 0).sum()) - 1
    value, gradient = loss(label_loss, mesh, *given, budget=short)
    assert np.isnan(value) and np.isnan(gradient).any()
