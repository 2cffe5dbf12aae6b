"""Length buckets: a compiled program serves every prompt up to its bucket's length."""

from collections.abc import Sequence

from recjax.errors import InputError


def bucket(length: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `length`; pad to it and compile once a size.

    Raises:
        InputError: the length is above every size.
    """
    fitting = [size for size in sizes if size >= length]
    if not fitting:
        raise InputError(f"length {length}: expected at most {max(sizes, default=0)}")
    return min(fitting)
