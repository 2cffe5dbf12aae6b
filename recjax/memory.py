"""Memory: how much there is for what a config asks, and what becomes of what a process frees."""

import ctypes
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recjax.errors import InputError

if TYPE_CHECKING:  # every command imports this module, also those that need no arrays
    import numpy as np

# Of mallopt(3) in glibc: one heap, that grows for large blocks too and shrinks beyond 2 GiB only.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1
_KEEP = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


def host_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this host can give, without swap; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def check_memory(needed: Mapping[str, int], available: int | None) -> None:
    """Whether what a config asks for fits; the estimates are of what it takes at the least.

    Args:
        needed: bytes by the key that asks for them.
        available: bytes that there are; None = unknown, and everything fits.

    Raises:
        InputError: naming the key that asks for most.
    """
    total = sum(needed.values())
    if available is None or total <= available:
        return
    key = max(needed, key=lambda name: needed[name])
    raise InputError(
        f"{key}: takes {needed[key] / 1e9:,.1f} GB at the least, of {total / 1e9:,.1f} GB in all; "
        f"expected less, there are {available / 1e9:,.1f} GB"
    )


def forget(array: "np.ndarray") -> None:
    """Tells the system to drop the pages that were read of a mapped array, which stays readable.

    Else each page counts as this process's memory until the system needs it for another.
    """
    mapped = getattr(array, "_mmap", None)  # of np.memmap; none of other arrays
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def keep_freed() -> bool:
    """Makes this process keep freed memory for its next allocations.

    Each step on a CPU allocates its buffers anew. By default glibc maps large ones for each use and
    gives them back, so that the kernel clears all of their pages in every step; what that costs is
    in configs/results/interpreters.md. To be called before there are threads. It holds for the
    whole process, so libraries leave it to programs.

    Returns:
        Whether it did: other C libraries than glibc have no such settings.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(name, value) for name, value in _KEEP])
