"""SASRec as PyTorch keeps it: the state dicts of pmixer/SASRec.pytorch, in and out.

config, params = load("sasrec.safetensors", variant="2024", heads=1)
save("again.safetensors", config, params)          # the same arrays, byte by byte

Item ids start at 1 there as here, and 0 pads: row i of `item_emb.weight` is item i, so ids must be
in the order of the store that the model is to meet. Names, shapes and formulas were read from that
repository's history; its versions have the same keys and compute different things, which a state
dict does not tell: `variant` does. Facts and licence: third_party/sasrec_pytorch.md.

| variant   | upstream                                | block | padding | else                    |
|-----------|-----------------------------------------|-------|---------|-------------------------|
| 2020-09   | 16 September to 10 October 2020         | query | zero    | no activation           |
| 2020      | until 25 June 2024                      | query | zero    | `pos_emb`: L rows       |
| 2024      | until 21 May 2025                       | query | carried | `pos_emb`: 1 + L rows   |
| 2025-post | since then                              | post  | carried | `pos_emb`: 1 + L rows   |
| 2025-pre  | since then, trained with `--norm_first` | pre   | carried | `pos_emb`: 1 + L rows   |
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.convert.files import read_state, write_state
from recjax.convert.mapping import POINTWISE, TRANSPOSE, Rule, split, to_ours, to_theirs
from recjax.errors import InputError
from recjax.models.definition import define
from recjax.models.sasrec import Config, Recommender

MODEL = "sasrec"  # the name of the model whose weights these are


def _names(kind: str, *names: str) -> tuple[str, ...]:
    return tuple(f"blocks/{{layer}}/attention/{name}/{kind}" for name in names)


# In the order in which upstream's module declares them, which is that of its state dicts.
RULES = (
    Rule("item_emb.weight", "items/embedding"),
    Rule("pos_emb.weight", "positions/embedding"),
    Rule("attention_layernorms.{layer}.weight", "blocks/{layer}/attention_norm/scale"),
    Rule("attention_layernorms.{layer}.bias", "blocks/{layer}/attention_norm/bias"),
    Rule(
        "attention_layers.{layer}.in_proj_weight",
        _names("kernel", "query", "key", "value"),
        split(3, TRANSPOSE),
    ),
    Rule(
        "attention_layers.{layer}.in_proj_bias",
        _names("bias", "query", "key", "value"),
        split(3),
    ),
    Rule("attention_layers.{layer}.out_proj.weight", _names("kernel", "out"), TRANSPOSE),
    Rule("attention_layers.{layer}.out_proj.bias", _names("bias", "out")),
    Rule("forward_layernorms.{layer}.weight", "blocks/{layer}/mlp_norm/scale"),
    Rule("forward_layernorms.{layer}.bias", "blocks/{layer}/mlp_norm/bias"),
    Rule("forward_layers.{layer}.conv1.weight", "blocks/{layer}/up/kernel", POINTWISE),
    Rule("forward_layers.{layer}.conv1.bias", "blocks/{layer}/up/bias"),
    Rule("forward_layers.{layer}.conv2.weight", "blocks/{layer}/down/kernel", POINTWISE),
    Rule("forward_layers.{layer}.conv2.bias", "blocks/{layer}/down/bias"),
    Rule("last_layernorm.weight", "final_norm/scale"),
    Rule("last_layernorm.bias", "final_norm/bias"),
)

_ALL: dict[str, Any] = {"scale_embedding": True, "norm_eps": 1e-8, "activation": "relu"}
# Fields of our Config by upstream's version.
VARIANTS: dict[str, dict[str, Any]] = {
    "2020-09": _ALL | {"block": "query", "padding": "zero", "activation": "none"},
    "2020": _ALL | {"block": "query", "padding": "zero"},
    "2024": _ALL | {"block": "query", "padding": "carried"},
    "2025-post": _ALL | {"block": "post", "padding": "carried"},
    "2025-pre": _ALL | {"block": "pre", "padding": "carried"},
}


def load(
    path: str | Path, *, variant: str, heads: int = 1, base: Config | None = None
) -> tuple[Config, dict[str, np.ndarray]]:
    """A public SASRec as our config and parameters.

    Args:
        path: `.safetensors`, `.npz`, or `.pt`/`.pth` where torch is installed.
        variant: one of `VARIANTS`: the version of the code that trained it.
        heads: N of the training (`--num_heads`); a state dict does not tell.
        base: gives `dropout` and `init_std`, which a state dict does not tell either.

    Returns:
        The config, and the parameters by path: `items/embedding` is [I D].

    Raises:
        InputError: naming the file, the key and what was expected.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant '{variant}': unknown; {nearest(variant, VARIANTS)}")
    state = read_state(path)
    fields = VARIANTS[variant]
    (n_items, dim), (rows, _) = (_matrix(state, k, path) for k in ("item_emb", "pos_emb"))
    if fields["padding"] == "carried":
        rows -= 1
    elif not state["pos_emb.weight"][0].any():
        later = [name for name, other in VARIANTS.items() if other["padding"] == "carried"]
        raise InputError(
            f"{path}: row 0 of 'pos_emb.weight' is zero, as in the variants {', '.join(later)}; "
            f"expected the first position there (variant {variant})"
        )
    layers = {m[1] for key in state if (m := re.match(r"(?:attention|forward)_\w+\.(\d+)\.", key))}
    if heads < 1 or dim % heads:
        raise InputError(
            f"{path}: 'item_emb.weight' is {dim} wide, which {heads} heads do not divide"
        )
    sizes = {"dim": dim, "mlp_dim": dim, "layers": max(1, len(layers)), "max_length": rows}
    try:
        config = dataclasses.replace(base or Config(), heads=heads, **(fields | sizes))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    shapes = define(lambda rngs: Recommender(config, n_items, rngs=rngs)).shapes
    return config, to_ours(RULES, state, shapes, str(path))


def save(
    path: str | Path, config: Config, params: Mapping[str, Any], *, overwrite: bool = False
) -> str:
    """Writes a SASRec in the public layout.

    Args:
        path: `.safetensors` or `.npz`.
        config: the model's.
        params: arrays by path.
        overwrite: replace a file.

    Returns:
        The variant of the public code that computes what this model computes.

    Raises:
        InputError: no version of the public code does, or the file cannot be written.
    """
    variant = _variant(config, path)
    write_state(path, to_theirs(RULES, params), overwrite=overwrite)
    return variant


def _matrix(state: Mapping[str, np.ndarray], name: str, path: str | Path) -> tuple[int, ...]:
    """The shape of an embedding."""
    key = f"{name}.weight"
    if key not in state:
        raise InputError(
            f"{path}: lacks the key '{key}'; expected a state dict of pmixer/SASRec.pytorch"
        )
    shape = state[key].shape
    if state[key].dtype != np.float32:
        raise InputError(f"{path}: '{key}' is {state[key].dtype}, expected float32")
    if len(shape) != 2 or min(shape) < 2:
        raise InputError(f"{path}: '{key}' has shape {shape}, expected two rows or more [rows D]")
    return shape


def _variant(config: Config, path: str | Path) -> str:
    wrong = {
        name: [
            f"{field} {getattr(config, field)} (expected {value})"
            for field, value in {**fields, "mlp_dim": config.dim}.items()
            if getattr(config, field) != value
        ]
        for name, fields in VARIANTS.items()
    }
    best = min(wrong, key=lambda name: len(wrong[name]))
    if wrong[best]:
        raise InputError(
            f"{path}: no version of pmixer/SASRec.pytorch computes what this model does; the "
            f"nearest is {best}: {', '.join(wrong[best])}"
        )
    return best
