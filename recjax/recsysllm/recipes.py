"""The common part of configs/recsysllm: a new small GLM, the paper's settings, and P5."""

from typing import Any

from ml_collections import ConfigDict

from recjax.config import wrong_argument

_HEAD = 64  # width of a head


def small_glm(dim: int, layers: int, max_length: int) -> dict[str, Any]:
    """Section `model` of a new GLM, whose heads are 64 wide or fewer of them narrower."""
    heads = max(4, dim // _HEAD)
    return {
        "name": "glm", "dim": dim, "mlp_dim": 4 * dim, "layers": layers, "heads": heads,
        "kv_heads": heads, "head_dim": dim // heads, "max_length": max_length,
    }  # fmt: skip


def scratch(
    config: ConfigDict, dim: int, layers: int, *, vocab: int, epochs: float, max_length: int = 512
) -> ConfigDict:
    """Makes a config train a new GLM.

    Args:
        config: with data and text.
        dim: E.
        layers: of the model.
        vocab: ids of the tokenizer that is trained.
        epochs: of training; the learning rate falls over the last of them.
        max_length: T.
    """
    config.model = small_glm(dim, layers, max_length)
    config.tokenizer = {"vocab_size": vocab}
    config.optim = {
        "learning_rate": 1e-3, "warmup_steps": 200, "clip_norm": 1.0, "weight_decay": 0.01,
        "cooldown_epochs": min(2.0, epochs / 4),
    }  # fmt: skip
    config.train = {"batch_size": 128, "epochs": epochs, "steps_per_call": 4}
    config.evaluation = {"max_examples": 500}
    return config


def paper(config: ConfigDict) -> ConfigDict:
    """Makes a config adapt a published model (`config.llm`) with the settings of 2308.10837.

    AdamW, peak rate 1e-5 after a warm-up, 8 epochs, 32 texts of at most 1,024 tokens on each of
    four devices (`train.batch_size` counts all), adapters of rank 8 on the family's own targets,
    which are the paper's (query_key_value, dense, dense_h_to_4h, dense_4h_to_h). The length of the
    warm-up is not published.
    """
    config.llm = "MODEL"
    config.method = "lora"
    config.lora = {"rank": 8, "alpha": 16.0}
    config.dtype, config.remat = "bfloat16", "full"
    config.length = 1024
    config.optim = {
        "learning_rate": 1e-5, "warmup_steps": 500, "weight_decay": 0.01, "clip_norm": 1.0,
    }  # fmt: skip
    config.train = {"batch_size": 128, "epochs": 8.0, "mesh": (1, -1, 1)}
    config.evaluation = {"max_examples": 500}
    return config


_P5_IDS = {None: "random", "leak": "p5_order", "order": "train_order", "published": "random"}


def p5(
    config: ConfigDict, arg: str | None, file: str, *, dim: int, layers: int, max_length: int
) -> ConfigDict:
    """Makes a config train P5: a new small T5, or a published one with the argument `published`.

    The arguments `leak` and `order` choose the items' numbers: P5's own, or their order in the
    training part; otherwise numbers are random.

    Args:
        config: with data, and `text` without `ids` and `answers`.
        arg: of the config.
        file: its name, for errors.
        dim: E.
        layers: of the encoder, and of the decoder.
        max_length: T.
    """
    if arg not in _P5_IDS:
        raise wrong_argument(file, arg, "none, leak, order or published")
    config.system = "p5"
    config.text.ids = _P5_IDS[arg]
    config.text.answers = {"max_examples": 100_000, "batch_size": 64}
    if arg == "published":
        config.llm = "MODEL"
    else:
        config.model = {
            "name": "t5", "dim": dim, "mlp_dim": 4 * dim, "layers": layers,
            "encoder_layers": layers, "heads": dim // _HEAD, "kv_heads": dim // _HEAD,
            "head_dim": _HEAD, "max_length": max_length,
        }  # fmt: skip
    config.whole_words, config.answer = 128, 8
    config.tokenizer = {"vocab_size": 500}
    config.optim = {
        "learning_rate": 1e-3, "warmup_steps": 500, "clip_norm": 1.0, "weight_decay": 0.01,
        "decay_epochs": 10.0,
    }  # fmt: skip
    config.train = {"batch_size": 256, "epochs": 10.0, "patience": 3}
    config.evaluation = {"max_examples": 2000}
    return config


def check_argument(arg: str | None, file: str, *known: str) -> None:
    """Raises `InputError` for an argument that a config does not know."""
    if arg is not None and arg not in known:
        names = ", ".join(f"'{name}'" for name in known) or "none"
        expected = names if not known else f"none or one of {names}"
        raise wrong_argument(file, arg, expected)
