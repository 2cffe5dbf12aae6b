"""A GLM on eight devices fills blanks as on one: drawn and by beams, with a pool."""

import jax
import numpy as np

from recjax.llm import LanguageModel
from recjax.models import glm
from recjax.models.definition import define, params_of
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.infill import Infiller
from recjax.recsysllm.spans import Marks
from recjax.testing.language_contracts import build
from recjax.training.parallel import make_mesh, param_shardings

MARKS = Marks(cls=20, eos=21, sop=22, eop=23, mask=24, sentence=25, document=26)
CONFIG = glm.Config(
    vocab_size=32, dim=16, mlp_dim=64, layers=2, heads=4, kv_heads=4, head_dim=4, max_length=40,
    init_std=0.4,
)  # fmt: skip
TEXTS = [[20, 3, 24, 5, 1, 2, 3, 25, 21], [20, 26, 7, 4, 5, 6, 21]] * 4
POOL = EntityPool([(1, 2, 3), (1, 2), (4, 5), (5, 4, 4), (2,)], MARKS.sop, 40)


def test_as_on_one_device():
    definition, params = define(lambda rngs: glm.GLM(CONFIG, rngs=rngs)), params_of(build(CONFIG))

    def on(*shape):
        mesh = make_mesh(shape)
        shardings = param_shardings(definition.shapes, glm.PARAM_AXES, mesh)
        placed = {path: jax.device_put(a, shardings[path]) for path, a in params.items()}
        return LanguageModel(definition, placed, CONFIG, mesh=mesh)

    one = LanguageModel(definition, params, CONFIG)
    split, whole = on(2, 2, 2), on(8, 1, 1)  # split by XLA; each device for itself
    assert split.rows_sharding(len(TEXTS)) is None is not whole.rows_sharding(len(TEXTS))
    for constraint, options, models in (
        (None, {"temperature": 1.0}, (split,)),
        ("pool", {"beams": 3}, (split, whole)),
    ):
        expected, *others = (
            Infiller(lm, marks=MARKS, pool=POOL, constraint=constraint)(
                TEXTS, max_new_tokens=4, **options
            )
            for lm in (one, *models)
        )
        for got in others:
            np.testing.assert_array_equal(got.tokens, expected.tokens)
            np.testing.assert_allclose(got.scores, expected.scores, atol=1e-4)
