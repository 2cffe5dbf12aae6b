"""Settings in the files beside a tokenizer: its tokens' roles, how a text begins and ends.

Everything is checked as it is read: a value of another type is one line with the file and the key.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.ranges import short

ROLES = ("bos", "eos", "pad", "unk")
CONFIG = "tokenizer_config.json"
CONFIGS = ("special_tokens_map.json", CONFIG)  # the second one wins
# Names that say the role where no file does.
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
_USUAL = {
    "bos": (BOS, "<|begin_of_text|>", "<|endoftext|>"),
    "eos": (EOS, "<|end_of_text|>", "<|endoftext|>"),
    "pad": (PAD, "<|finetune_right_pad_id|>"),
    "unk": ("<unk>",),
}
# Ids are below it: tables have a row an id. The largest vocabularies have a million.
MOST = 1 << 24
# Bytes of a tokenizer.json, a vocab.json or a tokenizer.model; the largest have 35 million.
LARGEST = 1 << 27


class Engine(Protocol):
    """Turns text into ids; see `_token_engines`."""

    size: int
    usual: ClassVar[Mapping[str, tuple[str, ...]]]  # names that say the role before the usual ones

    def id_of(self, token: str) -> int | None:
        """The id of a token, or None."""


class Added(NamedTuple):
    """A token that was added to a vocabulary.

    Attributes:
        id: its id.
        special: it is a control token.
        lstrip, rstrip: it takes the blanks before and after it into itself.
        single_word: it is none inside a word.
    """

    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @property
    def flags(self) -> dict[str, bool]:
        """Arguments of `tokenizers.AddedToken`."""
        return {"normalized": False, **dict(zip(self._fields[1:], self[1:], strict=True))}


@dataclasses.dataclass(frozen=True)
class Settings:
    """`tokenizer_config.json`, as far as it says how a text becomes tokens.

    Attributes:
        add_bos, add_eos: whether a text begins and ends with the token for that; None: not said.
        prefix: `add_prefix_space`; None: not said.
        legacy: a SentencePiece model puts its blank before what follows a token that was added,
            too.
        kind: `tokenizer_class` without "Fast".
        sentinels: `extra_ids` of T5.
    """

    add_bos: bool | None = None
    add_eos: bool | None = None
    prefix: bool | None = None
    legacy: bool = False
    kind: str = ""
    sentinels: int = 100


def read_settings(folder: Path) -> Settings:
    """The settings of a folder; the defaults where it has no `tokenizer_config.json`.

    Raises:
        InputError: naming the file and the key.
    """
    file = folder / CONFIG
    values = read_optional(file)

    def flag(key: str) -> bool | None:
        value = values.get(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{file}: '{key}' is {short(value)}, expected true or false")
        return value

    kind = values.get("tokenizer_class")
    if kind is not None and not isinstance(kind, str):
        raise InputError(f"{file}: 'tokenizer_class' is {short(kind)}, expected a name")
    sentinels = values.get("extra_ids", Settings.sentinels)
    if type(sentinels) is not int or not 0 <= sentinels < MOST:
        raise InputError(f"{file}: 'extra_ids' is {short(sentinels)}, expected a number of tokens")
    return Settings(
        flag("add_bos_token"),
        flag("add_eos_token"),
        flag("add_prefix_space"),
        bool(flag("legacy")),
        (kind or "").removesuffix("Fast"),
        sentinels,
    )


def strips(name: str) -> bool:
    """Whether a token takes the blanks before it into itself: GLM's masks do."""
    return name in ("[MASK]", "[sMASK]", "[gMASK]", "<mask>")


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object of a tokenizer's folder; empty where there is no such file."""
    return read_object(path, largest=LARGEST) if path.exists() else {}


def check_ids(vocab: dict[str, Any], where: str) -> None:
    """Whether each token of a vocabulary has a plausible id.

    Raises:
        InputError: naming the token.
    """
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < MOST:
            raise InputError(
                f"{where}: the token {short(token)} has the id {short(index)}, expected a number "
                f"from 0 to {MOST - 1:,}"
            )


def added_tokens(folder: Path) -> dict[str, Added]:
    """Tokens that were added to a folder's tokenizer, by name.

    Raises:
        InputError: naming the file and the key of what is no token.
    """
    plain = read_optional(folder / "added_tokens.json")
    check_ids(plain, str(folder / "added_tokens.json"))
    out = {name: Added(index) for name, index in plain.items()}
    file = folder / CONFIG
    decoder = read_optional(file).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise InputError(f"{file}: 'added_tokens_decoder' is {short(decoder)}, expected an object")
    entries = []
    for key, token in decoder.items():
        where = f"{file}: added_tokens_decoder"
        if not key.isdecimal() or not isinstance(token, dict):
            raise InputError(f"{where}: {short(key)}: expected an id and its token, an object")
        entries.append((where, {**token, "id": int(key[:20])}))
    file = folder / "tokenizer.json"
    listed = read_optional(file).get("added_tokens") or []
    if not isinstance(listed, list) or not all(isinstance(token, dict) for token in listed):
        raise InputError(f"{file}: 'added_tokens' is no list of tokens, each an object")
    entries += [(f"{file}: added_tokens", token) for token in listed]
    for where, token in entries:
        name = token.get("content")
        if not isinstance(name, str):
            raise InputError(f"{where}: 'content' is {short(name)}, expected a token's name")
        check_ids({name: token.get("id")}, where)
        out[name] = Added(token["id"], *(bool(token.get(key)) for key in Added._fields[1:]))
    return out


def roles(folder: Path, engine: Engine) -> dict[str, int]:
    """The ids of the tokens that begin, end and pad a text, as far as there are any.

    Raises:
        InputError: naming the file and the role: no name, or the name of no token.
    """
    named: dict[str, str] = {}
    for file in CONFIGS:
        values = read_optional(folder / file)
        for role in ROLES:
            token = values.get(f"{role}_token")
            name = token.get("content") if isinstance(token, dict) else token
            if (name is None and token is None) or name == "":  # the first LLaMA's has names of ""
                continue
            if not isinstance(name, str):
                raise InputError(
                    f"{folder / file}: '{role}_token' is {short(token)}, expected a token's name"
                )
            if engine.id_of(name) is None:
                raise InputError(f"{folder / file}: {role}_token '{name}' is no token")
            named[role] = name
    model = read_optional(folder / "config.json")
    out = {}
    for role in ROLES:
        index = model.get(f"{role}_token_id")
        index = index[0] if isinstance(index, list) and index else index  # LLaMA 3 has several ends
        if role in named:
            index = engine.id_of(named[role])
        elif type(index) is not int or not 0 <= index < engine.size:
            usual = map(engine.id_of, (*engine.usual.get(role, ()), *_USUAL[role]))
            index = next((k for k in usual if k is not None), None)
        if index is not None:
            out[role] = index
    return out
