"""T5 in Hugging Face's form: `config.json` <-> our Config, tensors by transformers' names.

Every attribute is accounted for. A head of its own, over states that are not scaled (v1.1, T0), is
told by `tie_word_embeddings` false, or by `scale_decoder_outputs` false, which transformers 5
writes; a file without that head has the embedding in its place. `dense_act_fn` and `is_gated_act`
repeat `feed_forward_proj`; where they say something else, transformers goes by them. P5 adds
`encoder.whole_word_embeddings`, whose rows `whole_word_embeddings` counts.
"""

import re
from collections.abc import Mapping
from typing import Any

from recjax.convert import causal_hf
from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.tensors import Tensor, same
from recjax.convert.values import Attributes
from recjax.errors import InputError
from recjax.models.t5 import Config
from recjax.ranges import short

_KINDS = {"t5": ("T5ForConditionalGeneration", "T5WithLMHeadModel")}
EMBEDDING, HEAD = "shared.weight", "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Of early files; attention to the encoder has no positions.
_UNUSED = re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias.*")


def _stack(theirs: str, ours: str) -> tuple[Rule, ...]:
    block, last = f"{theirs}.block.{{layer}}.layer", 2 if ours == "layers" else 1

    def attention(number: int, name: str, path: str) -> tuple[Rule, ...]:
        maps = {"q": "query", "k": "key", "v": "value", "o": "out"}
        return (
            *(
                Rule(f"{block}.{number}.{name}.{a}.weight", f"{ours}/{path}/{b}/kernel", TRANSPOSE)
                for a, b in maps.items()
            ),
            Rule(f"{block}.{number}.layer_norm.weight", f"{ours}/{path}_norm/scale"),
        )

    dense = {"wi": "wide", "wi_0": "gate", "wi_1": "up", "wo": "down"}
    return (
        *attention(0, "SelfAttention", "attention"),
        *(attention(1, "EncDecAttention", "cross") if last == 2 else ()),
        *(
            Rule(f"{block}.{last}.DenseReluDense.{a}.weight", f"{ours}/{b}/kernel", TRANSPOSE)
            for a, b in dense.items()
        ),
        Rule(f"{block}.{last}.layer_norm.weight", f"{ours}/mlp_norm/scale"),
    )


def _bias(stack: str) -> Rule:
    name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return Rule(name, f"{stack}_bias")


RULES = (
    Rule(EMBEDDING, "embedding"),
    Rule("encoder.whole_word_embeddings.weight", "whole_word"),
    *_stack("encoder", "encoder"),
    _bias("encoder"),
    Rule("encoder.final_layer_norm.weight", "encoder_norm/scale"),
    *_stack("decoder", "layers"),
    _bias("decoder"),
    Rule("decoder.final_layer_norm.weight", "final_norm/scale"),
    Rule(HEAD, "head/kernel", TRANSPOSE),
)
_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "dim",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_layers": "encoder_layers",
    "num_heads": "heads",
}
# Attribute -> field and transformers' default.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "num_decoder_layers": ("layers", None),
    "relative_attention_num_buckets": ("buckets", 32),
    "relative_attention_max_distance": ("max_distance", 128),
    "layer_norm_epsilon": ("norm_eps", 1e-6),
    "initializer_factor": ("init_std", 1.0),
    "n_positions": ("max_length", 512),
}
_FIXED: dict[str, Any] = {
    "is_encoder_decoder": True,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,
    "decoder_start_token_id": 0,
}
_FORWARD, _TIED, _SCALED, _WORDS = (
    "feed_forward_proj", "tie_word_embeddings", "scale_decoder_outputs", "whole_word_embeddings",
)  # fmt: skip
_ACT, _GATED = "dense_act_fn", "is_gated_act"
_ACTS = {"relu": ("relu",), "gated-gelu": ("gelu_new", "gelu_pytorch_tanh")}
_OTHERS = {"dropout_rate", "classifier_dropout", "output_past", "gradient_checkpointing"}
_APART = {_FORWARD, _ACT, _GATED, _TIED, _SCALED, _WORDS}
_HARMLESS = {*causal_hf.HARMLESS, *_OTHERS, *_APART}
_ATTRIBUTES = Attributes("T5", _SIZES, _OPTIONS, _FIXED, _HARMLESS - _FIXED.keys())


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
    forward = attributes.get(_FORWARD) or "relu"
    if forward not in _ACTS:
        raise InputError(f"{where}: '{_FORWARD}' is {short(forward)}; expected relu or gated-gelu")
    for key, said in ((_ACT, _ACTS[forward]), (_GATED, (forward == "gated-gelu",))):
        if key in attributes and attributes[key] not in said:
            raise InputError(
                f"{where}: '{key}' is {short(attributes[key])}, but '{_FORWARD}' is {forward}; "
                f"expected {short(said[0])}"
            )
    # Of a null, transformers takes the one for true and the other for false.
    for key, known in ((_TIED, (True, False, None)), (_SCALED, (True, False))):
        if key in attributes and attributes[key] not in known:
            raise InputError(
                f"{where}: '{key}' is {short(attributes[key])}, expected true or false"
            )
    if attributes.get(_TIED) is False and attributes.get(_SCALED):
        raise InputError(
            f"{where}: '{_TIED}' is False, but '{_SCALED}' is True: one of them is wrong"
        )
    words = attributes.get(_WORDS) or 0
    if type(words) is not int or words < 0:
        raise InputError(f"{where}: '{_WORDS}' is {short(words)}, expected the rows of a table")
    fields |= {
        "layers": fields["layers"] or fields["encoder_layers"],
        "kv_heads": fields["heads"],
        "gated": forward == "gated-gelu",
        "tied": attributes.get(_TIED) is not False and attributes.get(_SCALED) is not False,
        "whole_words": words,
    }
    return causal_hf.build(Config, _ATTRIBUTES, fields, where)


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json` that transformers reads.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from; kept where they are still true.
    """
    out: dict[str, Any] = {
        "architectures": [_KINDS["t5"][0]],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        _SCALED: config.tied,
    }
    if base is not None:
        out = dict(base)
    out |= {key: getattr(config, field) for key, field in _SIZES.items()}
    out |= {key: getattr(config, field) for key, (field, _) in _OPTIONS.items()}
    out[_FORWARD] = "gated-gelu" if config.gated else "relu"
    out |= {_WORDS: config.whole_words} if config.whole_words else {}
    if _SCALED in out:
        out[_SCALED] = config.tied
    else:
        out[_TIED] = config.tied
    out["dtype" if "dtype" in out else "torch_dtype"] = dtype
    return out


def tidy(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Tensors without copies of the embedding, and always with an untied model's head.

    Raises:
        InputError: a copy that differs; a tied model with a head of its own.
    """
    out = {key: tensor for key, tensor in state.items() if not _UNUSED.fullmatch(key)}
    if EMBEDDING not in out and _COPIES[0] in out:
        out[EMBEDDING] = out[_COPIES[0]]
    for key in (*_COPIES, *((HEAD,) if config.tied else ())):
        if key in out and EMBEDDING in out:
            copy = out.pop(key)
            if not same(copy, out[EMBEDDING]):
                raise InputError(
                    f"{copy.source}: '{key}' differs from '{EMBEDDING}', of which it is a copy by "
                    "config.json"
                )
    if not config.tied and HEAD not in out and EMBEDDING in out:
        out[HEAD] = out[EMBEDDING]
    return out
