import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recjax.data.simulate import SimulateConfig, simulate
from recjax.data.sources.simulated import Options
from recjax.errors import InputError
from recjax.memory import check_memory, forget, host_bytes

CODE = """
import resource, sys
import numpy as np
from recjax.memory import keep_freed

if sys.argv[1] == "keep" and not keep_freed():
    sys.exit(3)
for turn in range(5):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    some = [np.ones(1 << 21) for _ in range(3)]  # 16 MiB each
    del some
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """Pages that the kernel had to clear for the same buffers, the second time and later."""
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_memory_is_used_again():
    kept, given_back = faults("keep"), faults("default")
    assert kept < 1000  # 4 MiB, of 192
    assert kept < given_back


def test_what_the_host_can_give(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  8 kB\nMemAvailable:       3 kB\n")
    assert host_bytes(tmp_path / "meminfo") == 3 * 1024
    for text in ("", "MemAvailable: many kB\n", "MemAvailable:\n"):
        (tmp_path / "meminfo").write_text(text)
        assert host_bytes(tmp_path / "meminfo") is None
    assert host_bytes(tmp_path / "nothing") is None


def test_the_key_that_asks_for_most_is_named():
    check_memory({"config.a": 10}, None)
    check_memory({"config.a": 4, "config.b": 6}, 10)
    with pytest.raises(InputError, match="^config.b: takes 7.0 GB at the least, of 11.0 GB in all"):
        check_memory({"config.a": 4 * 10**9, "config.b": 7 * 10**9}, 10**10)


def test_impossible_simulations():
    for values, key in (({"users": 2 * 10**9}, "users"), ({"items": 2 * 10**9}, "items")):
        with pytest.raises(InputError, match=f"config.{key}: takes .* GB at the least"):
            simulate(SimulateConfig(**values))
    with pytest.raises(InputError, match="config.data.options.users: takes"):
        simulate(Options(users=2 * 10**9))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of pages is Linux's")
def test_what_was_read_of_a_mapped_file_leaves_the_memory(tmp_path):
    def mapped():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024

    expected = np.arange(1 << 22)  # 32 MB
    np.save(tmp_path / "a.npy", expected)
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    before = mapped()
    total = int(array.sum())
    read = mapped()
    forget(array)
    after = mapped()
    assert read - before > 30e6 and after - before < 2e6
    assert int(array.sum()) == total == expected.sum()
    forget(expected)  # of no file: nothing to do
    assert expected[-1] == len(expected) - 1
