"""Reading and writing state dicts: arrays by key in `.safetensors`, `.npz`, `.pt` or `.pth`.

recjax never unpickles: `.npz` is read by `recjax.array_files`, and `.pt` or `.pth` only by torch
itself, where it is installed, with `weights_only=True`.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from recjax.array_files import read_npz
from recjax.errors import InputError
from recjax.out_files import check_out
from recjax.replace import new_file


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict by key.

    Raises:
        InputError: naming the file: missing, damaged, of an unknown kind, with something in it that
            is no array, or `.pt` where torch is not installed.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: expected a name that ends in {', '.join(_READERS)}")
    try:
        return reader(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except Exception as error:  # each library has its own kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable {path.suffix} file ({reason})") from error


def write_state(
    path: str | Path, state: Mapping[str, np.ndarray], *, overwrite: bool = False
) -> None:
    """Writes a state dict as `.safetensors` or `.npz`, complete or not at all.

    Raises:
        InputError: naming the file: of another kind, there already (`overwrite` replaces a
            file with the same keys), or not writable.
    """
    path = Path(path)
    check_out(
        path, _WRITERS, flag="", overwrite=overwrite, ours=lambda path: _keys(path) == set(state)
    )
    with new_file(path) as file:
        _WRITERS[path.suffix](file, state)


def _keys(path: Path) -> set[str] | None:
    """The keys of a state dict; None for another file. Files bear no sign of ours: they are byte
    by byte what other libraries write."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return {name.removesuffix(".npy") for name in archive.namelist()}
        with safetensors.safe_open(path, "numpy") as tensors:
            return set(tensors.keys())
    except (OSError, zipfile.BadZipFile, safetensors.SafetensorError):
        return None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError
    return safetensors.numpy.load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError
    try:
        import torch  # the one place in recjax; tests/unit/test_imports.py knows it
    except ImportError:
        raise InputError(
            f"{path}: reading {path.suffix} needs torch, which is not installed; where it is, "
            "scripts/torch_to_safetensors.py FILE NEW_FILE makes a file that recjax reads"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's message advises to trust the file
        raise InputError(
            f"{path}: not a file of tensors alone; save the model's state_dict()"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("module"), Mapping):
        state = state["module"]  # of a training checkpoint, beside its optimiser
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    out = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path}: '{key}' is a {type(value).__name__}, expected a tensor; save the model's "
                "state_dict() alone"
            )
        try:
            if value.dtype == torch.bfloat16:  # which torch does not hand to numpy
                bits = value.detach().view(torch.int16).numpy()
                out[str(key)] = bits.view(ml_dtypes.bfloat16)
            else:
                out[str(key)] = value.detach().numpy()
        except TypeError:
            raise InputError(f"{path}: '{key}' is {value.dtype}, expected float32") from None
    return out


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".npz": read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
}
_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Any]], Any]] = {
    ".safetensors": lambda file, state: file.write(safetensors.numpy.save(dict(state))),
    ".npz": lambda file, state: np.savez(file, **state),
}
