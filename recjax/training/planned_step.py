"""A training step of a language model over abstract arrays: `plan` counts and compiles it.

step = planned_step(config, batch=8, length=512, train="lora", dtype="bfloat16")
steps, arguments = step.lowerable(make_mesh((1, 1, 1)))
steps.lower(*arguments).compile()
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.convert.forms import DTYPES
from recjax.errors import InputError
from recjax.models.definition import ModelDef, define
from recjax.models.language import family_for
from recjax.nn.lora import MOST_RANK, LoRAConfig, add_lora
from recjax.nn.narrow import Form
from recjax.nn.quant import quantize
from recjax.nn.soft import place_soft
from recjax.sharded import placing
from recjax.training.compiled import stacked_step
from recjax.training.freezing import FULL, LORA, Rules, split_params
from recjax.training.optim import OptimConfig, frozen_by, make_optimizer
from recjax.training.parallel import AxisRules
from recjax.training.step import as_dtype
from recjax.training.token_loss import token_loss

MOST = 1 << 20  # tokens of a row, devices along an axis, rows of a device
READ = "none"  # in the place of what is trained
# A recommender's states [D] become soft tokens by one linear map; so many a row.
_ADAPTER, _WIDTH, _SOFT = "adapter/kernel", 64, 10
_RULES: dict[str, Rules] = {
    "adapter": ((r"adapter/.*", "trained"), (r".*", "frozen")),
    "lora": LORA,
    "full": FULL,
}


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step of training, or a model to read with.

    Attributes:
        definition: the model's, with its adapters, quantised where that was asked.
        parameters: how many there are, before they are quantised.
        trained, frozen: abstract arrays by path; without training all are frozen.
        axes: the model's, and the adapter's.
        optimizer: of the trained ones.
        batch, length: of the tokens [B T].
        train, dtype: see `planned_step`.
    """

    definition: ModelDef
    parameters: int
    trained: Mapping[str, Any]
    frozen: Mapping[str, Any]
    axes: AxisRules
    optimizer: Any
    batch: int
    length: int
    train: str
    dtype: str

    @property
    def params(self) -> dict[str, Any]:
        """All parameters by path, abstract."""
        return {**self.frozen, **self.trained}

    @property
    def inputs(self) -> tuple[Any, Any]:
        """Tokens and a recommender's states, abstract."""
        return (
            jax.ShapeDtypeStruct((self.batch, self.length), jnp.int32),
            jax.ShapeDtypeStruct((self.batch, _SOFT, _WIDTH), jnp.float32),
        )

    def loss(self, devices: jax.sharding.Mesh | None = None) -> Callable[..., Any]:
        """`(trained, frozen, tokens, states) -> mean`, of a mesh's devices or of one."""

        def loss(trained: Any, frozen: Any, tokens: Any, states: Any) -> Any:
            with placing(devices):
                return placed(trained, frozen, tokens, states)

        def placed(trained: Any, frozen: Any, tokens: Any, states: Any) -> Any:
            h = self.hidden(trained, frozen, tokens, states)
            table = self._model({**frozen, **trained}).head_table()
            total, weight = token_loss(h, table, tokens, mesh=devices)
            return total / weight

        return loss

    def hidden(self, trained: Any, frozen: Any, tokens: Any, states: Any) -> Any:
        """The model's final states [B T E]."""
        params = {**frozen, **trained}
        model = self._model(params)
        h = model.embed(tokens)
        if self.train == "adapter":
            is_soft = jnp.arange(self.length)[None] < min(_SOFT, self.length)
            is_soft = jnp.broadcast_to(is_soft, tokens.shape)
            h = place_soft(h, is_soft, states @ params[_ADAPTER])
        return model.hidden(h)[0]

    def _model(self, params: dict[str, Any]) -> Any:
        """The model as a step computes with it."""
        return self.definition.merge(
            as_dtype(params, self.dtype) if self.train == "full" else params
        )

    def lowerable(self, devices: jax.sharding.Mesh) -> tuple[Any, tuple]:
        """The jitted step, and its arguments as abstract arrays that lie on a mesh."""
        return stacked_step(
            self.loss(devices), self.optimizer, self.trained, self.frozen, self.inputs, self.axes,
            devices,
        )  # fmt: skip


def planned_step(
    config: Any,
    *,
    batch: int = 8,
    length: int = 512,
    train: str = "full",
    dtype: str = "float32",
    rank: int = 8,
    lora: LoRAConfig | None = None,
    quant: str | None = None,
    optim: OptimConfig | None = None,
) -> PlannedStep:
    """The step that `make_plan` counts; allocates nothing.

    Args:
        config, batch, length, train, dtype, rank, lora, quant, optim: see `make_plan`.

    Raises:
        InputError: as there.
    """
    if train not in (*_RULES, READ):
        raise InputError(f"train '{train}': expected one of {', '.join((*_RULES, READ))}")
    if quant not in (None, "int8", "nf4"):
        raise InputError(f"quant '{quant}': expected int8 or nf4")
    if quant and train == "full":
        raise InputError(f"quant {quant}: expected nothing where all parameters are trained")
    if dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}': expected one of {', '.join(DTYPES)}")
    if not 1 <= rank <= MOST_RANK:
        raise InputError(f"rank {rank}: expected 1 to {MOST_RANK:,}")
    if not 2 <= length <= MOST:
        raise InputError(f"length {length}: expected 2 to {MOST:,}")
    family = family_for(config)
    adapters = lora or LoRAConfig(rank, targets=family.lora_targets)

    # What is trained stays in float32; `config.train.dtype` casts it in each step.
    kept = "float32" if train == "full" else dtype

    def module(rngs: nnx.Rngs) -> Any:
        model = family.build(config, rngs=rngs, dtype=jnp.dtype(kept))
        return add_lora(model, adapters, rngs) if train == "lora" else model

    def stored(rngs: nnx.Rngs) -> Any:
        return quantize(module(rngs), cast(Form, quant)) if quant else module(rngs)

    definition = define(stored)
    unquantized, params = definition.shapes, dict(definition.shapes)
    if quant:
        unquantized = define(module).shapes
    parameters = sum(leaf.size for leaf in unquantized.values())
    if train == "adapter":
        params[_ADAPTER] = jax.ShapeDtypeStruct((_WIDTH, config.dim), jnp.float32)
        parameters += params[_ADAPTER].size
    trained, frozen = ({}, params) if train == READ else split_params(params, _RULES[train])
    optim = optim or OptimConfig()
    frozen |= {path: trained.pop(path) for path in frozen_by(optim, trained)}
    axes = (*family.axes, (_ADAPTER, (None, "embed")))
    optimizer = make_optimizer(optim, 1)
    return PlannedStep(
        definition, parameters, trained, frozen, axes, optimizer, batch, length, train, dtype
    )
