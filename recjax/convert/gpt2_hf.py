"""GPT-2 in Hugging Face's form: `config.json` <-> our Config, tensors by transformers' names.

Every attribute is accounted for (`causal_hf`). The published files have names without the prefix
`transformer.` and hold the masks of attention, which say nothing new; what is written here is named
as transformers names it. Kernels are [in out] in both.
"""

import re
from collections.abc import Mapping
from typing import Any

from recjax.convert import causal_hf
from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.tensors import Tensor
from recjax.convert.values import Attributes
from recjax.errors import InputError
from recjax.models.gpt2 import Config
from recjax.ranges import short

_KINDS = {"gpt2": ("GPT2LMHeadModel",)}
_PREFIX = "transformer."
EMBEDDING = f"{_PREFIX}wte.weight"


def _layer(theirs: str, ours: str, weight: str) -> tuple[Rule, Rule]:
    own = f"transformer.h.{{layer}}.{theirs}"
    return (
        Rule(f"{own}.weight", f"layers/{ours}/{weight}"),
        Rule(f"{own}.bias", f"layers/{ours}/bias"),
    )


RULES = (
    Rule(EMBEDDING, "embedding"),
    Rule("transformer.wpe.weight", "position"),
    *_layer("ln_1", "attention_norm", "scale"),
    *_layer("attn.c_attn", "attention/query_key_value", "kernel"),
    *_layer("attn.c_proj", "attention/out", "kernel"),
    *_layer("ln_2", "mlp_norm", "scale"),
    *_layer("mlp.c_fc", "up", "kernel"),
    *_layer("mlp.c_proj", "down", "kernel"),
    Rule("transformer.ln_f.weight", "final_norm/scale"),
    Rule("transformer.ln_f.bias", "final_norm/bias"),
    Rule(causal_hf.HEAD, "head/kernel", TRANSPOSE),
)
_DERIVED = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")

_SIZES = {"vocab_size": "vocab_size", "n_embd": "dim", "n_layer": "layers", "n_head": "heads"}
# Attribute -> field and transformers' default.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "n_inner": ("mlp_dim", None),
    "n_positions": ("max_length", 1024),
    "layer_norm_epsilon": ("norm_eps", 1e-5),
    "initializer_range": ("init_std", 0.02),
    "tie_word_embeddings": ("tied", True),
}
_FIXED: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,
}
# Dropout is of training from scratch; `summary_*` are of classification heads.
_OTHERS = {
    "n_ctx", "n_special", "attn_pdrop", "embd_pdrop", "resid_pdrop", "predict_special_tokens",
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout", "summary_hidden_size",
}  # fmt: skip
_GELU = "activation_function"
_GELUS: dict[str, Any] = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}
_ATTRIBUTES = Attributes("GPT-2", _SIZES, _OPTIONS, _FIXED, {*causal_hf.HARMLESS, *_OTHERS, _GELU})


def read_config(attributes: Mapping[str, Any], where: str) -> Config:
    """Our Config from the attributes of a `config.json`.

    Args:
        attributes: the file's object.
        where: the file's name, for errors.

    Raises:
        InputError: naming the attribute: unknown, missing, of a wrong type, or with a value that
            is not implemented; another architecture.
    """
    causal_hf.check_architecture(attributes, where, _KINDS)
    fields = _ATTRIBUTES.read(attributes, where)
    if fields["dim"] % fields["heads"]:
        raise InputError(
            f"{where}: 'n_head' {fields['heads']} does not divide 'n_embd' {fields['dim']}"
        )
    act = attributes.get(_GELU) or "gelu_new"
    if act not in _GELUS:
        raise InputError(f"{where}: '{_GELU}' is {short(act)}; expected one of {', '.join(_GELUS)}")
    fields["mlp_dim"] = fields["mlp_dim"] or 4 * fields["dim"]
    fields |= {"kv_heads": fields["heads"], "head_dim": fields["dim"] // fields["heads"]}
    return causal_hf.build(Config, _ATTRIBUTES, fields | {"gelu": _GELUS[act]}, where)


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json` that transformers reads.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from; kept where they are still true.
    """
    out: dict[str, Any] = {"architectures": [_KINDS["gpt2"][0]], "model_type": "gpt2"}
    out |= {"bos_token_id": None, "eos_token_id": None}
    if base is not None:
        out = {key: value for key, value in base.items() if key != "n_ctx"}
    out |= {key: getattr(config, field) for key, field in _SIZES.items()}
    out |= {key: getattr(config, field) for key, (field, _) in _OPTIONS.items()}
    if _GELUS.get(out.get(_GELU, "")) != config.gelu:
        out[_GELU] = {"tanh": "gelu_new", "erf": "gelu"}[config.gelu]
    out["dtype" if "dtype" in out else "torch_dtype"] = dtype
    return out


def tidy(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Tensors by transformers' names, without those that say nothing new.

    Raises:
        InputError: a tied model with a head of its own.
    """
    named = {
        key if key == causal_hf.HEAD else f"{_PREFIX}{key.removeprefix(_PREFIX)}": tensor
        for key, tensor in state.items()
    }
    kept = {key: tensor for key, tensor in named.items() if not _DERIVED.fullmatch(key)}
    return causal_hf.tidy(kept, config, EMBEDDING)
