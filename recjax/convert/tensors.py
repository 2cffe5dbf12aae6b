"""Tensors of checkpoint files that are read when needed, part by part.

A folder of Hugging Face's safetensors (one file, or shards with an index) becomes a dict of
`Tensor`s by key: shapes and types at once, numbers slice by slice. Files are opened for each read
and closed after it: pages of a memory map stay counted to the process as long as it stands.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.paths import check_no_pointer
from recjax.ranges import short

Index = tuple[slice, ...]

# The types of numbers in weights, by their name in safetensors, in that library's order of files.
FLOATS: dict[str, np.dtype] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("float16"),
}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# A part of a tensor that is read at once, in bytes.
CHUNK = 1 << 25


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is not in memory yet.

    Attributes:
        shape: of all of it.
        dtype: of its numbers, or the file's name for a type that numpy lacks.
        source: where it stands, for errors.
        reader: the numbers at an index, a slice an axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | str
    source: str
    reader: Callable[[Index], np.ndarray]

    def read(self, index: Index | None = None) -> np.ndarray:
        """The numbers at an index, by default all."""
        return self.reader(tuple(slice(None) for _ in self.shape) if index is None else index)


def tensor_of(array: np.ndarray, source: str) -> Tensor:
    """A tensor in memory."""
    return Tensor(array.shape, array.dtype, source, lambda index: array[index])


def transposed(tensor: Tensor) -> Tensor:
    """A matrix with its axes exchanged."""
    return dataclasses.replace(
        tensor, shape=tensor.shape[::-1], reader=lambda index: tensor.read(index[::-1]).T
    )


def joined(tensors: list[Tensor], axis: int) -> Tensor:
    """Matrices side by side along one axis, as one.

    Raises:
        InputError: one is no matrix; their other axes or types differ.
    """
    first = tensors[0]
    rest = [[n for at, n in enumerate(t.shape) if at != axis] for t in tensors]
    for tensor, shape in zip(tensors, rest, strict=True):
        if len(tensor.shape) != 2 or shape != rest[0] or tensor.dtype != first.dtype:
            raise InputError(
                f"{tensor.source}: shape {tensor.shape} and type {tensor.dtype} do not fit "
                f"{first.shape} and {first.dtype} of {first.source}"
            )
    shape = list(first.shape)
    shape[axis] = sum(t.shape[axis] for t in tensors)

    def read(index: Index) -> np.ndarray:
        return np.concatenate([t.read() for t in tensors], axis=axis)[index]

    return Tensor(tuple(shape), first.dtype, first.source, read)


def chunks(spans: Index, itemsize: int) -> Iterator[slice]:
    """Slices of the first axis that hold at most `CHUNK` bytes, or one row."""
    row = math.prod(s.stop - s.start for s in spans[1:]) * itemsize
    step = max(1, CHUNK // max(1, row))
    for start in range(spans[0].start, spans[0].stop, step):
        yield slice(start, min(start + step, spans[0].stop))


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; reads parts until they differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    spans = tuple(slice(0, n) for n in a.shape)
    parts = ((rows, *spans[1:]) for rows in chunks(spans, np.dtype(a.dtype).itemsize))
    return all(np.array_equal(a.read(part), b.read(part)) for part in parts)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: of `model.safetensors`, else of the shards that its index names.

    Raises:
        InputError: naming the file: none there, a missing, truncated or damaged file, an index
            that does not fit its shards; `pytorch_model.bin` alone, which is never unpickled.
    """
    if (folder / SINGLE).exists():
        return read_file(folder / SINGLE)
    if (folder / INDEX).exists():
        return _read_shards(folder / INDEX)
    pickles = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise InputError(
            f"{folder / pickles[0]}: a pickle can run code and is not read; where torch is "
            f"installed, scripts/torch_to_safetensors.py FOLDER NEW_FOLDER makes {SINGLE} of it"
        )
    raise InputError(f"{folder}: expected {SINGLE} or {INDEX}")


def read_index(path: Path) -> dict[str, str]:
    """The name of the shard of each key, by an index; the shards are there, beside it.

    Raises:
        InputError: naming the index and the key, or the shard that is missing.
    """
    where = read_object(path).get("weight_map")
    if not isinstance(where, dict):
        raise InputError(f"{path}: expected 'weight_map', the file of each key")
    for key, name in where.items():
        if not isinstance(name, str):
            raise InputError(
                f"{path}: weight_map: '{key}' is {short(name)}, expected the name of a file"
            )
    for name in dict.fromkeys(where.values()):
        if not name or Path(name).name != name or not name.isprintable():
            raise InputError(f"{path}: {short(name)}: expected the name of a file beside it")
        if not (path.parent / name).is_file():
            raise InputError(f"{path.parent / name}: missing; {path.name} names it")
    return where


def _read_shards(path: Path) -> dict[str, Tensor]:
    where = read_index(path)
    out: dict[str, Tensor] = {}
    for name in dict.fromkeys(where.values()):
        shard = path.parent / name
        for key, tensor in read_file(shard).items():
            if where.get(key, name) != name:  # old indices leave out buffers
                raise InputError(
                    f"{shard}: holds '{key}', which {path.name} does not look for there"
                )
            out[key] = tensor
    for key, name in where.items():
        if key not in out:
            raise InputError(
                f"{path.parent / name}: lacks the key '{key}', which {path.name} names"
            )
    return out


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file.

    Raises:
        InputError: naming the file: missing, truncated or damaged.
    """

    def opened() -> Any:
        try:
            return safetensors.safe_open(path, framework="numpy")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, safetensors.SafetensorError) as error:
            check_no_pointer(path)
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: not a complete safetensors file, truncated or damaged ({reason})"
            ) from None

    def tensor(key: str, described: Any) -> Tensor:
        def read(index: Index) -> np.ndarray:
            with opened() as file:
                return file.get_slice(key)[index]

        name = described.get_dtype()
        return Tensor(tuple(described.get_shape()), FLOATS.get(name, name), str(path), read)

    with opened() as file:
        return {key: tensor(key, file.get_slice(key)) for key in file.keys()}  # noqa: SIM118


def write_folder(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    """Writes tensors as `model.safetensors`, or as shards with an index above a size.

    Files are named as transformers names them, and filled in the order of the model.

    Args:
        folder: exists.
        tensors: by key, in the order of the model.
        shard_bytes: the largest size of a file, but for a tensor that is larger itself.
    """
    shards = list(split(tensors, shard_bytes))
    if len(shards) == 1:
        write_file(folder / SINGLE, tensors)
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard)
        where |= dict.fromkeys(shard, name)
    index = {
        "metadata": {
            "total_parameters": sum(math.prod(t.shape) for t in tensors.values()),
            "total_size": sum(map(_bytes, tensors.values())),
        },
        "weight_map": dict(sorted(where.items())),
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")


def split(tensors: Mapping[str, Tensor], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of each file of `write_folder`, in the order in which they are written."""
    current: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if _bytes(tensor) > shard_bytes:
            yield {key: tensor}
            continue
        if sum(map(_bytes, current.values())) + _bytes(tensor) > shard_bytes:
            yield current
            current = {}
        current[key] = tensor
    if current:
        yield current


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    rank = {dtype: at for at, dtype in enumerate(FLOATS.values())}
    return sorted(tensors, key=lambda key: (rank[np.dtype(tensors[key].dtype)], key))


def read_as_written(tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    """Reads all tensors in the order of `write_folder`, and keeps none: for a process beside the
    one that writes, where both have parts of them."""
    for shard in split(tensors, shard_bytes):
        for key in _order(shard):
            shard[key].read()


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file tensor by tensor, as transformers would write it, byte by byte."""
    kinds = {dtype: name for name, dtype in FLOATS.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    order = _order(tensors)
    end = 0
    for key in order:
        tensor = tensors[key]
        begin, end = end, end + _bytes(tensor)
        kind = kinds[np.dtype(tensor.dtype)]
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            array = np.ascontiguousarray(tensors[key].read())
            file.write(array.view(np.uint8).reshape(-1).data)


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
