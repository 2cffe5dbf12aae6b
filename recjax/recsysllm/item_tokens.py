"""A token of its own for each title, whose embedding may start from a recommender's item vectors.

Section `naming` of `config.text`:

    config.text.naming = {"token": True, "run": "runs/sasrec", "text": False}

With `token` a title begins with a control token that only it has; its text follows, unless `text`
is off. Items that share a title share the token. The recommender's vectors [I D] are turned by a
drawn orthogonal map to the model's width E, which keeps their inner products where E >= D, and
learn on from there. Without `run` the tokens' embeddings are drawn as all others.

Letters: n titles, I items, D width of the recommender, E of the language model.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import to_plain
from recjax.errors import InputError
from recjax.frozen import open_recommender
from recjax.ranges import Checked, FieldError
from recjax.recsysllm.catalogue import Names
from recjax.text.tokenizers import Tokenizer

KEY = "config.text.naming.run"


@dataclasses.dataclass(frozen=True)
class NamingConfig(Checked):
    """Section `naming`: how a title stands in texts and answers."""

    token: bool = False  # it begins with a token of its own
    text: bool = True  # its text follows the token
    run: str = ""  # workdir of a recommender, whose item vectors the tokens start from; "" = drawn

    def __post_init__(self):
        super().__post_init__()
        if not self.token and not self.text:
            raise FieldError("text", "off, and titles have no token; expected one of the two")
        if self.run and not self.token:
            raise FieldError("run", "has vectors for tokens; expected token=True")


def token_names(count: int) -> list[str]:
    """The tokens of so many titles, as a vocabulary spells them."""
    return [f"<|item {number}|>" for number in range(1, count + 1)]


def known_tokens(tokenizer: Tokenizer, names: Names) -> dict[str, int]:
    """The token of each title.

    Raises:
        InputError: the tokenizer has not as many: it is that of another catalogue.
    """
    out: dict[str, int] = {}
    for title, token in zip(names.distinct, token_names(len(names.distinct)), strict=True):
        index = tokenizer.id_of(token)
        if index is None:
            raise InputError(
                f"config.text.naming.token: the tokenizer has no '{token}'; expected one that was "
                f"made for a catalogue of {len(names.distinct)} titles"
            )
        out[title] = index
    return out


def item_vectors(folder: str, store: Any, split: Any, names: Names) -> np.ndarray:
    """A recommender's vector [D] of each title [n D]; of several items of a title their mean.

    Args:
        folder: the recommender's workdir.
        store: the run's data.
        split: the run's `SplitConfig`.
        names: the titles.

    Raises:
        InputError: no recommender there; one of other data, or of another split, which may have
            read what is tested.
    """
    run = open_recommender(folder)
    if run.store.fingerprint != store.fingerprint:
        raise InputError(f"{KEY}: {folder} has learned other data than {Path(store.path)}")
    run_split, own_split = to_plain(run.config.split), to_plain(split)
    if run_split != own_split:
        raise InputError(f"{KEY}: {folder} was trained on split {run_split}; expected {own_split}")
    table = run.model.merge(run.restore(run.best_step())).item_table()
    table = np.asarray(table, np.float32)
    return np.stack([table[items].mean(axis=0) for items in names.members])


def embeddings(vectors: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """Vectors [n D] as embeddings [n E] of the same lengths; on the average where E < D.

    >>> vectors = np.random.default_rng(0).normal(size=(5, 3))
    >>> out = embeddings(vectors, 8, 0)
    >>> out.shape, bool(np.allclose(out @ out.T, vectors @ vectors.T, atol=1e-5))
    ((5, 8), True)
    """
    width = vectors.shape[1]
    drawn = np.random.default_rng([seed, 9]).normal(size=(max(width, dim), min(width, dim)))
    turned, _ = np.linalg.qr(drawn)
    if width <= dim:
        return (vectors @ turned.T).astype(np.float32)
    return (vectors @ turned * np.sqrt(width / dim)).astype(np.float32)
