"""Models, one file each, with their configs and presets.

>>> import recjax
>>> from flax import nnx
>>> section = {"name": "gru4rec", "dim": 8, "max_length": 5}
>>> model = recjax.models.make_recommender(section, n_items=11, rngs=nnx.Rngs(0))
>>> model.item_table().shape  # id 0 is padding
(11, 8)

`model.score(model.predict(ids))` [B I] are scores of all items after histories [B L], which are
padded on the left with 0.
"""

from typing import Any

from recjax.lazy import find

_PUBLIC = {
    "SequentialRecommender": "recjax.models.recommender",
    "make_recommender": "recjax.models.recommender",
    **dict.fromkeys(
        ("bert4rec", "caser", "dreamrec", "gru4rec", "language", "llama", "sasrec"), ""
    ),
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    return find(__name__, name, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
