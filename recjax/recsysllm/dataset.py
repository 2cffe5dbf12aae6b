"""RecSysLLM's view of a data set: titles, profiles, reviews, tasks, entities."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.data.attributes import known_keys
from recjax.data.prepare import resolve
from recjax.data.reviews import Reviews, read_reviews
from recjax.data.sources.table import read_records
from recjax.data.splits import Split
from recjax.data.store import Store, hash_file
from recjax.errors import InputError
from recjax.recsysllm.catalogue import Names, attributes
from recjax.recsysllm.mixture import Mixture, mixture
from recjax.recsysllm.passages import places
from recjax.recsysllm.tasks import ReviewTexts, Tasks, TasksConfig
from recjax.recsysllm.text import Behaviour, BehaviourConfig, read_sentences
from recjax.text.reasons import explanations
from recjax.text.textualize import facts_of, item_titles

_SECTION, REVIEWS = "config.text.behaviour", "config.text.tasks.reviews"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """All that a run of RecSysLLM reads, but for the model.

    Attributes:
        text: behaviour, profiles and catalogue as text.
        tasks: what is asked.
        store: the prepared data.
        split: its parts; training reads `split.train` alone.
        seed: of all draws.
        named: see `Behaviour`.
    """

    text: BehaviourConfig
    tasks: TasksConfig
    store: Store
    split: Split
    seed: int = 0
    named: bool = False

    @functools.cached_property
    def profiles(self) -> dict[int, Mapping[str, Any]]:
        """The records of the table of users, by user number.

        Raises:
            InputError: naming the file, the column or the key.
        """
        config = self.text
        if not config.users:
            if config.users_facts:
                raise InputError(
                    f"{_SECTION}.users_facts: names columns, but {_SECTION}.users no table"
                )
            return {}
        path = resolve(config.users, f"{_SECTION}.users")
        records = read_records(
            path,
            config.users_key,
            config.users_names,
            config.users_separator,
            f"{_SECTION}.users_",
        )
        numbers = self.store.user_numbers
        out: dict[int, Mapping[str, Any]] = {
            numbers[key]: record for key, record in records.items() if key in numbers
        }
        if not out:
            raise InputError(
                f"{path}: column '{config.users_key}' has no user of {self.store.path}"
            )
        for column in config.users_facts:
            if not attributes(out.values(), [column]):
                raise InputError(
                    f"{_SECTION}.users_facts: no names in column '{column}' of {path}; "
                    f"{nearest(column, known_keys(out.values()) - {column})}"
                )
        return out

    @functools.cached_property
    def names(self) -> Names:
        """Titles by item id, and the attributes' names."""
        words = read_sentences(self.text.sentences, self.text.domain).words
        catalog = self.store.catalog
        titles = item_titles(catalog, words)
        facts: dict[str, None] = {}
        for record in catalog[1:]:
            for names in facts_of(record or {}, self.text.facts).values():
                facts.update(dict.fromkeys(names))
        for profile in self.profiles.values():
            for names in facts_of(profile, self.text.users_facts).values():
                facts.update(dict.fromkeys(names))
        known = set(titles)
        return Names(titles, [name for name in facts if name not in known])

    @functools.cached_property
    def behaviour(self) -> Behaviour:
        """Text about the training part."""
        for column in self.text.facts:
            if not attributes(self.store.catalog, [column]):
                raise InputError(
                    f"{_SECTION}.facts: no item has names in '{column}'; "
                    f"{nearest(column, known_keys(self.store.catalog) - {column})}"
                )
        keys = self.store.user_keys
        self._check("user", self.text.users_facts, {keys[u]: p for u, p in self.profiles.items()})
        self._check("item", self.text.facts, {r["key"]: r for r in self.store.catalog[1:] if r})
        return Behaviour(
            self.text, self.names, self.store.catalog, self.store.items, self.store.timestamps,
            self.split.train, self.profiles, self.seed, self.named,
        )  # fmt: skip

    def _check(
        self, of: str, columns: Sequence[str], records: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Raises `InputError` for a sentence about users or items that some records cannot fill."""
        sentences = read_sentences(self.text.sentences, self.text.domain)
        asked = places(sentences.by_key[of]) - {"facts", "title", *sentences.own}
        for column in sorted(asked):
            lacking = [k for k, r in records.items() if column not in facts_of(r, columns)]
            if lacking:
                hint = "" if not columns or column in columns else ", which `facts` leaves out"
                raise InputError(
                    f"{self.text.sentences}: {of}: '{{{column}}}'{hint}: nothing is known of it "
                    f"for {len(lacking):,} of {len(records):,} {of}s ({', '.join(lacking[:3])}); "
                    "expected a value of each, or {facts} in its place"
                )

    @functools.cached_property
    def reviews(self) -> Reviews | None:
        """The reviews, where a config names them."""
        path = self.tasks.reviews
        return read_reviews(resolve(path, REVIEWS), self.store, REVIEWS) if path else None

    @functools.cached_property
    def asked(self) -> Tasks:
        """The maker of the tasks' passages."""
        return Tasks(
            self.tasks, self.behaviour, self.store.ratings, self.store.offsets, self._written,
            self.seed,
        )  # fmt: skip

    @functools.cached_property
    def _written(self) -> ReviewTexts | None:
        reviews = self.reviews
        if reviews is None:
            return None
        train = self.split.train
        runs = [np.arange(a, b) for a, b in zip(train.starts, train.stops, strict=True)]
        reasons = explanations(reviews.bodies, np.concatenate(runs))
        return ReviewTexts(reviews.bodies, reviews.headlines, reasons, reviews.names)

    @functools.cached_property
    def stream(self) -> Mixture:
        """The training passages, of the training part alone."""
        return mixture(self.asked, self.split.train)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data and of the files beside them: reviews, users and sentences."""
        out = self.store.fingerprint + (self.reviews.sha256[:16] if self.reviews else "")
        for key in ("users", "sentences"):
            path = getattr(self.text, key)
            if path:
                sha256 = hash_file(resolve(path, f"{_SECTION}.{key}"))["sha256"]
                out += f" {key} {sha256[:16]}"
        return out
