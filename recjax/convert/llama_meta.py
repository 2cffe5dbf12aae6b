"""LLaMA as Meta publishes it: `params.json` and `consolidated.00.pth`, a file a parallel part.

config, rules, state = read("Llama-2-7b")
write("FOLDER", config, params)           # params.json, consolidated.00.safetensors

`.pth` is read by torch, where it is installed (see `files`); `.safetensors` under the same names
needs none. karpathy/llama2.c has the same names. Meta rotates the pairs (2j, 2j+1) of a head where
Hugging Face and we rotate (j, j + H/2), so the rows of queries and keys are in another order.

`params.json` does not tell all. The context is that of the release the rest points to: 131,072 with
scaled RoPE, 8,192 with another theta, 4,096 or 2,048 by the norms' epsilon. Scaled RoPE divides by
32 in LLaMA 3.2's 1B and 3B, else by 8, unless `rope_scaling_factor` says it.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.convert.files import read_state
from recjax.convert.mapping import TRANSPOSE, Rule, Transform
from recjax.convert.tensors import (
    Tensor,
    joined,
    read_file,
    same,
    tensor_of,
    write_file,
)
from recjax.convert.values import of_field, positive
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.models.llama import Config
from recjax.nn.positions import RopeScaling
from recjax.ranges import FieldError

PARAMS = "params.json"
_EMBEDDING, _HEAD = "tok_embeddings.weight", "output.weight"
# Which axis is split over the parts; that of the embedding is told by its shape.
_SPLIT = {
    **dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0),
    **dict.fromkeys(("wo", "w2"), 1),
}
_KNOWN = (
    "dim n_layers n_heads n_kv_heads vocab_size norm_eps rope_theta use_scaled_rope "
    "rope_scaling_factor multiple_of ffn_dim_multiplier max_seq_len max_batch_size"
)
_KINDS: dict[str, type] = {
    **dict.fromkeys(("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"), int),
    **dict.fromkeys(("norm_eps", "rope_theta", "rope_scaling_factor"), float),
    "use_scaled_rope": bool,
}
_KEYS = {
    "dim": "dim", "layers": "n_layers", "heads": "n_heads", "kv_heads": "n_kv_heads",
    "max_length": "max_seq_len", "norm_eps": "norm_eps", "rope_theta": "rope_theta",
    "factor": "rope_scaling_factor",
}  # fmt: skip
_CONTEXT = 8192  # of LLaMA 3's pre-training, before its RoPE was scaled
_THETA = 10000.0


def rules(config: Config) -> tuple[Rule, ...]:
    """The names, in the order in which Meta's module declares them."""
    query, key = _rotary(config.heads), _rotary(config.kv_heads)
    return (
        Rule(_EMBEDDING, "embedding"),
        Rule("layers.{layer}.attention.wq.weight", "layers/attention/query/kernel", query),
        Rule("layers.{layer}.attention.wk.weight", "layers/attention/key/kernel", key),
        Rule("layers.{layer}.attention.wv.weight", "layers/attention/value/kernel", TRANSPOSE),
        Rule("layers.{layer}.attention.wo.weight", "layers/attention/out/kernel", TRANSPOSE),
        Rule("layers.{layer}.feed_forward.w1.weight", "layers/gate/kernel", TRANSPOSE),
        Rule("layers.{layer}.feed_forward.w2.weight", "layers/down/kernel", TRANSPOSE),
        Rule("layers.{layer}.feed_forward.w3.weight", "layers/up/kernel", TRANSPOSE),
        Rule("layers.{layer}.attention_norm.weight", "layers/attention_norm/scale"),
        Rule("layers.{layer}.ffn_norm.weight", "layers/mlp_norm/scale"),
        Rule("norm.weight", "final_norm/scale"),
        Rule(_HEAD, "head/kernel", TRANSPOSE),
    )


def _rotary(heads: int) -> Transform:
    """Rows of interleaved pairs [heads H/2 2] <-> of halves [heads 2 H/2], transposed."""

    def regrouped(a: np.ndarray, *groups: int) -> np.ndarray:
        return a.reshape(heads, *groups, a.shape[-1]).swapaxes(1, 2).reshape(a.shape)

    return Transform(
        lambda a: (regrouped(a, -1, 2).T,),
        lambda a: regrouped(a.T, 2, -1),
        lambda shape: shape[::-1],
    )


def read(folder: Path) -> tuple[Config, tuple[Rule, ...], dict[str, Tensor]]:
    """Config, rules and tensors of a folder in Meta's form.

    Raises:
        InputError: naming the file, the key and what was expected.
    """
    values = read_object(folder / PARAMS)
    where = str(folder / PARAMS)
    known = _KNOWN.split()
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'; {nearest(key, known)}")
    missing = [key for key in ("dim", "n_layers", "n_heads", "norm_eps") if values.get(key) is None]
    if missing:
        raise InputError(f"{where}: lacks the key '{missing[0]}'")
    numbers = {
        key: positive(values, key, _KINDS[key], where) for key in values if _given(values, key)
    }
    state = _read_parts(folder, numbers["dim"])
    wanted = (_EMBEDDING, "layers.0.feed_forward.w1.weight")
    for key in wanted:
        if key not in state or len(state[key].shape) != 2:
            raise InputError(f"{folder}: lacks the matrix '{key}' of Meta's checkpoints")
    vocab, mlp = (state[key].shape[0] for key in wanted)
    for key in wanted:
        if state[key].shape[1] != numbers["dim"]:
            shape = state[key].shape
            raise InputError(f"{where}: 'dim' is {numbers['dim']}, but '{key}' has shape {shape}")
    if numbers.get("vocab_size", vocab) != vocab:
        size = numbers["vocab_size"]
        raise InputError(f"{where}: 'vocab_size' is {size}, but '{_EMBEDDING}' has {vocab} rows")
    if numbers["dim"] % numbers["n_heads"]:
        raise InputError(
            f"{where}: 'n_heads' {numbers['n_heads']} does not divide 'dim' {numbers['dim']}"
        )
    tied = _HEAD not in state or same(state[_HEAD], state[_EMBEDDING])
    if tied:
        state.pop(_HEAD, None)
    try:
        config = _config(numbers, vocab, mlp, tied)
    except FieldError as error:
        raise InputError(f"{where}: {of_field(error, _KEYS)}") from None
    return config, rules(config), state


def _given(values: Mapping[str, Any], key: str) -> bool:
    """Whether a value counts: Meta's own files have null, and -1 for a vocabulary not known yet."""
    return key in _KINDS and values[key] is not None and (key, values[key]) != ("vocab_size", -1)


def _config(values: Mapping[str, Any], vocab: int, mlp: int, tied: bool) -> Config:
    theta, scaled = values.get("rope_theta", _THETA), values.get("use_scaled_rope", False)
    released = (
        131072 if scaled
        else _CONTEXT if theta != _THETA
        else 4096 if values["norm_eps"] == 1e-5
        else 2048
    )  # fmt: skip
    small = (values["dim"], values["n_layers"]) in ((2048, 16), (3072, 28))
    factor = values.get("rope_scaling_factor", 32.0 if small else 8.0)
    return Config(
        vocab_size=vocab,
        dim=values["dim"],
        mlp_dim=mlp,
        layers=values["n_layers"],
        heads=values["n_heads"],
        kv_heads=values.get("n_kv_heads", values["n_heads"]),
        head_dim=values["dim"] // values["n_heads"],
        max_length=values.get("max_seq_len", released),
        norm_eps=values["norm_eps"],
        rope_theta=theta,
        rope_scaling=RopeScaling(factor, 1.0, 4.0, _CONTEXT) if scaled else None,
        tied=tied,
    )


def _read_parts(folder: Path, dim: int) -> dict[str, Tensor]:
    """The tensors of all model-parallel parts, joined."""
    files = sorted(folder.glob("consolidated*.safetensors"))
    if files:
        parts = [read_file(file) for file in files]
    else:
        files = sorted(folder.glob("consolidated*.pth"))
        if not files:
            raise InputError(f"{folder}: {PARAMS}, but no consolidated.00.pth or .safetensors")
        parts = [
            {key: tensor_of(value, str(file)) for key, value in read_state(file).items()}
            for file in files
        ]
    for part, file in zip(parts, files, strict=True):
        unlike = parts[0].keys() ^ part.keys()
        if unlike:
            raise InputError(f"{file}: '{min(unlike)}' is in some parts of the model, not in all")

    def whole(key: str) -> Tensor:
        pieces = [part[key] for part in parts]
        name = key.rpartition(".")[0].rpartition(".")[2]
        axis = _SPLIT.get(name)
        if key == _EMBEDDING:  # LLaMA 3 splits the tokens, 1 and 2 split the width
            axis = 0 if pieces[0].shape[-1:] == (dim,) else 1
        return pieces[0] if axis is None or len(pieces) == 1 else joined(pieces, axis)

    return {key: whole(key) for key in parts[0] if not re.fullmatch(r"rope\.freqs", key)}


def write(folder: Path, config: Config, state: Mapping[str, Tensor]) -> None:
    """Writes `params.json` and `consolidated.00.safetensors`.

    Args:
        folder: exists.
        config: the model's.
        state: its tensors under Meta's names.

    Raises:
        InputError: a model that Meta's code cannot express.
    """
    scaling = config.rope_scaling
    if config.head_dim * config.heads != config.dim:
        raise InputError(
            f"Meta's form knows heads of dim / n_heads alone, not of {config.head_dim}"
        )
    if scaling and scaling != RopeScaling(scaling.factor, 1.0, 4.0, _CONTEXT):
        raise InputError(f"Meta's form knows LLaMA 3's RoPE scaling alone, not {scaling}")
    values: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_length,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        **_feed_forward(config),
    }
    if scaling:
        values |= {"use_scaled_rope": True, "rope_scaling_factor": scaling.factor}
    state = dict(state)
    if config.tied:  # Meta's code has no tied head
        state[_HEAD] = state[_EMBEDDING]
    write_file(folder / "consolidated.00.safetensors", state)
    (folder / PARAMS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _feed_forward(config: Config) -> dict[str, Any]:
    """`multiple_of` and `ffn_dim_multiplier` from which Meta's code computes F."""
    plain = int(2 * 4 * config.dim / 3)
    for factor in (None, 1.3, 1.5):
        width = plain if factor is None else int(factor * plain)
        if 256 * math.ceil(width / 256) == config.mlp_dim:
            return {"multiple_of": 256, **({"ffn_dim_multiplier": factor} if factor else {})}
    return {"multiple_of": 1, "ffn_dim_multiplier": (config.mlp_dim + 0.5) / plain}
