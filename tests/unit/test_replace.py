"""What may take whose place: nothing is deleted that recjax did not write."""

import multiprocessing
import os
from pathlib import Path

import pytest

from recjax import locks, replace
from recjax.errors import InputError
from recjax.locks import Lock
from recjax.replace import check_place, locked, new_file, new_folder, recovered


def fill(path, text="new", **options):
    with new_folder(path, **{"overwrite": False, **options}) as folder:
        (folder / "sub").mkdir()
        (folder / "a[1]*.txt").write_text(text)
        (folder / "sub" / "b.txt").write_text(text)


def tree(folder):
    """All files of a folder, by name, and links."""
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def test_a_folder_of_ours_is_replaced_if_asked(tmp_path):
    fill(tmp_path / "deep" / "out", "old")
    with pytest.raises(InputError, match="out exists already; --overwrite replaces it"):
        fill(tmp_path / "deep" / "out")
    fill(tmp_path / "deep" / "out", overwrite=True)
    assert (tmp_path / "deep" / "out" / "sub" / "b.txt").read_text() == "new"
    assert os.listdir(tmp_path / "deep") == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "thesis.tex").write_text("x"), "holds files that recjax did not write"),
        (lambda p: (p / ".git").mkdir(), "holds files that recjax did not write"),
        (lambda p: (p / ".recjax").write_text("{}"), "holds files that recjax did not write"),
        (lambda p: (p / ".recjax").write_text("[" * 10**5), "holds files that recjax did not"),
        (lambda p: (p / ".recjax").write_text('{"files": [1]}'), "holds files that recjax did not"),
    ],
)
def test_other_folders_stay(tmp_path, make, message, overwrite):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=message):
        fill(tmp_path / "out", overwrite=overwrite)
    assert tree(tmp_path) == before and (tmp_path / "out").is_dir()


@pytest.mark.parametrize("stranger", ["mine.txt", "sub/mine.txt", "a1x.txt", "link"])
def test_a_stranger_in_our_folder_keeps_it(tmp_path, stranger):
    fill(tmp_path / "out", "old")
    (tmp_path / "elsewhere").mkdir()
    if stranger == "link":
        (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "out" / stranger).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"out: holds '{stranger}', which recjax did not write"):
        fill(tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == before


def test_a_stranger_that_comes_late_is_kept(tmp_path, capsys):
    fill(tmp_path / "out", "old")
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "a.txt").write_text("new")
        (tmp_path / "out" / "mine.txt").write_text("mine")
    assert tree(tmp_path / "out").keys() == {".recjax", "a.txt"}
    (kept,) = (p for p in tmp_path.iterdir() if p.name != "out")
    assert (kept / "mine.txt").read_text() == "mine" and str(kept) in capsys.readouterr().err


def test_home_root_mounts_and_the_current_folder_stay(tmp_path, monkeypatch):
    fill(tmp_path / "home" / "out")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "out"))
    (tmp_path / "out").symlink_to(tmp_path / "home" / "out")
    for path in (tmp_path / "home" / "out", tmp_path / "out", tmp_path / "home"):
        with pytest.raises(InputError, match="the home folder; recjax never replaces it"):
            fill(path, overwrite=True)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.chdir(tmp_path / "home" / "out")
    for path in (Path("."), tmp_path / "out", tmp_path / "home"):
        with pytest.raises(InputError, match="the current folder; recjax never replaces it"):
            fill(path, overwrite=True)
    with pytest.raises(InputError, match="never replaces it"):
        fill(Path("/"), overwrite=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "ismount", lambda place: Path(place).name == "out")
    with pytest.raises(InputError, match="is a mount point; recjax never replaces it"):
        fill(tmp_path / "home" / "out", overwrite=True)
    assert tree(tmp_path / "home" / "out").keys() == {".recjax", "a[1]*.txt", "sub/b.txt"}


def test_neighbours_stay(tmp_path):
    for name in ("out.tmp", "out.old", ".out.tmp", "out.recjax-tmp", ".out.0.recjax-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    fill(tmp_path / "out", "old")
    fill(tmp_path / "out", overwrite=True)
    assert sum(p.read_bytes() == b"mine" for p in tmp_path.rglob("mine.txt")) == 5
    os.rename(tmp_path / "out", tmp_path / "away")
    assert recovered(tmp_path / "out") == tmp_path / "out"
    assert not (tmp_path / "out").exists()


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    fill(tmp_path / "link", "old")
    fill(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "disk") == ["out"]
    assert (tmp_path / "disk" / "out" / "sub" / "b.txt").read_text() == "new"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_at_any_moment(tmp_path, monkeypatch, renames):
    fill(tmp_path / "out", "old")
    real, left = os.rename, [renames]

    def rename(*args):
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(replace.os, "rename", rename)
        patch.setattr(replace.shutil, "rmtree", lambda *args, **kwargs: None)
        if renames < 2:
            with pytest.raises(Killed):
                fill(tmp_path / "out", overwrite=True)
        else:
            fill(tmp_path / "out", overwrite=True)
    assert len(os.listdir(tmp_path)) == 2
    recovered(tmp_path / "out")
    expected = "new" if renames == 2 else "old"
    assert (tmp_path / "out" / "sub" / "b.txt").read_text() == expected
    fill(tmp_path / "out", "newer", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


def test_a_new_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    fill(tmp_path / "out", "old")
    real = os.rename

    def rename(source, target):
        if str(source).endswith("-tmp"):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(replace.os, "rename", rename)
        with pytest.raises(InputError, match="cannot write .*out: the disk is full"):
            fill(tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "sub" / "b.txt").read_text() == "old"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError,
        OSError(28, "No space left on device"),
        OSError("4111 requested and 1520 written"),  # of numpy
    ],
)
def test_an_error_leaves_the_old_one(tmp_path, error):
    fill(tmp_path / "out", "old")
    with (
        pytest.raises((RuntimeError, InputError)) as info,
        new_folder(tmp_path / "out", overwrite=True),
    ):
        raise error
    if error is not RuntimeError:
        assert str(info.value) == f"cannot write {tmp_path / 'out'}: the disk is full"
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "sub" / "b.txt").read_text() == "old"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: is a file; expected the name of a folder"):
        check_place(tmp_path / "file", overwrite=True)
    with pytest.raises(InputError, match="cannot write .*file/out: Not a directory"):
        fill(tmp_path / "file" / "out")
    with (
        pytest.raises(InputError, match="is a folder; expected the name of a file"),
        new_file(tmp_path),
    ):
        pass


def test_files(tmp_path):
    (tmp_path / "a.tmp").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    with new_file(tmp_path / "link") as file:
        file.write(b"1")
    with pytest.raises(RuntimeError), new_file(tmp_path / "a.txt") as file:
        file.write(b"2")
        raise RuntimeError
    assert tree(tmp_path) == {"a.tmp": b"mine", "a.txt": b"1", "link": str(tmp_path / "a.txt")}


# --- locks


def _hold(file, pipe):
    lock = Lock(file, file)
    pipe.send("ready")
    pipe.recv()
    lock.release()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path/.out.recjax-lock` until it is told to end."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / ".out.recjax-lock", theirs))
    process.start()
    assert ours.poll(30) and ours.recv() == "ready"
    yield process, ours
    process.kill()
    process.join()


def test_one_process_at_a_time(tmp_path, holder):
    process, pipe = holder
    message = f"out: in use by process {process.pid} on "
    for act in (lambda: fill(tmp_path / "out"), lambda: locked(tmp_path / "out").__enter__()):
        with pytest.raises(InputError, match=message):
            act()
    assert not (tmp_path / "out").exists()
    pipe.send("end")
    process.join()
    fill(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder[0].kill()
    holder[0].join()
    assert (tmp_path / ".out.recjax-lock").exists()
    fill(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_the_same_process_may_hold_a_lock_twice(tmp_path):
    with locked(tmp_path / "out"):
        fill(tmp_path / "out")
        assert (tmp_path / ".out.recjax-lock").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_lock_whose_file_another_process_has_just_removed_is_taken_anew(tmp_path, monkeypatch):
    file, real, calls = tmp_path / "lock", locks.fcntl.flock, []

    def flock(*args):
        if not calls:
            file.unlink()
        calls.append(args)
        real(*args)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    lock = Lock(file, file)
    assert file.exists() and len(calls) == 2
    lock.release()
    assert not file.exists()


def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, capsys):
    def flock(*args):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    fill(tmp_path / "out")
    assert "out: cannot be locked here (No locks available)" in capsys.readouterr().err
