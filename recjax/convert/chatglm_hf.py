"""ChatGLM-6B, the first version, in the published form: `config.json` <-> our Config, and tensors.

Every attribute is accounted for, as in `llama_hf`. Where the ids of <sop>, [gMASK] and [MASK] are
not told, they are those of the published vocabulary of this size: 130,528 tokens, or 150,528 in the
first weeks. ChatGLM2, ChatGLM3 and GLM-4-9B have the same `model_type` but are other models, which
are refused by name. A file without a head has that of its embedding. Facts: `third_party/glm.md`.
"""

import re
from collections.abc import Mapping
from typing import Any

from recjax.convert.glm_hf import layer_rules, read_sizes
from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.tensors import Tensor, same
from recjax.convert.values import Attributes, of_field
from recjax.errors import InputError
from recjax.models.chatglm import PRESETS, Config
from recjax.ranges import FieldError, short

MODEL_TYPE = "chatglm"
_ARCHITECTURES = ("ChatGLMModel", "ChatGLMForConditionalGeneration")
EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
RULES = (Rule(EMBEDDING, "embedding"), *layer_rules(), Rule(HEAD, "head/kernel", TRANSPOSE))
# The original computes them anew, too.
DERIVED = re.compile(r"transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq")

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "inner_hidden_size": "mlp_dim",
    "num_layers": "layers",
    "num_attention_heads": "heads",
    "max_sequence_length": "max_length",
}
_OPTIONS: dict[str, tuple[str, Any]] = {
    "layernorm_epsilon": ("norm_eps", 1e-5),
    "initializer_range": ("init_std", 0.02),
    "tie_word_embeddings": ("tied", False),
}
# The one value that is implemented here, where it is given.
_FIXED: dict[str, Any] = {
    "position_encoding_2d": True,
    "quantization_bit": 0,
    "quantization_embeddings": False,
    "pre_seq_len": None,
    "prefix_projection": False,
    "_note_residual_alpha_num_layers": 28,  # a remark; the original's code has the number
}
# What changes nothing that the model computes.
_HARMLESS = {
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path",
    "auto_map", "eos_token_id", "pad_token_id", "use_cache", "tokenizer_class",
}  # fmt: skip
_START, _BLANKS = "bos_token_id", ("gmask_token_id", "mask_token_id")
_ATTRIBUTES = Attributes("ChatGLM", _SIZES, _OPTIONS, _FIXED, {*_HARMLESS, _START, *_BLANKS})
_LATER = (
    "padded_vocab_size", "ffn_hidden_size", "kv_channels", "multi_query_attention", "rmsnorm",
    "seq_length", "rope_ratio",
)  # fmt: skip


def read_config(attributes: Mapping[str, Any], where: str) -> Config:
    """Our Config from the attributes of a `config.json`.

    Args:
        attributes: the file's object.
        where: the file's name, for errors.

    Raises:
        InputError: naming the attribute: unknown, missing, of a wrong type, or with a value that
            is not implemented; another architecture.
    """
    names = attributes.get("architectures") or list(_ARCHITECTURES)
    later = [key for key in _LATER if key in attributes]
    if later:
        raise InputError(
            f"{where}: '{later[0]}': a ChatGLM2, ChatGLM3 or GLM-4, which has another "
            "architecture; only the first ChatGLM-6B is implemented, and of GLM-4 the form of "
            "transformers (model_type glm or glm4)"
        )
    if not isinstance(names, list) or not all(name in _ARCHITECTURES for name in names):
        raise InputError(
            f"{where}: architectures {short(names)}: no ChatGLM; expected "
            f"{' or '.join(_ARCHITECTURES)}"
        )
    fields = read_sizes(_ATTRIBUTES, attributes, where)
    try:
        return Config(**fields, **_read_ids(attributes, fields["vocab_size"], where))
    except FieldError as error:
        raise InputError(f"{where}: {of_field(error, _ATTRIBUTES.keys)}") from None


def _read_ids(attributes: Mapping[str, Any], size: int, where: str) -> dict[str, Any]:
    preset = next((p for p in PRESETS.values() if p.vocab_size == size), None)
    keys = (_START, *_BLANKS)
    usual = (None,) * 3 if preset is None else (preset.start_id, *preset.blank_ids)
    told = dict(zip(keys, usual, strict=True))
    ids = [attributes.get(key, told.get(key)) for key in keys]
    for key, number in zip(keys, ids, strict=True):
        if number is not None and (type(number) is not int or not 0 <= number < size):
            raise InputError(
                f"{where}: '{key}' is {short(number)}, expected an id below 'vocab_size' {size}"
            )
    start, *blanks = ids
    return {"start_id": start, "blank_ids": tuple(i for i in blanks if i is not None)}


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json`.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from; kept where they are still true.
    """
    out: dict[str, Any] = {
        "architectures": ["ChatGLMModel"],
        "model_type": MODEL_TYPE,
        "position_encoding_2d": True,
        "use_cache": True,
    }
    if base is not None:
        out = dict(base)
    out |= {key: getattr(config, field) for key, field in _SIZES.items()}
    out |= {key: getattr(config, field) for key, (field, _) in _OPTIONS.items()}
    blanks = (*config.blank_ids, None, None)
    out |= {_START: config.start_id, _BLANKS[0]: blanks[0], _BLANKS[1]: blanks[1]}
    out["dtype" if "dtype" in out else "torch_dtype"] = dtype
    return out


def tidy(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Tensors without those that say nothing new, and always with a head.

    Raises:
        InputError: the tensors of another model; a tied model with a head of its own.
    """
    for key, tensor in state.items():
        other = key.startswith("transformer.encoder.") and "ChatGLM2, ChatGLM3 or GLM-4"
        other = "GLM" if "position_embeddings" in key else other
        if other:
            raise InputError(
                f"{tensor.source}: '{key}' is of a {other}, but config.json tells the first "
                "ChatGLM-6B; expected its tensors"
            )
    out = {key: tensor for key, tensor in state.items() if not DERIVED.fullmatch(key)}
    if EMBEDDING in out and HEAD not in out and not config.tied:
        out[HEAD] = out[EMBEDDING]
    elif EMBEDDING in out and HEAD in out and config.tied:
        head = out.pop(HEAD)
        if not same(head, out[EMBEDDING]):
            raise InputError(
                f"{head.source}: '{HEAD}' differs from '{EMBEDDING}', but config.json has "
                "'tie_word_embeddings' true: one of them is wrong"
            )
    return out
