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

from typing import TYPE_CHECKING, Any

from recjax.lazy import find

if TYPE_CHECKING:  # for type checkers: the same names as in `_PUBLIC`
    from recjax.models import (
        bert4rec as bert4rec,
    )
    from recjax.models import (
        caser as caser,
    )
    from recjax.models import (
        dreamrec as dreamrec,
    )
    from recjax.models import (
        gru4rec as gru4rec,
    )
    from recjax.models import (
        language as language,
    )
    from recjax.models import (
        llama as llama,
    )
    from recjax.models import (
        sasrec as sasrec,
    )
    from recjax.models.recommender import (
        SequentialRecommender as SequentialRecommender,
    )
    from recjax.models.recommender import (
        make_recommender as make_recommender,
    )

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
