"""Reading .npz files of others: damaged, pickled, lying, or larger than they look."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from recjax.array_files import read_npz
from recjax.errors import InputError


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(path, members, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_all_kinds(tmp_path, save):
    given = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "c": np.float32(3),
        "d": np.zeros((0, 4)),
        "e": np.array(["x", "yz"]),
        "f": np.arange(3, dtype=">i4"),
    }
    save(tmp_path / "x.npz", **given)
    read = read_npz(tmp_path / "x.npz")
    assert list(read) == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype and read[name].flags.writeable


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


HEADER = npy(np.zeros(3))
LONG = HEADER.replace(b"'shape': (3,), ", b"'shape': (10**12,), ".replace(b"10**12", b"9" * 9))


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy(np.array([1, None], object)), "an array of objects; expected numbers"),
        (pickle.dumps(Evil()), "not readable as .npz"),
        (HEADER[:-8], "damaged"),
        (HEADER + b"x", "damaged"),
        (LONG, "damaged"),
        (b"", "not readable as .npz"),
        (HEADER[:20], "not readable as .npz"),
        (HEADER.replace(b"(3,)", b"(a,)"), "not readable as .npz"),
        (HEADER.replace(b"(3,)", b"((("), "not readable as .npz"),
        (HEADER.replace(b"<f8", b"<q9"), "not readable as .npz"),
        (b"text", "not readable as .npz"),
    ],
    ids=range(11),
)
def test_members_that_are_no_arrays(tmp_path, member, said):
    path = archive(tmp_path / "x.npz", {"good.npy": HEADER, "hidden.npy": member})
    with pytest.raises(InputError) as error:
        read_npz(path)
    assert str(error.value).startswith(f"{path}: ") and said in str(error.value)


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    part = b"\0" * (1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("hidden.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(part)
    with pytest.raises(InputError, match=r"x.npz: 0.3 GB of arrays in a file of .* bytes"):
        read_npz(tmp_path / "x.npz")


def test_files_that_are_no_archives(tmp_path):
    whole = archive(tmp_path / "x.npz", {"a.npy": HEADER}).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for name, content, said in (
        ("gone.npz", None, "no such file"),
        ("empty.npz", b"", "not readable as .npz"),
        ("cut.npz", whole[:100], "not readable as .npz"),
        ("text.npz", b"none", "not readable as .npz"),
        ("flipped.npz", bytes(flipped), "not readable as .npz|damaged"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: ({said})"):
            read_npz(tmp_path / name)
    with pytest.raises(InputError, match="expected a file"):
        read_npz(tmp_path)
