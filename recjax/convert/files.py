"""Reading and writing state dicts: arrays by key in `.safetensors`, `.npz`, `.pt` or `.pth`.

recjax never unpickles: `.npz` is read with `allow_pickle=False`, and `.pt` or `.pth` only by torch
itself, where it is installed, with `weights_only=True`.
"""

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from recjax.errors import InputError


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict by key.

    Raises:
        InputError: naming the file: missing, damaged, of an unknown kind, with something in it that
            is no array, or `.pt` where torch is not installed.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: expected a file that ends in {', '.join(_READERS)}")
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
        InputError: naming the file: of another kind, there already, or not writable.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise InputError(f"{path}: expected a file that ends in {', '.join(_WRITERS)}")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: there is a file already; --overwrite replaces it")
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        _WRITERS[path.suffix](temporary, state)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error}") from error


@contextlib.contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write in, which takes its place when the block ends without an error.

    A kill at any moment leaves the old folder or the new one; between its two renames, the old one
    stands beside its place, and `settled` puts it back.

    Raises:
        InputError: something stands there already, or the place cannot be written.
    """
    path = path.absolute()
    require_free(path, overwrite=overwrite)
    temporary, old = path.with_name(f"{path.name}.tmp"), _old(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def require_free(path: Path, *, overwrite: bool) -> None:
    """Refuses a place for a folder where something stands that may not be replaced."""
    settled(path)
    if path.exists() and not (path.is_dir() and (overwrite or not any(path.iterdir()))):
        raise InputError(f"{path}: not empty; choose another folder, or --overwrite")


def settled(path: Path) -> Path:
    """The path; what a kill left beside it is back in its place."""
    old = _old(path)
    if old.is_dir() and not path.exists():
        os.rename(old, path)
    return path


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError
    return safetensors.numpy.load_file(path)


def _write_safetensors(path: Path, state: Mapping[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(dict(state), path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError("no zip archive")
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _write_npz(path: Path, state: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **state)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError
    try:
        import torch  # the one place in recjax; tests/unit/test_imports.py knows it
    except ImportError:
        raise InputError(
            f"{path}: reading {path.suffix} needs torch, which is not installed; where it is, "
            "safetensors.torch.save_file(torch.load(FILE, map_location='cpu', weights_only=True), "
            "'FILE.safetensors') makes a file that recjax reads"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's message advises to trust the file
        raise InputError(
            f"{path}: not a file of tensors alone; save the model's state_dict()"
        ) from None
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
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
}
_WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
}
