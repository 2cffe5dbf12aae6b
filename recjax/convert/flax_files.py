"""`flax_model.msgpack`: the files of transformers' former Flax models, in and out.

state = read_folder("FOLDER")           # {"model/embed_tokens/embedding": Tensor, ...}
write_folder("FOLDER", state)

Nested dicts in flax's msgpack form; shards with `flax_model.msgpack.index.json` hold flat ones. A
file is read whole. transformers 4.57 is the last version that has these models.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.convert.tensors import Tensor, read_index, same, tensor_of, transposed
from recjax.errors import InputError

SINGLE = "flax_model.msgpack"
INDEX = "flax_model.msgpack.index.json"
TABLE, HEAD = "model/embed_tokens/embedding", "lm_head/kernel"


def rules_of(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules under Flax's names, from those under PyTorch's: its kernels are as ours."""

    def name(rule: Rule) -> str:
        path, _, last = rule.theirs.replace(".", "/").rpartition("/")
        return f"{path}/kernel" if rule.transform is TRANSPOSE else f"{path}/{last}"

    named = [Rule(name(rule), rule.ours) for rule in rules]
    table = TABLE.removesuffix("embedding")
    return tuple(
        Rule(TABLE, rule.ours) if rule.theirs.startswith(table) else rule for rule in named
    )


def read_folder(folder: Path, *, tied: bool, largest: int) -> dict[str, Tensor]:
    """The tensors of a folder by path.

    Args:
        folder: with the files.
        tied: whether the head is the embedding, by the config. These models never tied it, so
            that the file has both.
        largest: bytes that the model's numbers take at most, with what stands around them.

    Raises:
        InputError: naming the file: missing, damaged, an index that does not fit its shards; a
            tied model with a head of its own.
    """
    whole = folder / SINGLE
    state = _read_file(whole, largest) if whole.is_file() else _read_shards(folder, largest)
    if tied and HEAD in state and TABLE in state:
        head = state.pop(HEAD)
        if not same(head, transposed(state[TABLE])):
            raise InputError(
                f"{head.source}: '{HEAD}' differs from '{TABLE}', but config.json has "
                "'tie_word_embeddings' true: one of them is wrong"
            )
    return state


def _read_shards(folder: Path, largest: int) -> dict[str, Tensor]:
    where = read_index(folder / INDEX)
    out: dict[str, Tensor] = {}
    for name in dict.fromkeys(where.values()):
        out |= _read_file(folder / name, largest)
    unlike = sorted(out.keys() ^ where.keys())
    if unlike:
        raise InputError(f"{folder / INDEX}: '{unlike[0]}' is not in both the index and its files")
    return out


def _read_file(path: Path, largest: int) -> dict[str, Tensor]:
    size = path.stat().st_size
    if size > largest:
        raise InputError(
            f"{path}: {size:,} bytes; expected at most {largest:,} for a model of config.json's "
            "sizes"
        )
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        flat = traverse_util.flatten_dict(tree, sep="/")
    except Exception as error:  # msgpack has many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not a readable msgpack file ({reason})") from error
    for key, value in flat.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"{path}: '{key}' is a {type(value).__name__}, expected an array")
    return {key: tensor_of(value, str(path)) for key, value in flat.items()}


def write_folder(folder: Path, state: Mapping[str, Tensor], *, tied: bool) -> None:
    """Writes `flax_model.msgpack`; holds all tensors in memory.

    Args:
        folder: exists.
        state: tensors by path.
        tied: whether the head is the embedding: it is written twice.
    """
    if tied:
        state = {**state, HEAD: transposed(state[TABLE])}
    flat = {key: np.ascontiguousarray(state[key].read()) for key in sorted(state)}
    tree: dict[str, Any] = traverse_util.unflatten_dict(flat, sep="/")
    (folder / SINGLE).write_bytes(serialization.msgpack_serialize(tree, in_place=True))
