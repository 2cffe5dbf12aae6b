"""An adapter between a recommender's states and a frozen language model."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.config import to_plain
from recjax.errors import InputError
from recjax.interpreter import adapters
from recjax.interpreter.questions import AskConfig, Questions
from recjax.llm import LanguageModel
from recjax.models.definition import ModelDef, define, params_of
from recjax.training import parallel
from recjax.training.item_vectors import check_words
from recjax.typing import Array, Params


class Bridge:
    """Everything about an interpreter but its adapter's parameters.

    Args:
        llm: the frozen language model.
        ask: what it is asked.
        config: of the adapter.
        length, dim: L and D of the states.

    Attributes:
        questions: in the model's tokens.
        adapter: its definition (`adapter.merge(params)` is the module).

    Raises:
        InputError: a language model without a tokenizer, one that is not causal, or one that
            learned another domain's words; see also `Questions`.
    """

    def __init__(
        self, llm: LanguageModel, ask: AskConfig, config: adapters.Config, length: int, dim: int
    ):
        if llm.tokenizer is None:
            where = "the language model" if llm.folder is None else str(llm.folder)
            raise InputError(f"{where}: no tokenizer; an interpreter asks in words")
        llm.check_causal("an interpreter")
        self.llm, self.config, self.length, self.dim = llm, config, length, dim
        self.questions = Questions(ask, llm.tokenizer, config.soft, llm.config.max_length)
        check_words(llm.folder, to_plain(self.questions.words), "config.ask.domain")
        self.adapter: ModelDef[adapters.Adapter] = define(self.build)

    def build(self, rngs: nnx.Rngs) -> adapters.Adapter:
        """An adapter without measured states, for its shapes."""
        return self._make(None, 1.0, rngs)

    def _make(self, states: Any, size: float, rngs: nnx.Rngs) -> adapters.Adapter:
        embed = self.llm.config.dim
        return adapters.Adapter(self.config, states, self.length, self.dim, embed, size, rngs=rngs)

    def initial(self, states: np.ndarray, seed: int) -> Params:
        """A fresh adapter's parameters.

        Args:
            states: [n L D] to measure; positions of zeros are padding.
            seed: of the drawn parameters.

        Raises:
            InputError: states that are all zero, or several that are all the same.
        """
        real = states.reshape(-1, self.dim)
        real = real[np.any(real != 0, axis=1)]
        if not len(real):
            raise InputError("states: all of them are zero, which stands for padding")
        if len(real) > 1 and np.array_equal(real.min(axis=0), real.max(axis=0)):
            raise InputError(f"states: all {len(real)} are the same: they tell no history apart")
        table = self.llm.params["embedding"].astype(jnp.float32)
        size = float(jnp.sqrt(jnp.mean(jnp.square(table))))
        return params_of(self._make(real, size, nnx.Rngs(seed)))

    def soft(self, params: Params, states: Array) -> Array:
        """Soft tokens [B n*S E] of n representations a row, [B n L D]."""
        rows = len(states)
        soft = self.adapter.merge(params)(states.reshape(-1, self.length, self.dim))
        return soft.reshape(rows, -1, soft.shape[-1])

    @functools.cached_property
    def axes(self) -> parallel.AxisRules:
        """An adapter is small: every device has all of it."""
        return [(re.escape(p), (None,) * len(a.shape)) for p, a in self.adapter.shapes.items()]

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices: the language model's, or the first alone."""
        if self.llm.mesh is not None:
            return self.llm.mesh
        return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.MESH_AXES)
