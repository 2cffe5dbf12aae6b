"""Tokens before and after a text; GLM's command tokens, which its published files imply."""

from pathlib import Path
from typing import Any

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.ranges import short
from recjax.text._chatglm_engine import ChatGLMEngine
from recjax.text._glm_engines import WORDS
from recjax.text._token_engines import FastEngine, SentencePieceEngine
from recjax.text._token_settings import (
    CONFIG,
    Added,
    Settings,
    added_tokens,
    read_optional,
    strips,
)

Engine = FastEngine | SentencePieceEngine | ChatGLMEngine
_GPT2_IDS, _ROBERTA_IDS = 50257, 50265
# RoBERTa's own tokens, which its vocab.json has.
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# GLM's, behind GPT-2's ids (2B, 10B), in their order.
GLM_COMMANDS = (
    "<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[UNK]", "[gMASK]", "[sMASK]",
    "[dBLOCK]",
)  # fmt: skip
T5_PIECES = "spiece.model"  # SentencePiece's, with sentinels behind its ids
END_PIECES = ("<|endofpiece|>", "<eop>")  # end what is written in a blank
_GLM_CLASSES = (
    "GLMGPT2Tokenizer", "GLMChineseTokenizer", "GLMBertTokenizer", "GLMRobertaTokenizer",
)  # fmt: skip
_GLM_MODEL = "glm"  # `model_type`, also of GLM-4, whose folders have a tokenizer.json


def is_glm(folder: Path, settings: Settings) -> bool:
    """Whether a folder is of GLM (Du et al. 2022): by its tokenizer's class, else its model."""
    if settings.kind:
        return settings.kind in _GLM_CLASSES
    model = read_optional(folder / "config.json")
    return model.get("model_type") == _GLM_MODEL and "num_layers" in model


def gpt2_added(vocab: Path, glm: bool) -> dict[str, Added]:
    """Tokens beside GPT-2's vocab.json, by name; of GLM its command tokens.

    A GLM with RoBERTa's vocabulary has RoBERTa's own tokens, and two behind them.

    Raises:
        InputError: naming the file: ids that do not follow the vocabulary's.
    """
    folder = vocab.parent
    known = read_object(vocab, largest=1 << 27)
    added = added_tokens(folder)
    if glm and not added and len(known) == _GPT2_IDS:
        added = {name: Added(_GPT2_IDS + k, True) for k, name in enumerate(GLM_COMMANDS)}
    roberta = glm and all(name in known for name in _ROBERTA)
    if roberta and not added and len(known) == _ROBERTA_IDS:
        added = {name: Added(_ROBERTA_IDS + k, True) for k, name in enumerate(GLM_COMMANDS[:2])}
    if roberta:
        added |= {n: Added(known[n], True) for n in _ROBERTA if type(known[n]) is int}
    if glm:
        added = {
            name: token._replace(special=True, lstrip=token.lstrip or strips(name))
            for name, token in added.items()
        }
    new = sorted(token.id for name, token in added.items() if name not in known)
    first = 1 + max((i for i in known.values() if type(i) is int), default=-1)
    if new != list(range(first, first + len(new))):
        raise InputError(
            f"{folder / 'added_tokens.json'}: ids {short(new)}; expected those from {first} on, "
            "which follow vocab.json's"
        )
    for name, token in added.items():
        if known.get(name, token.id) != token.id:
            raise InputError(
                f"{folder / 'added_tokens.json'}: '{name}' has the id {token.id}, but "
                f"{known[name]} in vocab.json"
            )
    return added


def folder_ends(
    main: Path, engine: Engine, settings: Settings, ids: dict[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens that the folder of a tokenizer's main file puts before and after a text.

    By the post-processor of a tokenizer.json; by the rule of GLM, ChatGLM, BERT and T5; else
    by
    `add_bos_token` and `add_eos_token`.

    Raises:
        InputError: the settings ask for a token that the tokenizer does not have.
    """
    if isinstance(engine, ChatGLMEngine):
        return engine.ends()
    beside = main.with_name("tokenizer.json")
    if isinstance(engine, FastEngine) and main.name not in ("vocab.json", WORDS):
        return engine.ends()
    if beside.is_file():
        return FastEngine.of_json(beside).ends()
    if main.name == WORDS or is_glm(main.parent, settings):
        around = ("[CLS]", "<s>"), ("<|endoftext|>", "</s>", "[SEP]")
        first_ids = ([k for k in map(engine.id_of, names) if k is not None][:1] for names in around)
        return tuple(tuple(index) for index in first_ids)  # type: ignore[return-value]
    llama = isinstance(engine, SentencePieceEngine) and "bos" in ids
    wanted = {"bos": llama if settings.add_bos is None else settings.add_bos}
    wanted["eos"] = main.name == T5_PIECES if settings.add_eos is None else settings.add_eos
    for role, on in wanted.items():
        if on and role not in ids:
            file = main.with_name(CONFIG)
            raise InputError(f"{file}: 'add_{role}_token' is true, but there is no {role} token")
    begin, end = ((ids[role],) if wanted[role] else () for role in ("bos", "eos"))
    return begin, end


def add_ends(tokenizer: Any, begin: tuple[int, ...], end: tuple[int, ...]) -> None:
    """Makes Transformers put these tokens before and after every text."""
    from tokenizers import processors

    names = {index: tokenizer.id_to_token(index) for index in (*begin, *end)}
    single, second = (
        [*(f"{names[k]}:{n}" for k in begin), f"{text}:{n}", *(f"{names[k]}:{n}" for k in end)]
        for n, text in enumerate(("$A", "$B"))
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *second],
        special_tokens=[(name, index) for index, name in names.items()],
    )
