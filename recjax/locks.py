"""Locks on folders: one process at a time writes a run or a store.

A lock is `flock` on a small file, which the kernel releases when the process dies, however it
dies. The file says who holds it. Where the file system has no such locks, a warning stands in.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
from pathlib import Path

from recjax.errors import InputError

# Without locks on this file system, or without room for the file.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.ENOSPC}
_held: dict[tuple[int, int], list[int]] = {}  # (device, inode) -> file descriptor, count
_guard = threading.Lock()


class Lock:
    """A lock that is held until `release`; the same process may take it again.

    Args:
        file: of the lock; its folder exists. It is removed by `release`.
        what: is locked, for messages.

    Raises:
        InputError: another process holds it, named where it can be; the file cannot be written.
    """

    def __init__(self, file: Path, what: Path):
        self.file = file
        self._key: tuple[int, int] | None = None
        try:
            with _guard:
                while not self._acquired(what):
                    pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise InputError(f"cannot write {file}: {error.strerror or error}") from error
            print(
                f"recjax: {what}: cannot be locked here ({error.strerror}); take care that no "
                "other process writes it",
                file=sys.stderr,
            )

    def _acquired(self, what: Path) -> bool:
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            entry = os.fstat(handle)
            key = (entry.st_dev, entry.st_ino)
            if key in _held:
                os.close(handle)
                _held[key][1] += 1
                self._key = key
                return True
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _same(self.file, key):  # its last holder has just removed it
                os.close(handle)
                return False
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise InputError(f"{what}: in use by {holder}; wait until that ends") from None
        except BaseException:
            os.close(handle)
            raise
        _held[key] = [handle, 1]
        self._key = key
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        with contextlib.suppress(OSError):  # no room: the lock holds without a name
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode(), 0)
        return True

    def release(self) -> None:
        """Releases the lock; a second call does nothing."""
        with _guard:
            key, self._key = self._key, None
            if key is None:
                return
            handle, count = _held[key]
            if count > 1:
                _held[key][1] -= 1
                return
            del _held[key]
            if _same(self.file, key):
                with contextlib.suppress(OSError):
                    self.file.unlink()
            os.close(handle)


def _same(file: Path, key: tuple[int, int]) -> bool:
    try:
        entry = file.stat()
    except OSError:
        return False
    return (entry.st_dev, entry.st_ino) == key


def _holder(handle: int) -> str:
    """Who wrote the lock's file."""
    try:
        record = json.loads(os.pread(handle, 1000, 0))
        pid, host = record["pid"], record["host"]
        if isinstance(pid, int) and isinstance(host, str) and host.isprintable():
            return f"process {pid} on {host[:100]}"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return "another process"
