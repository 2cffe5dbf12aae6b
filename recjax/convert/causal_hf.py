"""Hugging Face's form of LLaMA and its relatives: names, attributes, rotary embeddings.

Every attribute is accounted for: it sets a field, must have the one value that is implemented here,
or is known to change nothing that the model computes.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from recjax.config import nearest
from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.tensors import Tensor, same
from recjax.convert.values import Attributes, of_field, positive
from recjax.errors import InputError
from recjax.nn.positions import RopeScaling
from recjax.ranges import FieldError, short

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Old conversions keep what follows from the config.
DERIVED = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\."
    r"(inv_freq|original_inv_freq|cos_cached|sin_cached)"
)


def linear(theirs: str, ours: str, *, bias: bool = False) -> tuple[Rule, ...]:
    """The rules of a linear map of every layer; `bias`: it may have one."""
    own = f"model.layers.{{layer}}.{theirs}"
    kernel = Rule(f"{own}.weight", f"layers/{ours}/kernel", TRANSPOSE)
    return (kernel, Rule(f"{own}.bias", f"layers/{ours}/bias")) if bias else (kernel,)


def norm(theirs: str, ours: str) -> Rule:
    """The rule of a norm of every layer."""
    return Rule(f"model.layers.{{layer}}.{theirs}.weight", f"layers/{ours}/scale")


def whole(*layers: Rule) -> tuple[Rule, ...]:
    """The rules of a model with these layers, in the order of transformers' state dicts."""
    return (
        Rule(EMBEDDING, "embedding"),
        *layers,
        Rule("model.norm.weight", "final_norm/scale"),
        Rule(HEAD, "head/kernel", TRANSPOSE),
    )


# Attribute -> field of our Config; without these there is no model.
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
}
ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
# The one value that is implemented here.
FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,  # code of its own
    "per_layer_config": None,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "rope_interleaved": False,
}
# What changes nothing that the model computes: names, types and versions, how transformers runs
# the model, tasks that are not language modelling, and how to generate.
HARMLESS = {
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path",
    "name_or_path", "_commit_hash", "transformers.js_config", "unsloth_version", "unsloth_fixed",
    "use_cache", "output_past", "_num_labels",
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
_THETA, _APART = 10000.0, ("rope_theta", "partial_rotary_factor")  # beside the others or inside
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def check_architecture(
    attributes: Mapping[str, Any], where: str, kinds: Mapping[str, tuple[str, ...]]
) -> None:
    """Whether a `config.json` is of one of these.

    Args:
        attributes: the file's object.
        where: the file's name, for errors.
        kinds: model_type -> its architectures, the usual one first.

    Raises:
        InputError: another model_type or architecture.
    """
    kind = attributes.get("model_type")
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(
            f"{where}: model_type {short(kind)}, expected {' or '.join(map(repr, kinds))}"
        )
    names = attributes.get("architectures") or [kinds[kind][0]]
    if not isinstance(names, list) or not all(name in kinds[kind] for name in names):
        raise InputError(
            f"{where}: architectures {short(names)}: expected ['{kinds[kind][0]}'], of model_type "
            f"'{kind}'"
        )


def read_fields(known: Attributes, attributes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of our Config, without those of rotary embeddings.

    Raises:
        InputError: see `Attributes.read`; a width that the heads do not divide.
    """
    fields = known.read(attributes, where)
    if fields["kv_heads"] is None or attributes.get("num_key_value_heads", 0) is None:
        fields["kv_heads"] = fields["heads"]  # as in LLaMA 1
    if fields["head_dim"] is None:
        if fields["dim"] % fields["heads"]:
            raise InputError(
                f"{where}: 'num_attention_heads' {fields['heads']} does not divide 'hidden_size' "
                f"{fields['dim']}, and there is no 'head_dim'"
            )
        fields["head_dim"] = fields["dim"] // fields["heads"]
    return fields


def read_whole_rope(attributes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of rotary embeddings, in a family that rotates all of each head.

    Raises:
        InputError: see `read_rope`; heads that are rotated in part.
    """
    rope = read_rope(attributes, where)
    if rope.share not in (None, 1.0):
        raise InputError(f"{where}: 'partial_rotary_factor' is not 1, the one implemented")
    return {"rope_theta": rope.theta, "rope_scaling": rope.scaling}


def build(config: type, known: Attributes, fields: Mapping[str, Any], where: str) -> Any:
    """The Config of these fields.

    Raises:
        InputError: naming the attribute that the Config refuses.
    """
    try:
        return config(**fields)
    except FieldError as error:
        raise InputError(f"{where}: {of_field(error, known.keys)}") from None


def write_fields(
    known: Attributes, config: Any, dtype: str, base: Mapping[str, Any] | None, new: dict[str, Any]
) -> dict[str, Any]:
    """The attributes of a `config.json` that transformers 4 and 5 read.

    Args:
        known: of the family.
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from, e.g. the ids of its special tokens;
            they are kept where the model is still the same.
        new: those of a new file.
    """
    out: dict[str, Any] = {
        **new,
        "hidden_act": "silu",
        "use_cache": True,
        # Those of the tokenizer belong here; transformers would take its defaults in their place.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if base is not None:
        out = {key: value for key, value in base.items() if key not in ROPE}
    out |= {key: getattr(config, field) for key, field in known.sizes.items()}
    out |= {key: getattr(config, field) for key, (field, _) in known.options.items()}
    scaling = config.rope_scaling
    llama3 = scaling and {"rope_type": "llama3", **{key: getattr(scaling, key) for key in _LLAMA3}}
    out |= {"rope_theta": config.rope_theta, "rope_scaling": llama3}
    out["dtype" if "dtype" in out else "torch_dtype"] = dtype
    return out


class Rope(NamedTuple):
    """Rotary embeddings of a `config.json`.

    Attributes:
        theta: base of the frequencies.
        scaling: of long wavelengths, or None.
        share: of each head that is rotated; None where the file says nothing.
    """

    theta: float
    scaling: RopeScaling | None
    share: float | None


def read_rope(attributes: Mapping[str, Any], where: str) -> Rope:
    """The settings of rotary embeddings in a `config.json`, in transformers 4's form or 5's.

    Raises:
        InputError: naming the key: unknown, of a wrong type, or not implemented.
    """
    apart = {key: attributes[key] for key in _APART if attributes.get(key) is not None}
    forms = [key for key in ("rope_scaling", "rope_parameters") if attributes.get(key)]
    told = []
    for key in forms:
        value = attributes[key]
        if not isinstance(value, dict):
            raise InputError(f"{where}: '{key}' is {short(value)}, expected an object or null")
        kind = value.get("rope_type", value.get("type", "default"))
        own = {k: v for k, v in value.items() if k != "type" and v is not None}
        told.append({"rope_theta": _THETA, **apart, **own, "rope_type": kind})
    if len(told) == 2 and told[0] != told[1]:  # transformers 4 and 5 read one alone
        raise InputError(f"{where}: 'rope_scaling' and 'rope_parameters' differ")
    rope = told[-1] if told else {"rope_theta": _THETA, **apart, "rope_type": "default"}
    where = f"{where}: {forms[-1]}" if forms else where
    kind = rope["rope_type"]
    wanted = _LLAMA3 if kind == "llama3" else ()
    if kind not in ("default", "llama3"):
        raise InputError(
            f"{where}: rope_type {short(kind)}; only default and llama3 are implemented"
        )
    known = {"rope_type", *_APART, *wanted}
    for key in rope:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'; {nearest(key, known)}")
    theta, at = positive(rope, "rope_theta", float, where), "partial_rotary_factor"
    share = positive(rope, at, float, where) if at in rope else None
    if not wanted:
        return Rope(theta, None, share)
    for key in wanted:
        if key not in rope:
            raise InputError(f"{where}: lacks the key '{key}'")
    kinds = (float, float, float, int)
    numbers: list[Any] = [
        positive(rope, k, kind, where) for k, kind in zip(wanted, kinds, strict=True)
    ]
    if numbers[1] >= numbers[2]:
        raise InputError(f"{where}: expected low_freq_factor below high_freq_factor")
    try:
        return Rope(theta, RopeScaling(*numbers), share)
    except FieldError as error:
        raise InputError(
            f"{where}: {of_field(error, dict(zip(wanted, wanted, strict=True)))}"
        ) from None


def tidy(state: Mapping[str, Tensor], config: Any, embedding: str = EMBEDDING) -> dict[str, Tensor]:
    """Tensors without those that say nothing new: inverse frequencies, a tied model's head.

    Raises:
        InputError: a tied model with a head of its own.
    """
    out = {key: tensor for key, tensor in state.items() if not DERIVED.fullmatch(key)}
    if config.tied and HEAD in out and embedding in out:
        head = out.pop(HEAD)
        if not same(head, out[embedding]):
            raise InputError(
                f"{head.source}: '{HEAD}' differs from '{embedding}', but config.json has "
                "'tie_word_embeddings' true: one of them is wrong"
            )
    return out
