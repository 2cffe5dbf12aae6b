"""Training with a frozen LLaMA follows PyTorch's loss curve (`tests/data/make_training_torch.py`).

The golden curves are of torch 2.15, transformers 5.23 and peft 0.21; where these are installed
(extra `torch`), fresh ones are made and followed too.
"""

import dataclasses
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from recjax.models.definition import define
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.nn.soft import place_soft
from recjax.training.freezing import LORA, split_params, with_frozen
from recjax.training.optim import OptimConfig, make_optimizer
from recjax.training.parallel import MESH_AXES
from recjax.training.state import state_of
from recjax.training.step import make_steps
from recjax.training.token_loss import token_loss

DATA = Path(__file__).parent.parent / "data"
TOLERANCE = 1e-4
CONFIG = Config(
    vocab_size=61, dim=32, mlp_dim=48, layers=3, heads=4, kv_heads=2, head_dim=8, norm_eps=1e-5,
    rope_theta=500.0, max_length=64,
)  # fmt: skip
EVERY_LINEAR = (r"layers/(attention/.*|gate|up|down)",)
ADAPTED = LoRAConfig(rank=8, alpha=24.0, targets=EVERY_LINEAR)
RATE = 5e-3
ADAPTER = ((r"adapter/.*", "trained"), (r".*", "frozen"))

PLACES = {
    "self_attn.q_proj": "attention/query/kernel",
    "self_attn.k_proj": "attention/key/kernel",
    "self_attn.v_proj": "attention/value/kernel",
    "self_attn.o_proj": "attention/out/kernel",
    "mlp.gate_proj": "gate/kernel",
    "mlp.up_proj": "up/kernel",
    "mlp.down_proj": "down/kernel",
    "input_layernorm": "attention_norm/scale",
    "post_attention_layernorm": "mlp_norm/scale",
}


@pytest.fixture(scope="session", params=["golden", "live"])
def torch_run(request):
    """Weights, batches and curves of a PyTorch run."""
    if request.param == "golden":
        return dict(np.load(DATA / "training_torch.npz"))
    for library in ("torch", "transformers", "peft"):
        pytest.importorskip(library, reason=f"{library} is not installed: only golden curves")
    spec = importlib.util.spec_from_file_location("maker", DATA / "make_training_torch.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker.curves(seed=1)


def base_params(run):
    def stacked(name, of="base/model.layers.{}.{}.weight"):
        values = np.stack([run[of.format(n, name)] for n in range(CONFIG.layers)])
        return jnp.array(values.mT if values.ndim == 3 else values)

    out = {f"layers/{path}": stacked(name) for name, path in PLACES.items()}
    out["embedding"] = jnp.array(run["base/model.embed_tokens.weight"])
    out["final_norm/scale"] = jnp.array(run["base/model.norm.weight"])
    out["head/kernel"] = jnp.array(run["base/lm_head.weight"].T)
    return out


def lora_params(run):
    found = {}
    for key, value in run.items():
        pattern = r"lora/base_model\.model\.model\.layers\.(\d+)\.(.*)\.lora_([AB])\..*"
        if match := re.fullmatch(pattern, key):
            path = PLACES[match[2]].removesuffix("kernel")
            layers = found.setdefault(f"layers/{path}lora/{match[3].lower()}", {})
            layers[int(match[1])] = value.T
    assert found, "peft's names have changed"
    return {path: jnp.array(np.stack([v[n] for n in sorted(v)])) for path, v in found.items()}


def follow(run, kind, *, lora=ADAPTED, optim=None, config=CONFIG, masked=True, shifted=False):
    """Our loss curve of the same training."""
    params = base_params(run)
    if kind == "lora":
        params |= lora_params(run)
        definition = define(lambda rngs: add_lora(Llama(config, rngs=rngs), lora, rngs))
    else:
        params |= {
            "adapter/kernel": jnp.array(run["adapter/weight"].T),
            "adapter/bias": jnp.array(run["adapter/bias"]),
        }
        definition = define(lambda rngs: Llama(config, rngs=rngs))
    batches = {key[6:]: jnp.array(v) for key, v in run.items() if key.startswith("batch/")}
    steps, rows = batches["tokens"].shape[:2]
    places = batches.pop("is_soft")
    batches["is_soft"] = jnp.broadcast_to(places, (steps, rows, len(places)))
    if shifted:
        batches["labels"] = jnp.roll(batches["labels"], -1, axis=-1)

    def loss(params, batch, data, key):
        model = definition.merge(params)
        x = model.embed(batch["tokens"])
        if kind == "adapter":
            soft = batch["vectors"] @ params["adapter/kernel"] + params["adapter/bias"]
            x = place_soft(x, batch["is_soft"], soft[:, None])
        h, _ = model.hidden(x, mask=batch["mask"] if masked else None)
        return token_loss(h, model.head_table(), batch["labels"], budget=5 * rows, chunk=7)

    if optim is None:  # torch.optim.Adam's and AdamW's defaults
        optim = OptimConfig(learning_rate=RATE, weight_decay=0.01 if kind == "lora" else 0.0)
    optimizer = make_optimizer(optim, 1)
    trained, frozen = split_params(params, LORA if kind == "lora" else ADAPTER)
    axes = (*PARAM_AXES, (r"adapter/.*", (None,)))
    mesh = jax.make_mesh((1, 1, 1), MESH_AXES, (AxisType.Auto,) * 3, devices=jax.devices()[:1])
    state = state_of(trained, optimizer, axes, mesh)
    with jax.default_matmul_precision("highest"):
        train = make_steps(with_frozen(loss), optimizer)
        _, metrics = train(state, batches, (frozen, None), jax.random.key(0))
    return np.asarray(metrics["loss"])


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_curve(torch_run, kind):
    expected = torch_run[f"curve/{kind}"]
    assert np.ptp(expected) > 0.5, "a curve that hardly moves tests nothing"
    np.testing.assert_allclose(follow(torch_run, kind), expected, atol=TOLERANCE, rtol=0)


LORA_MUTATIONS = {
    "alpha / r": {"lora": dataclasses.replace(ADAPTED, alpha=8.0)},
    "rate": {"optim": OptimConfig(learning_rate=1.02 * RATE, weight_decay=0.01)},
    "decay": {"optim": OptimConfig(learning_rate=RATE)},
    "eps of the optimiser": {"optim": OptimConfig(learning_rate=RATE, weight_decay=0.01, eps=1e-6)},
    "b2": {"optim": OptimConfig(learning_rate=RATE, weight_decay=0.01, b2=0.98)},
    "theta": {"config": dataclasses.replace(CONFIG, rope_theta=600.0)},
    "eps": {"config": dataclasses.replace(CONFIG, norm_eps=1e-4)},
    "padding": {"masked": False},
    "labels": {"shifted": True},
}
ADAPTER_MUTATIONS = {
    "rate": {"optim": OptimConfig(learning_rate=1.02 * RATE)},
    "b1": {"optim": OptimConfig(learning_rate=RATE, b1=0.91)},
    "padding": {"masked": False},
}
MUTATIONS = [("lora", name, change) for name, change in LORA_MUTATIONS.items()]
MUTATIONS += [("adapter", name, change) for name, change in ADAPTER_MUTATIONS.items()]


@pytest.mark.parametrize(("kind", "name", "change"), MUTATIONS, ids=lambda v: str(v)[:24])
def test_another_training_has_another_curve(kind, name, change):
    """The tolerance tells the right formula from its neighbours."""
    run = dict(np.load(DATA / "training_torch.npz"))
    difference = np.abs(follow(run, kind, **change) - run[f"curve/{kind}"]).max()
    assert difference > 2 * TOLERANCE, name
