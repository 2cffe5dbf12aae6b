"""New folders and files, and what they may take the place of.

Nothing is ever deleted that recjax did not write:

- A folder is replaced only if it bears our sign and holds nothing else: a run's `config.json`, a
  store's `manifest.json`, and in every other folder the list `.recjax` of its files.
- A home folder, a mount point, the current folder and the folders that hold one of them stay,
  whatever they bear. A link stays too; what it points to is replaced.
- The new folder is built whole, beside the old one and under a name of its own. Two renames swap
  them, and the old one goes last. A kill leaves one of the two in its place, or the old one hidden
  beside it, from where `recovered` puts it back.
"""

import contextlib
import errno
import fnmatch
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO

from recjax.errors import InputError
from recjax.locks import Lock

SIGN = ".recjax"
# Patterns of the names (relative, with "/") that recjax has written into a folder; None: no sign.
Known = Callable[[Path], Collection[str] | None]


def signed(folder: Path) -> Collection[str] | None:
    """`Known` of a folder that bears `.recjax`."""
    try:
        record = json.loads((folder / SIGN).read_text(encoding="utf-8"))
        names = record["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return [SIGN, *map(_literal, names)]


def _literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def write_sign(folder: Path) -> None:
    """Lists what the folder holds in its `.recjax`."""
    names = sorted(_files(folder))
    (folder / SIGN).write_text(json.dumps({"files": names}, indent=1) + "\n", encoding="utf-8")


def _files(folder: Path) -> Iterator[str]:
    """Names of all that is in a folder but folders; links are not followed."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*files, *links):
            yield Path(place, name).relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error


def strangers(folder: Path, known: Collection[str]) -> Iterator[str]:
    """Names of what a folder holds beside what is known."""
    for name in _files(folder):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
            yield name


def check_place(path: Path, *, overwrite: bool, known: Known = signed) -> Path:
    """Whether a folder may be written at `path`; a link's is where it points to.

    Args:
        path: where it is to stand; nothing or an empty folder may stand there,
        overwrite: or a folder of ours,
        known: by this rule.

    Returns:
        The place, with all links followed.

    Raises:
        InputError: it may not.
    """
    place = recovered(path, known)
    try:
        if not place.exists():
            return place
        if not place.is_dir():
            raise InputError(f"{path}: is a file; expected the name of a folder")
        _check_protected(path, place)
        if not any(place.iterdir()):
            return place
        names = known(place)
        if names is None:
            raise InputError(
                f"{path}: holds files that recjax did not write, and is never replaced; "
                "name another folder"
            )
        if not overwrite:
            raise InputError(f"{path} exists already; --overwrite replaces it")
        other = next(strangers(place, names), None)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if other is not None:
        raise InputError(
            f"{path}: holds {other!r}, which recjax did not write; move that away first, or name "
            "another folder"
        )
    return place


def _check_protected(path: Path, place: Path) -> None:
    """Refuses folders that are more than a place for ours."""
    protected = {"the current folder": Path.cwd, "the home folder": Path.home}
    for name, path_of in protected.items():
        try:
            folder = path_of().resolve()
        except (OSError, RuntimeError):  # removed, or of a user without one
            continue
        if folder == place or place in folder.parents:
            verb = "is" if folder == place else "holds"
            raise InputError(
                f"{path}: {verb} {name}; recjax never replaces it; name another folder"
            )
    if os.path.ismount(place):
        raise InputError(f"{path}: is a mount point; recjax never replaces it; name a folder in it")


class Replacement:
    """A folder that is built beside its place, to take it when it is whole.

    Args:
        path: the folder to make.
        overwrite: see `check_place`.
        known: see `check_place`.
        tag: 8 hexadecimal digits of the hidden name.

    Attributes:
        folder: to write into.

    Raises:
        InputError: what `check_place` refuses, and what cannot be written.
    """

    def __init__(
        self, path: Path, *, overwrite: bool, known: Known = signed, tag: str | None = None
    ):
        self._path, self._known = path, known
        tag = tag or uuid.uuid4().hex[:8]
        self.place = check_place(path, overwrite=overwrite, known=known)
        self.folder = _beside(self.place, tag, "tmp")
        self._old = _beside(self.place, tag, "old")
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path, self.place)
            try:
                self._clean()
                self.folder.mkdir()
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise not_written(path, error) from error

    def _clean(self) -> None:
        """Removes what killed processes left: the lock says that none of them is alive."""
        for end in ("tmp", "old"):
            for left in _left(self.place, end):
                if end == "tmp":
                    shutil.rmtree(left, ignore_errors=True)
                elif self.place.exists():
                    self._discard(left)

    def swap(self) -> None:
        """Puts the new folder in its place, and removes the old one."""
        for place, _, files in os.walk(self.folder):
            for name in files:
                _fsync(Path(place, name))
            _fsync(Path(place))
        replaces = self.place.exists()
        if replaces:
            os.rename(self.place, self._old)
        try:
            os.rename(self.folder, self.place)
        except OSError:
            if replaces and not self.place.exists():
                os.rename(self._old, self.place)
            raise
        _fsync(self.place.parent)
        if replaces:
            self._discard(self._old)

    def _discard(self, old: Path) -> None:
        """Removes a replaced folder, unless somebody has put something into it."""
        try:
            names = self._known(old)
            empty = not any(old.iterdir())
            if empty or (names is not None and next(strangers(old, names), None) is None):
                shutil.rmtree(old, ignore_errors=True)
                return
        except OSError:
            pass
        print(f"recjax: {old}: the folder that {self._path} replaced; kept, for it holds "
              "files that recjax did not write", file=sys.stderr)  # fmt: skip

    def close(self) -> None:
        """Removes what was not swapped, and lets others write there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


@contextlib.contextmanager
def new_folder(
    path: Path, *, overwrite: bool, known: Known = signed, sign: bool = True
) -> Iterator[Path]:
    """A folder to write into, which appears at `path` whole or not at all.

    On an error it is removed, and what stood at `path` stays.

    Args:
        path: the folder to make; where it is a link, what it points to.
        overwrite: replace what stands there,
        known: where that is ours (`check_place`).
        sign: write `.recjax`; without, `known` must recognise the folder by itself.

    Raises:
        InputError: there is something that may not be replaced; the disk is full or not writable.
    """
    new = Replacement(path, overwrite=overwrite, known=known)
    try:
        yield new.folder
        if sign:
            write_sign(new.folder)
        new.swap()
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        new.close()


def _lock(path: Path, place: Path) -> Lock:
    """A lock on a folder that may not exist yet; its parent does."""
    return Lock(place.with_name(f".{place.name}.recjax-lock"), path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While no other process may write a folder; for work that precedes `new_folder`.

    Raises:
        InputError: another process does, or its parent cannot be written.
    """
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(path, error) from error
    lock = _lock(path, place)
    try:
        yield
    finally:
        lock.release()


def recovered(path: Path, known: Known = signed) -> Path:
    """Where a path leads; what a kill hid in the middle of a swap is back in its place."""
    try:
        place = path.resolve()
        if place.name and not place.exists():
            for old in _left(place, "old"):
                if known(old) is not None:
                    os.rename(old, place)
                    break
    except (OSError, RuntimeError):  # not readable, or links in a circle: who opens it says so
        return path
    return place


def _beside(place: Path, tag: str, end: str) -> Path:
    return place.with_name(f".{place.name}.{tag}.recjax-{end}")


def _left(place: Path, end: str) -> list[Path]:
    """The hidden folders beside a place, the newest first."""
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.recjax-{end}")
    if not place.parent.is_dir():
        return []
    folders = [p for p in place.parent.iterdir() if name.fullmatch(p.name) and p.is_dir()]
    return sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of `path` when all of it is on the disk.

    Whether something there may be replaced is the caller's to know; a link's target is.

    Raises:
        InputError: it cannot be written.
    """
    temporary: Path | None = None
    try:
        place = path.resolve()
        if place.is_dir():
            raise InputError(f"{path}: is a folder; expected the name of a file")
        temporary = _beside(place, uuid.uuid4().hex[:8], "tmp")
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the place cannot be written at all
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file of text, whole or not at all; see `new_file`."""
    with new_file(path) as file:
        file.write(text.encode())


def not_written(path: Path, error: OSError) -> InputError:
    """One line about a path that cannot be written."""
    reason = error.strerror or error
    # numpy tells a full disk so, without a number.
    cut = error.errno is None and "requested and" in str(error)
    if cut or error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full"
    elif error.errno == errno.EEXIST:  # of a parent
        reason = os.strerror(errno.ENOTDIR)
    return InputError(f"cannot write {path}: {reason}")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
