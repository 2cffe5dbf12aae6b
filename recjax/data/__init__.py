"""Raw logs become arrays: readers, the prepared store, splits, windows. NumPy alone, no JAX.

>>> import recjax
>>> offsets = [0, 4, 7]  # two users, of 4 and of 3 items
>>> split = recjax.data.leave_one_out(offsets)
>>> split.test.stops.tolist()  # the test targets are the last items
[3, 6]
"""

from typing import Any

from recjax.lazy import find

_PUBLIC = {
    "InteractionLog": "recjax.data.interactions",
    "DataConfig": "recjax.data.prepare",
    "Spans": "recjax.data.splits",
    "Split": "recjax.data.splits",
    "Store": "recjax.data.store",
    "chronological_sequences": "recjax.data.splits",
    "chronological_time": "recjax.data.splits",
    "leave_one_out": "recjax.data.splits",
    "multi_hot": "recjax.data.attributes",
    "numbers": "recjax.data.attributes",
    "open_store": "recjax.data.store",
    "pad_left": "recjax.data.sequences",
    "read_scores": "recjax.data.attributes",
    "rolling": "recjax.data.splits",
    **dict.fromkeys(
        ("attributes", "interactions", "negatives", "pipeline", "sequences", "simulate", "sources",
         "splits", "store"), "",
    ),
}  # fmt: skip
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    return find(__name__, name, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
