"""GLM in the published form: `config.json` <-> our Config, tensors by the checkpoints' names.

Every attribute is accounted for, as in `llama_hf`. The files do not tell three things. Which GELU
the model computes: "tanh", with which the published models were trained, unless `hidden_act` says
"gelu". The ids of <sop> and of the blanks: `special_token_ids` where it is there, else those of the
published model of these sizes, else none. transformers 5 gives `model_type` "glm" to another
model, GLM-4, which `glm4_hf` reads. Facts: `third_party/glm.md`.
"""

from collections.abc import Mapping
from typing import Any

from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.rank_files import Cut
from recjax.convert.tensors import Tensor
from recjax.convert.values import Attributes, of_field
from recjax.errors import InputError
from recjax.models.glm import PRESETS, Config
from recjax.ranges import FieldError, short

MODEL_TYPE = "glm"
_ARCHITECTURES = ("GLMModel", "GLMForConditionalGeneration")


def layer_rules() -> tuple[Rule, ...]:
    """The rules of a layer, which ChatGLM shares, in the order of the state dict."""
    own = "transformer.layers.{layer}."

    def linear(theirs: str, ours: str) -> tuple[Rule, Rule]:
        return (
            Rule(f"{own}{theirs}.weight", f"layers/{ours}/kernel", TRANSPOSE),
            Rule(f"{own}{theirs}.bias", f"layers/{ours}/bias"),
        )

    def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
        return (
            Rule(f"{own}{theirs}.weight", f"layers/{ours}/scale"),
            Rule(f"{own}{theirs}.bias", f"layers/{ours}/bias"),
        )

    return (
        *norm("input_layernorm", "attention_norm"),
        *linear("attention.query_key_value", "query_key_value"),
        *linear("attention.dense", "dense"),
        *norm("post_attention_layernorm", "mlp_norm"),
        *linear("mlp.dense_h_to_4h", "dense_h_to_4h"),
        *linear("mlp.dense_4h_to_h", "dense_4h_to_h"),
        Rule("transformer.final_layernorm.weight", "final_norm/scale"),
        Rule("transformer.final_layernorm.bias", "final_norm/bias"),
    )


RULES = (
    Rule("word_embeddings.weight", "embedding"),
    Rule("transformer.position_embeddings.weight", "position"),
    Rule("transformer.block_position_embeddings.weight", "block_position"),
    *layer_rules(),
)
# How training with model parallelism cuts the tensors; what no pattern names, every rank has whole.
CUTS: dict[str, Cut] = {
    r"word_embeddings\.weight": Cut(0),
    r".*\.query_key_value\.(weight|bias)": Cut(0, blocks=3),
    r".*\.dense_h_to_4h\.(weight|bias)": Cut(0),
    r".*\.(attention\.dense|dense_4h_to_h)\.weight": Cut(1),
}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_layers": "layers",
    "num_attention_heads": "heads",
    "max_sequence_length": "max_length",
}
_OPTIONS: dict[str, tuple[str, Any]] = {
    "layernorm_epsilon": ("norm_eps", 1e-5),
    "initializer_range": ("init_std", 0.02),
}
# The one value that is implemented here, where it is given.
_FIXED: dict[str, Any] = {
    "relative_encoding": False,
    "block_position_encoding": True,
    "output_predict": True,
    "parallel_output": True,
    "tie_word_embeddings": True,
}
# What changes nothing that the model computes. `attention_scale` moves factors alone; `spell_*` and
# `pool_token` are of classification heads; dropout is of pre-training.
_HARMLESS = {
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path",
    "auto_map", "embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob",
    "checkpoint_activations", "checkpoint_num_layers", "spell_length", "spell_func",
    "attention_scale", "pool_token", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache",
    "tokenizer_class",
}  # fmt: skip
_GELU, _IDS = "hidden_act", "special_token_ids"
_GELUS: dict[str, Any] = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
_BLANKS = ("MASK", "gMASK", "sMASK")
_ATTRIBUTES = Attributes("GLM", _SIZES, _OPTIONS, _FIXED, {*_HARMLESS, _GELU, _IDS})


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
    if not isinstance(names, list) or not all(name in _ARCHITECTURES for name in names):
        raise InputError(
            f"{where}: architectures {short(names)}: this is no GLM of Du et al. 2022 but another "
            f"model of that name; expected {' or '.join(_ARCHITECTURES)} and 'num_layers'"
        )
    fields = read_sizes(_ATTRIBUTES, attributes, where)
    fields |= {"mlp_dim": 4 * fields["dim"]}
    act = attributes.get(_GELU) or "gelu_new"
    if act not in _GELUS:
        raise InputError(f"{where}: '{_GELU}' is {short(act)}; expected one of {', '.join(_GELUS)}")
    try:
        config = Config(**fields, gelu=_GELUS[act])
        ids = _read_ids(attributes.get(_IDS), config, where)
        return Config(**fields, gelu=_GELUS[act], **ids)
    except FieldError as error:
        raise InputError(f"{where}: {of_field(error, _ATTRIBUTES.keys)}") from None


def read_sizes(known: Attributes, attributes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a model with two rows of positions; its heads have equal parts of its width.

    Raises:
        InputError: see `Attributes.read`; heads that do not divide the width.
    """
    fields = known.read(attributes, where)
    if fields["dim"] % fields["heads"]:
        raise InputError(
            f"{where}: 'num_attention_heads' {fields['heads']} does not divide 'hidden_size' "
            f"{fields['dim']}"
        )
    return fields | {"kv_heads": fields["heads"], "head_dim": fields["dim"] // fields["heads"]}


def _read_ids(given: Any, config: Config, where: str) -> dict[str, Any]:
    if given is None:
        alike = (
            p for p in PRESETS.values()
            if (p.vocab_size, p.dim, p.layers) == (config.vocab_size, config.dim, config.layers)
        )  # fmt: skip
        preset = next(alike, None)
        return {
            "start_id": preset and preset.start_id,
            "blank_ids": preset.blank_ids if preset else (),
        }
    if not isinstance(given, dict) or any(type(one) is not int for one in given.values()):
        raise InputError(f"{where}: '{_IDS}' is {short(given)}, expected names with their ids")
    for name, one in given.items():
        if not 0 <= one < config.vocab_size:
            raise InputError(
                f"{where}: '{_IDS}' gives {name} the id {one}, expected one below 'vocab_size', "
                f"{config.vocab_size}"
            )
    blanks = tuple(given[name] for name in _BLANKS if name in given)
    return {"start_id": given.get("sop"), "blank_ids": blanks}


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json`.

    Args:
        config: the model's.
        dtype: of its numbers, by numpy's name.
        base: attributes of the file that the model came from; kept where they are still true.
    """
    out: dict[str, Any] = {
        "architectures": ["GLMModel"],
        "model_type": MODEL_TYPE,
        "relative_encoding": False,
        "block_position_encoding": True,
        "output_predict": True,
    }
    if base is not None:
        out = {key: value for key, value in base.items() if key != _GELU}
    out |= {key: getattr(config, field) for key, field in _SIZES.items()}
    out |= {key: getattr(config, field) for key, (field, _) in _OPTIONS.items()}
    if config.gelu == "erf":
        out[_GELU] = "gelu"
    ids = {"start_id": config.start_id, "blank_ids": config.blank_ids}
    if _read_ids(out.get(_IDS), config, "") != ids:
        blanks = dict(zip(_BLANKS, config.blank_ids, strict=False))
        out[_IDS] = blanks | ({} if config.start_id is None else {"sop": config.start_id})
    out["dtype" if "dtype" in out else "torch_dtype"] = dtype
    return out


def tidy(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The tensors, which all say something new.

    Raises:
        InputError: the tensors of a ChatGLM or of a GLM-4.
    """
    del config
    for key, tensor in state.items():
        if "self_attn." in key:
            raise InputError(
                f"{tensor.source}: '{key}' is of a GLM-4, but config.json tells the GLM of 2022; "
                "expected its tensors"
            )
    if "lm_head.weight" in state and "transformer.word_embeddings.weight" in state:
        raise InputError(
            f"{state['lm_head.weight'].source}: tensors of a ChatGLM, but config.json has "
            f"model_type '{MODEL_TYPE}'; expected GLM's"
        )
    return dict(state)
