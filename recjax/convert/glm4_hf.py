"""GLM-4 in Hugging Face's form, `glm` and `glm4`: `config.json` <-> our Config, tensors.

Every attribute is accounted for (`causal_hf`). `model_type` "glm" is also that of GLM of 2022,
whose `config.json` has `num_layers`; the tensors of either under the other's config are refused by
name. The first form of GLM-4-9B (`model_type` "chatglm", code of its own) is not read.
"""

from collections.abc import Mapping
from typing import Any

from recjax.convert import causal_hf
from recjax.convert.causal_hf import linear, norm
from recjax.convert.tensors import Tensor
from recjax.convert.values import Attributes
from recjax.errors import InputError
from recjax.models.glm4 import Config

_KINDS = {"glm": ("GlmForCausalLM",), "glm4": ("Glm4ForCausalLM",)}
RULES = causal_hf.whole(
    *linear("self_attn.q_proj", "attention/query", bias=True),
    *linear("self_attn.k_proj", "attention/key", bias=True),
    *linear("self_attn.v_proj", "attention/value", bias=True),
    *linear("self_attn.o_proj", "attention/out"),
    *linear("mlp.gate_up_proj", "gate_up"),
    *linear("mlp.down_proj", "down"),
    norm("input_layernorm", "attention_norm"),
    norm("post_attention_layernorm", "mlp_norm"),
    norm("post_self_attn_layernorm", "after_attention"),
    norm("post_mlp_layernorm", "after_mlp"),
)
# Attribute -> field and transformers' default.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "num_key_value_heads": ("kv_heads", 2),
    "head_dim": ("head_dim", 128),
    "max_position_embeddings": ("max_length", 131072),
    "rms_norm_eps": ("norm_eps", 1.5625e-7),
    "initializer_range": ("init_std", 0.02),
    "tie_word_embeddings": ("tied", False),
    "attention_bias": ("attention_bias", True),
}
_SHARE = "partial_rotary_factor"
_ATTRIBUTES = Attributes(
    "GLM-4",
    causal_hf.SIZES,
    _OPTIONS,
    causal_hf.FIXED,
    {*causal_hf.ROPE, *causal_hf.HARMLESS, _SHARE},
)


def read_config(attributes: Mapping[str, Any], where: str) -> Config:
    """Our Config from the attributes of a `config.json`.

    Args:
        attributes: the file's object, of transformers 4 (`rope_theta`) or 5 (`rope_parameters`).
        where: the file's name, for errors.

    Raises:
        InputError: naming the attribute: unknown, missing, of a wrong type, or with a value that
            is not implemented; another architecture.
    """
    causal_hf.check_architecture(attributes, where, _KINDS)
    fields = causal_hf.read_fields(_ATTRIBUTES, attributes, where)
    rope = causal_hf.read_rope(attributes, where)
    share = 0.5 if rope.share is None else rope.share
    if share > 1 or int(fields["head_dim"] * share) % 2 or int(fields["head_dim"] * share) < 2:
        raise InputError(
            f"{where}: '{_SHARE}' is {share}, expected at most 1 and an even part of 'head_dim' "
            f"{fields['head_dim']}"
        )
    fields |= {"rope_theta": rope.theta, "rope_scaling": rope.scaling, "rotary_share": share}
    fields["post_norms"] = attributes["model_type"] == "glm4"
    return causal_hf.build(Config, _ATTRIBUTES, fields, where)


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json` that transformers 4 and 5 read.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from; kept where they are still true.
    """
    kind = "glm4" if config.post_norms else "glm"
    new: dict[str, Any] = {"architectures": [_KINDS[kind][0]], "model_type": kind}
    out = causal_hf.write_fields(_ATTRIBUTES, config, dtype, base, new)
    return out | {_SHARE: config.rotary_share}


def tidy(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Tensors without those that say nothing new: inverse frequencies, a tied model's head.

    Raises:
        InputError: the tensors of GLM of 2022 or of a ChatGLM; a tied model with a head of its own.
    """
    for key, tensor in state.items():
        if "query_key_value" in key:
            raise InputError(
                f"{tensor.source}: '{key}' is of a GLM of 2022 or of a ChatGLM, but config.json "
                "tells a GLM-4; expected its tensors"
            )
    return causal_hf.tidy(state, config)
