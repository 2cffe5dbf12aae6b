"""Qwen3 in Hugging Face's form: `config.json` <-> our Config, tensors by transformers' names.

Every attribute is accounted for (`causal_hf`). A window is refused wherever a layer would have one:
`use_sliding_window` with `max_window_layers` below the number of layers, or a `layer_types` with
anything but full attention. Without `use_sliding_window` the other two keys change nothing.
"""

from collections.abc import Mapping
from typing import Any

from recjax.convert import causal_hf
from recjax.convert.causal_hf import linear, norm, tidy
from recjax.convert.values import Attributes
from recjax.errors import InputError
from recjax.models.qwen3 import Config
from recjax.ranges import short

__all__ = ["RULES", "read_config", "tidy", "write_config"]

_KINDS = {"qwen3": ("Qwen3ForCausalLM",)}
RULES = causal_hf.whole(
    *linear("self_attn.q_proj", "attention/query", bias=True),
    *linear("self_attn.k_proj", "attention/key", bias=True),
    *linear("self_attn.v_proj", "attention/value", bias=True),
    *linear("self_attn.o_proj", "attention/out", bias=True),
    norm("self_attn.q_norm", "attention/query_norm"),
    norm("self_attn.k_norm", "attention/key_norm"),
    *linear("mlp.gate_proj", "gate"),
    *linear("mlp.up_proj", "up"),
    *linear("mlp.down_proj", "down"),
    norm("input_layernorm", "attention_norm"),
    norm("post_attention_layernorm", "mlp_norm"),
)
# Attribute -> field and transformers' default.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "num_key_value_heads": ("kv_heads", 32),
    "head_dim": ("head_dim", 128),
    "max_position_embeddings": ("max_length", 32768),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "initializer_range": ("init_std", 0.02),
    "tie_word_embeddings": ("tied", False),
    "attention_bias": ("attention_bias", False),
}
_WINDOW = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
_ATTRIBUTES = Attributes(
    "Qwen3",
    causal_hf.SIZES,
    _OPTIONS,
    {**causal_hf.FIXED, "partial_rotary_factor": 1.0},
    {*causal_hf.ROPE, *causal_hf.HARMLESS, *_WINDOW},
)


def read_config(attributes: Mapping[str, Any], where: str) -> Config:
    """Our Config from the attributes of a `config.json`.

    Args:
        attributes: the file's object, of transformers 4 (`rope_theta`, `rope_scaling`) or 5
            (`rope_parameters`).
        where: the file's name, for errors.

    Raises:
        InputError: naming the attribute: unknown, missing, of a wrong type, or with a value that
            is not implemented; another architecture.
    """
    causal_hf.check_architecture(attributes, where, _KINDS)
    fields = causal_hf.read_fields(_ATTRIBUTES, attributes, where)
    _refuse_windows(attributes, fields["layers"], where)
    fields |= causal_hf.read_whole_rope(attributes, where)
    return causal_hf.build(Config, _ATTRIBUTES, fields, where)


def _refuse_windows(attributes: Mapping[str, Any], layers: int, where: str) -> None:
    use, window = attributes.get("use_sliding_window"), attributes.get("sliding_window")
    if use not in (None, False, True):
        raise InputError(f"{where}: 'use_sliding_window' is {short(use)}, expected true or false")
    first = attributes.get("max_window_layers", 28)
    for key, value in (("sliding_window", window), ("max_window_layers", first)):
        if value is not None and (type(value) is not int or value < 0):
            raise InputError(f"{where}: '{key}' is {short(value)}, expected a whole number")
    kinds = attributes.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise InputError(
                f"{where}: 'layer_types' is {short(kinds)}, expected a list of {layers} names"
            )
        other = [kind for kind in kinds if kind != "full_attention"]
        if other:
            raise InputError(
                f"{where}: 'layer_types' has {short(other[0])}; only full_attention is implemented"
            )
    elif use and attributes.get("sliding_window", 4096) is not None and (first or 0) < layers:
        raise InputError(
            f"{where}: 'use_sliding_window' is true, and layers from {first or 0} on have a "
            "window; only full attention is implemented"
        )


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json` that transformers 4 and 5 read.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from; kept where they are still true.
    """
    new = {
        "architectures": [_KINDS["qwen3"][0]],
        "model_type": "qwen3",
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.layers,
    }
    return causal_hf.write_fields(_ATTRIBUTES, config, dtype, base, new)
