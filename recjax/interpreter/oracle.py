"""Oracle items: what a generative recommender imagines, in words (section 4.4).

DreamRec, and other such models, generate the vector of the item a user would like best. Appended
to the history in the place of an item, it is encoded like one, and the language model is asked what
was added. The answer may name an item that no catalogue has.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.evaluation.intervals import wilson
from recjax.frozen import Windows
from recjax.interpreter.reader import Answer
from recjax.interpreter.run import InterpreterRun
from recjax.models.recommender import model_module
from recjax.typing import Array, Params

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Oracles:
    """Oracle items of n histories.

    Attributes:
        before, after: [n L D] states of the history, and of it with the oracle item appended.
        nearest: [n] the catalogue's item next to each oracle item.
    """

    before: np.ndarray
    after: np.ndarray
    nearest: np.ndarray


def check_generative(run: InterpreterRun) -> None:
    """Raises `InputError` for a recommender that is not generative."""
    name = run.recommender.config.model["name"]
    if not model_module(name).Recommender.generative:
        raise InputError(
            "oracle items (--oracle, --judge) need a generative recommender (dreamrec); "
            f"{run.config.recommender} is a {name}"
        )


def generate_oracles(run: InterpreterRun, windows: Windows, seed: int = 0) -> Oracles:
    """Oracle items of the histories that precede each window's newest item.

    Args:
        run: whose recommender is generative.
        windows: n histories; their newest item is what a user chose in truth, and is not shown.
        seed: of the generation; row n of a seed is the same in every batch of 64.

    Raises:
        InputError: a recommender that generates nothing.
    """
    check_generative(run)

    def generate(params: Params, ids: Array, key: Array) -> tuple[Array, Array, Array]:
        model: Any = run.recommender.model.merge(params)
        oracle = model.oracle(ids, key)
        table = model.item_table()
        # Vectors are of one length, so the largest product is the nearest.
        nearest = 1 + jnp.argmax(oracle @ table[1:].T, axis=-1)
        after = jnp.concatenate([ids[:, 1:], nearest[:, None]], axis=1)
        h = model.encode_ending(after, oracle)
        h_before = model.encode(ids)
        real = (ids != 0)[..., None], (after != 0)[..., None]
        return jnp.where(real[0], h_before, 0), jnp.where(real[1], h, 0), nearest

    generate = jax.jit(generate)
    ids = windows.ids(back=1)
    parts = []
    for first in range(0, len(ids), _BATCH):
        part = ids[first : first + _BATCH]
        padded = part[np.minimum(np.arange(_BATCH), len(part) - 1)]
        key = jax.random.fold_in(jax.random.key(seed), first)
        done = generate(run.recommender_params, padded, key)
        parts.append([np.asarray(a)[: len(part)] for a in done])
    return Oracles(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@dataclasses.dataclass(frozen=True)
class Instantiated:
    """The answers about oracle items.

    Attributes:
        known: [n] bool, the catalogue has a title that was named.
        agree: [n] bool, it is that of the nearest item.
        hit: [n] bool, it is what the user chose in truth.
        nearest_hit: [n] bool, the nearest item is.
    """

    known: np.ndarray
    agree: np.ndarray
    hit: np.ndarray
    nearest_hit: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Shares, those of hits with their 95 % intervals."""
        n = len(self.known)
        out = {
            "oracle/in_catalogue": float(self.known.mean()),
            "oracle/agrees_with_nearest": float(self.agree.mean()),
        }
        for name, values in (("hit", self.hit), ("nearest_hit", self.nearest_hit)):
            low, high = wilson(int(values.sum()), n)
            prefix = f"oracle/{name}"
            out |= {prefix: float(values.mean()), f"{prefix}_low": low, f"{prefix}_high": high}
        return out


def measure_oracles(
    answers: Sequence[Answer], oracles: Oracles, chosen: np.ndarray
) -> Instantiated:
    """Answers about oracle items against the nearest items and what users chose [n]."""
    near = oracles.nearest.tolist()
    return Instantiated(
        np.array([answer.known for answer in answers]),
        np.array([item in a.items for a, item in zip(answers, near, strict=True)]),
        np.array([item in a.items for a, item in zip(answers, chosen.tolist(), strict=True)]),
        oracles.nearest == chosen,
    )


def nearest_titles(
    answers: Sequence[Answer], nearest: Callable[[str], Sequence[tuple[int, float]]]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Answers outside the catalogue, each with its most similar titles."""
    out = []
    for answer in answers:
        if not answer.known and answer.named:
            title = answer.named[0].text
            out.append((title, list(nearest(title))))
    return out
