"""Every family of models: a step's loss and gradients are the same on every mesh, tables stay where
they are, and each device does its share."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.config import build
from recjax.models.definition import define, params_of
from recjax.models.language import FAMILIES, find_family
from recjax.models.recommender import model_module
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.sharded import RULES, placing
from recjax.training import parallel
from recjax.training.freezing import FULL, LORA, split_params
from recjax.training.hlo import Program
from recjax.training.recommender import RecommenderRun, RunConfig
from recjax.training.token_loss import token_loss

MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4))
ALONE = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.MESH_AXES)
V, T, B = 72, 12, 8
TOKENS = np.random.default_rng(0).integers(1, V, (B, T)).astype(np.int32)
SIZES = {
    "dim": 32, "mlp_dim": 128, "layers": 2, "heads": 8, "kv_heads": 8, "head_dim": 4,
    "vocab_size": V, "init_std": 0.3, "max_length": 32,
}  # fmt: skip


class Step:
    """A loss with its parameters and a batch, on a mesh.

    Attributes:
        learning, frozen: parameters on the devices, by path.
        step: `(learning, frozen, batch) -> (mean loss, gradients)`.
    """

    def __init__(self, loss, params, axes, batch, mesh, rules=FULL, given=RULES):
        shardings = parallel.param_shardings(params, parallel.ruled(axes, given), mesh)
        placed = {path: jax.device_put(a, shardings[path]) for path, a in params.items()}
        self.learning, self.frozen = split_params(placed, rules)
        self.batch = parallel.shard_batch(batch, mesh)

        def step(learning, frozen, batch):
            def mean(learning):
                with placing(mesh, given):
                    total, weight = loss({**frozen, **learning}, batch)
                return total / weight

            return jax.value_and_grad(mean)(learning)

        out = {path: shardings[path] for path in self.learning}
        self.step = jax.jit(step, out_shardings=(parallel.replicated(mesh), out))

    @property
    def args(self):
        return self.step, self.learning, self.frozen, self.batch


def of_recommender(name, objective, store, mesh, given=RULES):
    fields = model_module(name).Config.__dataclass_fields__
    off = {field: 0.0 for field in fields if "dropout" in field}
    # Depth is SASRec's to show.
    one = {"layers": 1} if "layers" in fields and name != "sasrec" else {}

    def run_on(mesh, rows):
        section = {
            "data": {"source": "simulated", "store": str(store.path)},
            "model": {"name": name, "max_length": 16, "dim": 16, **off, **one},
            "objective": {"name": objective},
            "train": {"batch_size": 32},
        }
        run = RecommenderRun(build(RunConfig, section, "config"), store)
        run.mesh, run.rows = mesh, rows
        return run

    # The rows of eight devices, whatever the mesh.
    batch = {k: v[0] for k, v in run_on(parallel.make_mesh(), store.n_items).batches(0).items()}
    run = run_on(mesh, parallel.whole_rows(store.n_items, "items", mesh, given))
    run.__dict__.pop("model", None)
    data = run.data
    params = params_of(run.build(nnx.Rngs(params=jax.random.key(0))))
    return Step(
        lambda params, batch: run.loss_fn(params, batch, data, jax.random.key(1)),
        {path: np.asarray(a) for path, a in params.items()}, run.axes, batch, mesh, given=given,
    )  # fmt: skip


def of_language_model(name, train, mesh, given=RULES):
    family = find_family(name, "name")
    known = family.config.__dataclass_fields__
    config = family.config(**{k: v for k, v in SIZES.items() if k in known})

    def module(rngs):
        model = family.build(config, rngs=rngs)
        if train == "lora":
            add_lora(model, LoRAConfig(4, targets=family.lora_targets), rngs)
        return model

    definition, rng = define(module), np.random.default_rng(1)
    params = {p: np.asarray(a) for p, a in params_of(module(nnx.Rngs(0))).items()}
    for path in [p for p in params if p.endswith("lora/b")]:  # else A has no gradient
        params[path] = rng.normal(size=params[path].shape).astype(np.float32) * 0.1

    def loss(params, batch):
        model, tokens = definition.merge(params), batch["tokens"]
        segments = jnp.ones(tokens.shape, jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(T), tokens.shape)
        reading = model.reading(segments, segments > 0, positions)
        h = model.hidden(model.embed(tokens), **reading)[0]
        return token_loss(h, model.head_table(), tokens, mesh=mesh)

    rules = LORA if train == "lora" else FULL
    return Step(loss, params, family.axes, {"tokens": TOKENS}, mesh, rules, given)


RECOMMENDERS = {
    "sasrec": "softmax", "gru4rec": "bpr_max", "caser": "bce", "bert4rec": "softmax",
    "dreamrec": "mse",
}  # fmt: skip
CASES = [*RECOMMENDERS, *(f"{name} {train}" for name in FAMILIES for train in ("full", "lora"))]


def make(case, store, mesh, given=RULES):
    if case in RECOMMENDERS:
        return of_recommender(case, RECOMMENDERS[case], store, mesh, given)
    return of_language_model(*case.split(), mesh, given)


def same(ours, theirs):
    """Two steps' losses and gradients; one of them may have rows of padding."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    for path, gradient in theirs[1].items():
        a, b = np.asarray(ours[1][path]), np.asarray(gradient)
        size = np.abs(b).max() + 1e-3
        np.testing.assert_allclose(a[: len(b)], b, atol=1e-5 * size, rtol=1e-5, err_msg=path)
        assert not a[len(b) :].any(), path


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_one_device(sample_store, case):
    expected = make(case, sample_store, ALONE)
    theirs = expected.step(*expected.args[1:])
    # The meshes of the most axes say most; the others for the two that are used most. A language
    # model trains whole on one of them and by LoRA on the other.
    shapes = {"full": MESHES[2:3], "lora": MESHES[3:]}.get(case.partition(" ")[2], MESHES[2:])
    for shape in MESHES if case in ("sasrec", "llama full") else shapes:
        step = make(case, sample_store, parallel.make_mesh(shape))
        same(step.step(*step.args[1:]), theirs)


def gathers(compiled):
    """Shapes that are gathered from several devices."""
    lines = re.findall(r" = (.*?) all-gather(?:-start)?\(", compiled.as_text())
    shapes = [shape for line in lines for shape in re.findall(r"\w+\[([\d,]*)\]", line)]
    return {tuple(int(n) for n in shape.split(",") if n) for shape in shapes}


@pytest.fixture(scope="module")
def alone_flops(sample_store):
    """`alone_flops(case)` of the step on one device, compiled once a case."""

    @functools.cache
    def flops(case):
        step, *given = make(case, sample_store, ALONE).args
        return Program(step.lower(*given).compile()).flops

    return flops


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2), (1, 2, 4)], ids=str)
@pytest.mark.parametrize("case", ["sasrec", "llama full"])
def test_tables_stay_where_they_are_and_work_is_shared(sample_store, alone_flops, case, shape):
    """No table is gathered; of the products of one device each of eight does an eighth."""
    step = make(case, sample_store, parallel.make_mesh(shape))
    table = next(a for p, a in step.learning.items() if p.endswith("embedding") and len(a) > 60)
    assert table.sharding.shard_shape(table.shape)[0] == len(table) / (shape[1] * shape[2])
    compiled = step.step.lower(*step.args[1:]).compile()
    for size in gathers(compiled):
        assert len(table) not in size, f"a table of {table.shape} is gathered: {size}"
    share = Program(compiled).flops
    alone = alone_flops(case)
    # SASRec's layers are split over data and fsdp only.
    parts = 8 if case != "sasrec" or shape[2] == 1 else shape[0] * shape[1]
    assert 0 < share <= alone / parts * 1.25


GOLDEN = {
    "sasrec": {
        "items/embedding": (("fsdp", "tensor"), None), "blocks/0/up/kernel": (None, "tensor"),
        "blocks/0/down/kernel": ("tensor", None), "final_norm/scale": (None,),
    },
    "llama": {
        "embedding": (("fsdp", "tensor"), None), "head/kernel": ("fsdp", "tensor"),
        "layers/attention/query/kernel": (None, "fsdp", "tensor"),
        "layers/attention/query/lora/a": (None, "fsdp", None),
        "layers/attention/query/lora/b": (None, None, "tensor"),
        "layers/attention/out/kernel": (None, "tensor", "fsdp"),
        "layers/gate/kernel": (None, "fsdp", "tensor"),
        "layers/down/kernel": (None, "tensor", "fsdp"), "layers/mlp_norm/scale": (None, None),
    },
    "glm": {
        "embedding": (("fsdp", "tensor"), None),
        "layers/query_key_value/kernel": (None, "fsdp", "tensor"),
        "layers/query_key_value/bias": (None, "tensor"),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_tables(sample_store, name):
    """How parameters are split on a mesh of 2x2x2."""
    mesh = parallel.make_mesh((2, 2, 2))
    step = make(name if name in RECOMMENDERS else f"{name} lora", sample_store, mesh)
    placed = {**step.learning, **step.frozen}
    for path, spec in GOLDEN[name].items():
        found = tuple(placed[path].sharding.spec)
        assert found + (None,) * (placed[path].ndim - len(found)) == spec, path


def test_a_config_changes_the_rules(sample_store):
    """A table over one axis, activations over another; the numbers stay."""
    alone = make("llama full", sample_store, ALONE)
    given = {**RULES, "vocab": (), "mlp": ("fsdp", "tensor"), "length": ("tensor",)}
    step = make("llama full", sample_store, parallel.make_mesh((2, 2, 2)), given)
    assert step.learning["embedding"].sharding.spec[0] is None
    assert step.learning["layers/down/kernel"].sharding.spec[1] == ("fsdp", "tensor")
    same(step.step(*step.args[1:]), alone.step(*alone.args[1:]))


def test_long_contexts_are_split_between_layers(sample_store):
    """The scan over layers carries a part of each row's positions."""
    mesh = parallel.make_mesh((2, 1, 4))
    text = {}
    for length in ((), ("tensor",)):
        step = make("llama full", sample_store, mesh, {**RULES, "length": length})
        text[length] = step.step.lower(*step.args[1:]).compile().as_text()
    kept = f"f32[2,{B // 2},{T // 4},32]"  # [layers B T E] of a device, for the backward pass
    assert kept in text[("tensor",)] and kept not in text[()]
