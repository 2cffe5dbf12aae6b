"""Checkpoints that were damaged, that found no room, and the room that old ones take."""

import errno
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.training.checkpoint import Checkpoints
from recjax.training.checksums import FILE

ABSTRACT = {"w": jax.ShapeDtypeStruct((300,), jnp.float32)}


def state(step):
    return {"w": jnp.asarray(np.random.default_rng(step).normal(size=300), jnp.float32)}


def save(folder, steps, keep=2, best=None):
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, state(step), {"value": step}, best)
    assert checkpoints.wait()
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return save(tmp_path_factory.mktemp("three") / "c", (1, 2, 3), keep=3)


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_part_of_a_state(three):
    checkpoints = Checkpoints(three, read_only=True)
    whole = checkpoints.restore(3, ABSTRACT)
    assert whole["w"].shape == (300,)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def part(rows, **options):
        abstract = {"w": jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=place)}
        return checkpoints.restore_part(3, abstract, **options)["w"]

    np.testing.assert_array_equal(part(300), whole["w"])
    padded = part(302, padded=True)
    np.testing.assert_array_equal(padded, [*whole["w"], 0, 0])
    with pytest.raises(InputError, match="not a checkpoint of this model"):
        part(302)
    with pytest.raises(InputError, match="no complete checkpoint of step 4"):
        checkpoints.restore_part(4, ABSTRACT)
    checkpoints.close()


def test_reading_is_quiet(three, caplog):
    """Orbax warns of every folder that is only read."""
    with caplog.at_level("WARNING", logger="absl"):
        Checkpoints(three, read_only=True).close()
        assert not caplog.records
        assert logging.getLogger("absl").level == logging.WARNING


@pytest.mark.parametrize("harm", [flipped, truncated, lambda file: file.unlink()])
def test_whatever_is_damaged_is_seen(three, tmp_path, harm, capsys):
    names = [str(p.relative_to(three / "3")) for p in sorted((three / "3").rglob("*"))]
    names = [name for name in names if (three / "3" / name).is_file()]
    assert FILE in names and "meta/metadata" in names and len(names) > 8
    for number, name in enumerate(names):
        if harm is truncated and not (three / "3" / name).stat().st_size:
            continue
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        harm(folder / "3" / name)
        reader = Checkpoints(folder, read_only=True)
        if name == FILE and not (folder / "3" / FILE).exists():
            assert reader.latest() == 3  # as of a version without checksums
        elif name == "_CHECKPOINT_METADATA" and not (folder / "3" / name).exists():
            assert reader.latest() == 2  # half deleted: no step
        else:
            assert reader.latest() == 2, name
            err = capsys.readouterr().err
            assert err.startswith(f"recjax: {folder / '3'}: damaged (") and err.count("\n") == 1
            assert err.endswith("; step 2 is used\n")
            with pytest.raises(InputError, match=r"/3: damaged \(.*\); other steps: 1, 2$"):
                reader.restore(3, ABSTRACT)
            with pytest.raises(InputError, match=r"/3: damaged"):
                reader.meta(3)
        reader.close()


def test_training_goes_on_from_the_step_before(three, tmp_path, capsys):
    shutil.copytree(three, tmp_path / "c")
    flipped(next((tmp_path / "c" / "3" / "state" / "d").iterdir()))
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    assert checkpoints.latest() == 2 and "3: damaged" in capsys.readouterr().err
    checkpoints.save(3, state(3), {"value": 33}, None)
    assert checkpoints.wait() and checkpoints.steps() == [1, 2, 3]
    assert checkpoints.meta(3) == {"value": 33}
    np.testing.assert_array_equal(checkpoints.restore(3, ABSTRACT)["w"], state(3)["w"])
    checkpoints.close()


def test_nothing_whole_is_an_error(three, tmp_path):
    shutil.copytree(three, tmp_path / "c")
    for step in (1, 2, 3):
        truncated(tmp_path / "c" / str(step) / "meta" / "metadata")
    for read_only in (True, False):
        with pytest.raises(InputError, match=r"c/3: damaged \(meta/metadata is not what was writ"):
            Checkpoints(tmp_path / "c", read_only=read_only).latest()
    assert (tmp_path / "c" / "3").is_dir()


def test_keep_bounds_the_disk(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    for step in range(1, 9):
        checkpoints.save(step, state(step), {"value": step}, 3 if step >= 3 else None)
        assert checkpoints.wait()
        found = {p.name for p in (tmp_path / "c").iterdir()}
        assert found == {str(step), *(("3",) if step > 3 else ())}
    checkpoints.close()


@pytest.mark.parametrize("when", ["at once", "later", "its checksums"])
def test_a_full_disk_is_told_and_tried_again(tmp_path, monkeypatch, capsys, when):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, state(1), {"value": 1}, None)
    assert checkpoints.wait()

    def full(*args, **kwargs):
        if when == "later":  # TensorStore's kind
            raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if when == "at once":
            patch.setattr(checkpoints._manager, "save", full)
        elif when == "later":
            patch.setattr(checkpoints._manager, "wait_until_finished", full)
        else:
            patch.setattr("recjax.training.checkpoint.write_checksums", full)
        checkpoints.save(2, state(2), {"value": 2}, 2)
        assert not checkpoints.wait() and not checkpoints.wait()
    err = capsys.readouterr().err
    assert err == (
        f"recjax: {tmp_path / 'c' / '2'}: the checkpoint was not saved (the disk is full); "
        "training goes on, and the next save tries again\n"
    )
    assert checkpoints.latest() == 1
    checkpoints.save(3, state(3), {"value": 3}, 3)
    assert checkpoints.wait() and checkpoints.steps() == [3]
    checkpoints.close()


def test_other_failures_of_a_save_are_errors(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    monkeypatch.setattr(checkpoints._manager, "save", lambda *args, **kwargs: 1 / 0)
    checkpoints.save(1, state(1), {}, None)
    with pytest.raises(ZeroDivisionError):
        checkpoints.wait()
    checkpoints.close()
