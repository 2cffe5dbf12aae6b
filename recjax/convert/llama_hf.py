"""LLaMA in Hugging Face's form: `config.json` <-> our Config, tensors by transformers' names.

config = read_config(attributes, "config.json")     # transformers 4's and 5's attributes
params = load(RULES, read_folder(folder), shapes, folder)

Every attribute is accounted for (`causal_hf`). Facts: `third_party/llama.md`.
"""

from collections.abc import Mapping
from typing import Any

from recjax.convert import causal_hf
from recjax.convert.causal_hf import linear, norm, tidy
from recjax.convert.values import Attributes
from recjax.models.llama import Config

__all__ = ["RULES", "read_config", "tidy", "write_config"]

# The second architecture: conversions of early 2023.
_KINDS = {"llama": ("LlamaForCausalLM", "LLaMAForCausalLM")}
# In the order in which transformers' module declares them, which is that of its state dicts.
RULES = causal_hf.whole(
    *linear("self_attn.q_proj", "attention/query"),
    *linear("self_attn.k_proj", "attention/key"),
    *linear("self_attn.v_proj", "attention/value"),
    *linear("self_attn.o_proj", "attention/out"),
    *linear("mlp.gate_proj", "gate"),
    *linear("mlp.up_proj", "up"),
    *linear("mlp.down_proj", "down"),
    norm("input_layernorm", "attention_norm"),
    norm("post_attention_layernorm", "mlp_norm"),
)
# Attribute -> field and transformers' default.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "num_key_value_heads": ("kv_heads", None),
    "head_dim": ("head_dim", None),
    "max_position_embeddings": ("max_length", 2048),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "initializer_range": ("init_std", 0.02),
    "tie_word_embeddings": ("tied", False),
}
_FIXED: dict[str, Any] = {
    **causal_hf.FIXED,
    "attention_bias": False,
    "partial_rotary_factor": 1.0,
    "is_llama_config": True,
    "sliding_window": None,
}
_ATTRIBUTES = Attributes(
    "LLaMA", causal_hf.SIZES, _OPTIONS, _FIXED, {*causal_hf.ROPE, *causal_hf.HARMLESS}
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
    fields |= causal_hf.read_whole_rope(attributes, where)
    return causal_hf.build(Config, _ATTRIBUTES, fields, where)


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json` that transformers 4 and 5 read.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from, e.g. the ids of its special tokens;
            they are kept where the model is still the same.
    """
    new = {
        "architectures": [_KINDS["llama"][0]],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
    }
    return causal_hf.write_fields(_ATTRIBUTES, config, dtype, base, new)
