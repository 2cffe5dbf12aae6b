"""What becomes of memory that a process frees."""

import ctypes
import sys

# Of mallopt(3) in glibc: one heap, that grows for large blocks too and shrinks beyond 2 GiB only.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1
_KEEP = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


def keep_freed() -> bool:
    """Has this process keep what it frees, for what it allocates next.

    Each step on a CPU allocates its buffers anew. By default glibc maps large ones for each use and
    gives them back, so that the kernel clears all of their pages in every step; what that costs is
    in configs/RESULTS.md ("Interpreters"). To be called before there are threads. It holds for the
    whole process, so libraries leave it to programs.

    Returns:
        Whether it did: other C libraries than glibc have no such settings.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(name, value) for name, value in _KEEP])
