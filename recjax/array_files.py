"""The one reader of .npz files: nothing is unpickled, and no small file fills the memory."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from recjax.errors import InputError

_FREE = 1 << 28  # bytes of arrays that any file may hold
_MOST = 100  # times the file's size that they may have beyond that


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Raises:
        InputError: naming the file: missing, damaged, an array of objects, or arrays of more than
            256 MiB that have more than 100 times the size of the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: expected a file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            size = sum(info.file_size for info in archive.infolist())
            if size > max(_FREE, _MOST * path.stat().st_size):
                raise InputError(
                    f"{path}: {size / 1e9:.1f} GB of arrays in a file of "
                    f"{path.stat().st_size:,} bytes; expected them less compressed"
                )
            return {name: _read(archive, info, f"{path}: {name}") for name, info in members.items()}
    except InputError:
        raise
    except Exception as error:  # of zip, of each way to compress, of numpy's headers
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not readable as .npz ({reason})") from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> np.ndarray:
    with archive.open(info) as file:
        shape, order, dtype = _header(file)
        if dtype.hasobject:
            raise InputError(f"{where}: an array of objects; expected numbers")
        # A header that claims more would have it allocated.
        if file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise InputError(f"{where}: damaged (not as many bytes as {shape} of {dtype} have)")
        data = file.read()
    array = np.frombuffer(bytearray(data), dtype, count=math.prod(shape))
    return array.reshape(shape, order="F" if order else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
