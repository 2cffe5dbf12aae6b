"""Array aliases, and the table of dimension letters.

Einsum strings, shapes in docstrings, field names and logical axes use the same letters everywhere:

| letter | dimension                             | logical axis |
|--------|---------------------------------------|--------------|
| B      | batch                                 | batch        |
| L      | sequence length in items              | length       |
| T      | tokens                                | tokens       |
| I      | catalogue size (+1 for padding)       | items        |
| D      | recommender width                     | width        |
| V      | vocabulary                            | vocab        |
| E      | LLM width                             | embed        |
| N      | heads                                 | heads        |
| K      | key/value heads                       | kv_heads     |
| H      | head width                            | head         |
| F      | feed-forward width                    | mlp          |
| R      | LoRA rank                             | rank         |
| S      | soft tokens                           | soft         |
| A      | aspects                               | aspects      |
| C      | candidates                            | candidates   |

Locally also: R packed rows (data, training), U users, n sequences.
"""

from typing import Any

import jax

Array = jax.Array
# Parameters by path: {"blocks/0/attention/query/kernel": [D D], ...}. Flat, so that regular
# expressions (sharding, freezing, conversion), checkpoints and errors all name the same thing.
Params = dict[str, Array]


def check_shapes(letters: str, **arrays: Any) -> None:
    """Refuses arrays of other shapes than the letters say; it reads shapes alone, traced ones too.

    >>> import numpy as np
    >>> check_shapes("TD, ID, T", h=np.ones((6, 3)), table=np.ones((9, 3)), targets=np.ones(5))
    Traceback (most recent call last):
    ValueError: targets: expected [T] with T = 6, which h has; got the shape (5,)

    Args:
        letters: a word an array, a letter an axis: a letter has the same size in all words.
        arrays: the arguments by name, in the order of the words; None where one is not given.

    Raises:
        TypeError: an argument is no array.
        ValueError: another number of axes, or of an axis another size than in an array before.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for word, (name, array) in zip(letters.split(", "), arrays.items(), strict=True):
        if array is None:
            continue
        wanted = f"{name}: expected [{' '.join(word)}]"
        if not hasattr(array, "shape"):
            raise TypeError(f"{wanted}, an array; got {type(array).__name__}")
        if len(array.shape) != len(word):
            raise ValueError(f"{wanted}; got the shape {array.shape}")
        for letter, size in zip(word, array.shape, strict=True):
            known, first = sizes.setdefault(letter, (size, name))
            if size != known:
                raise ValueError(
                    f"{wanted} with {letter} = {known}, which {first} has; "
                    f"got the shape {array.shape}"
                )
