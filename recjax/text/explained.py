"""Explanations as arrays: a sentence of each review, and the word of it that hints at it.

The sentences are those of RecSysLLM's task (`recjax.text.reasons`): of the same interactions, found
by the same rule, features counted in the training reviews alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from recjax.data.reviews import Reviews
from recjax.data.rows import RowBatches, some_rows
from recjax.data.splits import Split
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.text.reasons import explanations
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """One part of a split's reviews with an explanation.

    Attributes:
        users: [n] int32, from 0.
        items: [n] int32 item ids.
        ratings: [n] float32 stars.
        features: n words.
        texts: n sentences.
        places: [n] in the store's flat arrays.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    features: Sequence[str]
    texts: Sequence[str]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def some(self, most: int, seed: int) -> "Explained":
        """At most so many of them (0 = all), drawn once and in order."""
        chosen = some_rows(len(self), most, seed)
        return Explained(
            self.users[chosen],
            self.items[chosen],
            self.ratings[chosen],
            [self.features[k] for k in chosen.tolist()],
            [self.texts[k] for k in chosen.tolist()],
            self.places[chosen],
        )


def explained(store: Store, split: Split, reviews: Reviews) -> dict[str, Explained]:
    """The explanations of each part: all training interactions, and the targets of the others.

    Raises:
        InputError: the data have no ratings, or a part no review with an explanation.
    """
    if store.ratings is None:
        raise InputError(
            f"config.data: {store.path} has no ratings; expected a source that has them"
        )
    train = split.train
    runs = [np.arange(a, b) for a, b in zip(train.starts, train.stops, strict=True)]
    trained = np.concatenate(runs) if runs else np.zeros(0, np.int64)
    owners = np.repeat(np.arange(store.n_users), np.diff(store.offsets))
    reasons = explanations(reviews.bodies, trained)
    parts = {"train": trained, "validation": split.validation.stops, "test": split.test.stops}
    out = {}
    for name, places in parts.items():
        chosen = np.array([k for k in places.tolist() if reasons[k]], np.int64)
        if not len(chosen):
            raise InputError(
                f"config.text.reviews: no {name} review has an explanation (a sentence of 4 to 30 "
                "words with a word that several training reviews have, and at most a fifth of them)"
            )
        pairs = [reasons[k] or ("", "") for k in chosen.tolist()]
        ratings = np.asarray(store.ratings[chosen], np.float32)
        if not np.isfinite(ratings).all():
            raise InputError(f"{store.path}: a rating that is no number")
        out[name] = Explained(
            owners[chosen].astype(np.int32),
            np.asarray(store.items[chosen], np.int32),
            ratings,
            [feature for feature, _ in pairs],
            [text for _, text in pairs],
            chosen,
        )
    return out


def _filled(rows: Sequence[Sequence[int]], width: int, value: int) -> np.ndarray:
    out = np.full((len(rows), width), value, np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids[:width]
    return out


def as_arrays(
    rows: Explained, tokenizer: Tokenizer, length: int, feature_tokens: int
) -> dict[str, np.ndarray]:
    """A model's training data.

    Args:
        rows: n reviews.
        tokenizer: of the texts.
        length: T; longer texts lose what is over it.
        feature_tokens: F; 0 pads.

    Returns:
        `users`, `items`, `ratings` [n], `features` [n F], `tokens` [n T], which begin with `<s>`,
        and `labels` [n T], what each place predicts, with `</s>` at the end; -100 pads.
    """
    texts = tokenizer.encode_batch(list(rows.texts), eos=True)
    features = tokenizer.encode_batch(list(rows.features))
    labels = _filled([ids[:length] for ids in texts], length, NO_LABEL)
    begin = np.full((len(rows), 1), tokenizer.bos_id, np.int32)
    before = np.concatenate([begin, np.maximum(labels[:, :-1], 0)], axis=1)
    return {
        "users": rows.users,
        "items": rows.items,
        "ratings": rows.ratings,
        "features": _filled([ids[:feature_tokens] for ids in features], feature_tokens, 0),
        "tokens": before,
        "labels": labels,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class ExplainedBatches(RowBatches):
    """Batches of reviews; see `RowBatches`.

    Attributes:
        known: of `as_arrays`.
        batch_size, seed, multiple, process: of the batches.
    """

    known: Mapping[str, np.ndarray]
    batch_size: int = 1
    seed: int = 0
    multiple: int = 1
    process: tuple[int, int] = (0, 1)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """See `RowBatches`."""
        return self.known
