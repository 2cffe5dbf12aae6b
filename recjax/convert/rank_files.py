"""Checkpoints that model-parallel training wrote, a file a rank: their tensors joined.

The files are `mp_rank_00_model_states.safetensors`, `mp_rank_01_...` and so on, or `.pt`, which
only torch opens (`recjax.convert.files`). They stand beside `config.json`, or in the folder that
`latest` or `latest_checkpointed_iteration.txt` there names.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from recjax.convert.files import read_state
from recjax.convert.tensors import Index, Tensor, read_file, same, tensor_of
from recjax.errors import InputError
from recjax.ranges import short

_NAME = re.compile(r"mp_rank_(\d+)_model_states\.(safetensors|pt)")
_POINTERS = ("latest", "latest_checkpointed_iteration.txt")


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a tensor is cut among the ranks.

    Attributes:
        axis: along which.
        blocks: equal parts of the whole tensor, each of which is cut for itself.
    """

    axis: int
    blocks: int = 1


def place_of(folder: Path) -> Path | None:
    """Where a folder's files of ranks stand; None: it has none.

    Raises:
        InputError: a pointer that names no folder beside it.
    """
    if _ranked(folder):
        return folder
    for name in _POINTERS:
        if not (folder / name).is_file():
            continue
        told = (folder / name).read_text(encoding="utf-8", errors="replace").strip()
        place = folder / told
        if not told or Path(told).name != told or not told.isprintable() or not place.is_dir():
            raise InputError(f"{folder / name}: {short(told)} is no folder beside it")
        return place if _ranked(place) else None
    return None


def _ranked(folder: Path) -> dict[str, list[Path]]:
    """The files of ranks by their ending, in the order of their numbers."""
    found: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match:
            found.setdefault(match[2], {})[int(match[1])] = path
    return {end: [files[rank] for rank in sorted(files)] for end, files in found.items()}


def read(
    place: Path, cuts: Mapping[str, Cut], bare: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """The tensors of all ranks, joined.

    Args:
        place: of `place_of`.
        cuts: regex over names -> how those tensors are cut; all others are whole in every rank.
        bare: a name without prefixes.

    Raises:
        InputError: naming the file: a rank that is missing, tensors that do not fit each other,
            a damaged file, `.pt` where torch is not installed.
    """
    ranked = _ranked(place)
    end = "safetensors" if "safetensors" in ranked else "pt"
    files = ranked[end]
    for rank, file in enumerate(files):
        wanted = f"mp_rank_{rank:02d}_model_states.{end}"
        if file.name != wanted:
            raise InputError(f"{place / wanted}: missing; {files[-1].name} is there")
    parts = [{bare(key): tensor for key, tensor in _tensors(file).items()} for file in files]
    for file, part in zip(files[1:], parts[1:], strict=True):
        other = sorted(part.keys() ^ parts[0].keys())
        if other:
            raise InputError(
                f"{file}: '{other[0]}' is only in one of this file and {files[0].name}"
            )
    return {key: _joined(key, [part[key] for part in parts], cuts) for key in parts[0]}


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_file(file)
    return {key: tensor_of(array, str(file)) for key, array in read_state(file).items()}


def _joined(key: str, parts: list[Tensor], cuts: Mapping[str, Cut]) -> Tensor:
    cut = next((cut for pattern, cut in cuts.items() if re.fullmatch(pattern, key)), None)
    first, *rest = parts
    if not rest:
        return first
    if cut is None:
        for tensor in rest:
            if not same(tensor, first):
                raise InputError(f"{tensor.source}: '{key}' differs from that of {first.source}")
        return first
    for tensor in parts:
        fits = tensor.shape == first.shape and tensor.dtype == first.dtype
        if not fits or len(tensor.shape) <= cut.axis or tensor.shape[cut.axis] % cut.blocks:
            raise InputError(
                f"{tensor.source}: '{key}' has shape {tensor.shape} and type {tensor.dtype}, "
                f"which do not fit {first.shape} and {first.dtype} of {first.source}"
            )

    def read(index: Index) -> np.ndarray:
        blocks = [np.split(tensor.read(), cut.blocks, axis=cut.axis) for tensor in parts]
        return np.concatenate([b for each in zip(*blocks, strict=True) for b in each], cut.axis)[
            index
        ]

    shape = list(first.shape)
    shape[cut.axis] *= len(parts)
    return Tensor(tuple(shape), first.dtype, first.source, read)
