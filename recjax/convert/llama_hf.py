"""LLaMA in Hugging Face's form: `config.json` <-> our Config, tensors by transformers' names.

config = read_config(attributes, "config.json")     # transformers 4's and 5's attributes
params = load(RULES, read_folder(folder), shapes, folder)

Every attribute is accounted for: it sets a field, must have the one value that is implemented here,
or is known to change nothing that the model computes. Facts: `third_party/llama.md`.
"""

import re
from collections.abc import Mapping
from typing import Any

from recjax.config import nearest
from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.tensors import Tensor, same
from recjax.convert.values import Attributes, of_field, positive
from recjax.errors import InputError
from recjax.models.llama import Config
from recjax.nn.positions import RopeScaling
from recjax.ranges import FieldError, short

MODEL_TYPE, ARCHITECTURE = "llama", "LlamaForCausalLM"
_ARCHITECTURES = (ARCHITECTURE, "LLaMAForCausalLM")  # the second: conversions of early 2023

# In the order in which transformers' module declares them, which is that of its state dicts.
RULES = (
    Rule("model.embed_tokens.weight", "embedding"),
    Rule(
        "model.layers.{layer}.self_attn.q_proj.weight", "layers/attention/query/kernel", TRANSPOSE
    ),
    Rule("model.layers.{layer}.self_attn.k_proj.weight", "layers/attention/key/kernel", TRANSPOSE),
    Rule(
        "model.layers.{layer}.self_attn.v_proj.weight", "layers/attention/value/kernel", TRANSPOSE
    ),
    Rule("model.layers.{layer}.self_attn.o_proj.weight", "layers/attention/out/kernel", TRANSPOSE),
    Rule("model.layers.{layer}.mlp.gate_proj.weight", "layers/gate/kernel", TRANSPOSE),
    Rule("model.layers.{layer}.mlp.up_proj.weight", "layers/up/kernel", TRANSPOSE),
    Rule("model.layers.{layer}.mlp.down_proj.weight", "layers/down/kernel", TRANSPOSE),
    Rule("model.layers.{layer}.input_layernorm.weight", "layers/attention_norm/scale"),
    Rule("model.layers.{layer}.post_attention_layernorm.weight", "layers/mlp_norm/scale"),
    Rule("model.norm.weight", "final_norm/scale"),
    Rule("lm_head.weight", "head/kernel", TRANSPOSE),
)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Old conversions keep what follows from the config.
DERIVED = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\."
    r"(inv_freq|original_inv_freq|cos_cached|sin_cached)"
)

# Attribute -> field of our Config; without these there is no model.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
}
# Attribute -> field and transformers' default.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "num_key_value_heads": ("kv_heads", None),
    "head_dim": ("head_dim", None),
    "max_position_embeddings": ("max_length", 2048),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "initializer_range": ("init_std", 0.02),
    "tie_word_embeddings": ("tied", False),
}
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
# The one value that is implemented here.
_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "partial_rotary_factor": 1.0,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,  # code of its own
    "per_layer_config": None,
    "is_llama_config": True,
    "sliding_window": None,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "rope_interleaved": False,
}
# What changes nothing that the model computes: names, types and versions, how transformers runs
# the model, tasks that are not language modelling, and how to generate.
_HARMLESS = {
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path",
    "name_or_path", "_commit_hash", "transformers.js_config", "unsloth_version", "unsloth_fixed",
    "use_cache",
    "pretraining_tp", "return_dict", "use_return_dict", "output_hidden_states",
    "output_attentions", "torchscript", "use_bfloat16", "tf_legacy_loss", "gradient_checkpointing",
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset",
    "_flash_attn_2_enabled", "chunk_size_feed_forward", "cross_attention_hidden_size",
    "tie_encoder_decoder", "is_decoder", "max_sequence_length", "base_model_tp_plan",
    "base_model_pp_plan", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
    "task_specific_params", "tokenizer_class", "prefix", "bos_token_id", "eos_token_id",
    "pad_token_id", "sep_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
    "do_sample", "temperature", "top_k", "top_p", "typical_p", "min_p", "epsilon_cutoff",
    "eta_cutoff", "num_beams", "num_beam_groups", "diversity_penalty", "penalty_alpha",
    "early_stopping", "max_length", "min_length", "max_new_tokens", "min_new_tokens",
    "length_penalty", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty",
    "renormalize_logits", "neftune_noise_alpha", "model_max_length", "padding_side",
    "trust_remote_code", "use_flash_attention", "use_flash_attention_2", "num_logits_to_keep",
    "logits_to_keep", "bos_token", "eos_token", "pad_token",
}  # fmt: skip
_ATTRIBUTES = Attributes("LLaMA", _SIZES, _OPTIONS, _FIXED, {*_ROPE, *_HARMLESS})
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


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
    _check_architecture(attributes, where)
    fields = _ATTRIBUTES.read(attributes, where)
    if fields["kv_heads"] is None:  # LLaMA 1
        fields["kv_heads"] = fields["heads"]
    if fields["head_dim"] is None:
        if fields["dim"] % fields["heads"]:
            raise InputError(
                f"{where}: 'num_attention_heads' {fields['heads']} does not divide 'hidden_size' "
                f"{fields['dim']}, and there is no 'head_dim'"
            )
        fields["head_dim"] = fields["dim"] // fields["heads"]
    theta, scaling = _read_rope(attributes, where)
    try:
        return Config(**fields, rope_theta=theta, rope_scaling=scaling)
    except FieldError as error:
        raise InputError(f"{where}: {of_field(error, _ATTRIBUTES.keys)}") from None


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json` that transformers 4 and 5 read.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from, e.g. the ids of its special tokens;
            they are kept where the model is still the same.
    """
    out: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "use_cache": True,
        # Those of the tokenizer belong here; transformers would take LLaMA's in their place.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if base is not None:
        out = {key: value for key, value in base.items() if key not in _ROPE}
    out |= {key: getattr(config, field) for key, field in _SIZES.items()}
    out |= {key: getattr(config, field) for key, (field, _) in _OPTIONS.items()}
    scaling = config.rope_scaling
    llama3 = scaling and {"rope_type": "llama3", **{key: getattr(scaling, key) for key in _LLAMA3}}
    out |= {"rope_theta": config.rope_theta, "rope_scaling": llama3}
    out["dtype" if "dtype" in out else "torch_dtype"] = dtype
    return out


def tidy(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Tensors without those that say nothing new: inverse frequencies, a tied model's head.

    Raises:
        InputError: a tied model with a head of its own.
    """
    out = {key: tensor for key, tensor in state.items() if not DERIVED.fullmatch(key)}
    if config.tied and HEAD in out and EMBEDDING in out:
        head = out.pop(HEAD)
        if not same(head, out[EMBEDDING]):
            raise InputError(
                f"{head.source}: '{HEAD}' differs from '{EMBEDDING}', but config.json has "
                "'tie_word_embeddings' true: one of them is wrong"
            )
    return out


def _check_architecture(attributes: Mapping[str, Any], where: str) -> None:
    names = attributes.get("architectures") or [ARCHITECTURE]
    if not isinstance(names, list) or not all(name in _ARCHITECTURES for name in names):
        raise InputError(
            f"{where}: architectures {short(names)}: expected ['{ARCHITECTURE}'], of model_type "
            f"'{MODEL_TYPE}'"
        )
    if attributes.get("model_type") != MODEL_TYPE:
        kind = short(attributes.get("model_type"))
        raise InputError(f"{where}: model_type {kind}, expected '{MODEL_TYPE}'")


def _read_rope(attributes: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """`rope_theta` and the scaling, from either form."""
    forms = [key for key in ("rope_scaling", "rope_parameters") if attributes.get(key)]
    given = [attributes[key] for key in forms]
    for key, value in zip(forms, given, strict=True):
        if not isinstance(value, dict):
            raise InputError(f"{where}: '{key}' is {short(value)}, expected an object or null")
    if len(forms) == 2 and any(given[1].get(k, v) != v for k, v in given[0].items()):
        raise InputError(f"{where}: 'rope_scaling' and 'rope_parameters' differ")
    rope = {k: v for value in given for k, v in value.items()}
    where = f"{where}: {forms[-1]}" if forms else where
    kind = rope.get("rope_type", rope.get("type", "default"))
    wanted = _LLAMA3 if kind == "llama3" else ()
    if kind not in ("default", "llama3"):
        raise InputError(
            f"{where}: rope_type {short(kind)}; only default and llama3 are implemented"
        )
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *wanted}
    for key in rope:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'; {nearest(key, known)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"{where}: 'partial_rotary_factor' is not 1, the one implemented")
    source = rope if rope.get("rope_theta") is not None else attributes
    theta = 10000.0
    if source.get("rope_theta") is not None:
        theta = positive(source, "rope_theta", float, where)
    if not wanted:
        return theta, None
    for key in wanted:
        if rope.get(key) is None:
            raise InputError(f"{where}: lacks the key '{key}'")
    kinds = (float, float, float, int)
    numbers: list[Any] = [
        positive(rope, k, kind, where) for k, kind in zip(wanted, kinds, strict=True)
    ]
    if numbers[1] >= numbers[2]:
        raise InputError(f"{where}: expected low_freq_factor below high_freq_factor")
    try:
        return theta, RopeScaling(*numbers)
    except FieldError as error:
        raise InputError(
            f"{where}: {of_field(error, dict(zip(wanted, wanted, strict=True)))}"
        ) from None
