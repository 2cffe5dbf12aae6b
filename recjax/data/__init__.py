"""Raw logs become arrays: readers, the prepared store, splits, windows. NumPy alone, no JAX.

>>> import recjax
>>> offsets = [0, 4, 7]  # two users, of 4 and of 3 items
>>> split = recjax.data.leave_one_out(offsets)
>>> split.test.stops.tolist()  # the test targets are the last items
[3, 6]
"""

from typing import TYPE_CHECKING, Any

from recjax.lazy import find

if TYPE_CHECKING:  # for type checkers: the same names as in `_PUBLIC`
    from recjax.data import (
        attributes as attributes,
    )
    from recjax.data import (
        interactions as interactions,
    )
    from recjax.data import (
        negatives as negatives,
    )
    from recjax.data import (
        pipeline as pipeline,
    )
    from recjax.data import (
        sequences as sequences,
    )
    from recjax.data import (
        simulate as simulate,
    )
    from recjax.data import (
        sources as sources,
    )
    from recjax.data import (
        splits as splits,
    )
    from recjax.data import (
        store as store,
    )
    from recjax.data.attributes import (
        multi_hot as multi_hot,
    )
    from recjax.data.attributes import (
        numbers as numbers,
    )
    from recjax.data.attributes import (
        read_scores as read_scores,
    )
    from recjax.data.interactions import InteractionLog as InteractionLog
    from recjax.data.prepare import DataConfig as DataConfig
    from recjax.data.sequences import pad_left as pad_left
    from recjax.data.splits import (
        Spans as Spans,
    )
    from recjax.data.splits import (
        Split as Split,
    )
    from recjax.data.splits import (
        chronological_sequences as chronological_sequences,
    )
    from recjax.data.splits import (
        chronological_time as chronological_time,
    )
    from recjax.data.splits import (
        leave_one_out as leave_one_out,
    )
    from recjax.data.splits import (
        rolling as rolling,
    )
    from recjax.data.store import Store as Store
    from recjax.data.store import open_store as open_store

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
