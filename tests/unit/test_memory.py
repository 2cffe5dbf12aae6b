import subprocess
import sys

import pytest

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
