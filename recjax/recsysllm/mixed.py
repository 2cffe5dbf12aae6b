"""The source "tasks": behaviour as text mixed with the five families of tasks.

Section `text` of a config whose `source` is "tasks":

    behaviour  how users, items and histories are told (`recjax.recsysllm.text`)
    tasks      shares of the families, their data (`recjax.recsysllm.tasks`)
    entities   the switches (`recjax.recsysllm.pretrain`)
    naming     whether titles have tokens of their own (`recjax.recsysllm.item_tokens`)
    answers    how answers are written and measured (`recjax.recsysllm.answers`)
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from recjax.data.prepare import resolve
from recjax.data.rows import some_rows
from recjax.errors import InputError
from recjax.paths import home
from recjax.ranges import Checked
from recjax.recsysllm.answers import AnswersConfig
from recjax.recsysllm.dataset import Dataset
from recjax.recsysllm.item_tokens import NamingConfig, item_vectors, known_tokens, token_names
from recjax.recsysllm.mixture import Mixture
from recjax.recsysllm.passages import Passage, PieceEncoder, plain
from recjax.recsysllm.pretrain import OWN, Blanking, EntityConfig, PassageBatches
from recjax.recsysllm.prompts import PROMPTS, Family
from recjax.recsysllm.sources import Source
from recjax.recsysllm.tasks import TasksConfig
from recjax.recsysllm.text import BehaviourConfig
from recjax.text.tokenizers import Tokenizer
from recjax.training.ranking_run import make_split

_CORPUS = 20_000  # passages that a tokenizer is trained on, at most
# Keys of files beside the store, whose content is in the fingerprint.
FILES = ("text.behaviour.users", "text.behaviour.sentences", "text.tasks.reviews")


@dataclasses.dataclass(frozen=True)
class MixedOptions(Checked):
    """Options of the source "tasks"."""

    behaviour: BehaviourConfig = dataclasses.field(default_factory=BehaviourConfig)
    tasks: TasksConfig = dataclasses.field(default_factory=TasksConfig)
    entities: EntityConfig = dataclasses.field(default_factory=EntityConfig)
    naming: NamingConfig = dataclasses.field(default_factory=NamingConfig)
    answers: AnswersConfig = dataclasses.field(default_factory=AnswersConfig)


class Mixed(Source[Passage]):
    """Passages about behaviour, and of tasks."""

    Options = MixedOptions
    options: MixedOptions

    @classmethod
    def settled(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """See `Source`."""
        out = {key: section[key] for key in section}
        run = (out.get("naming") or {}).get("run")
        if run:
            out["naming"] = {**out["naming"], "run": str(home(run).absolute())}
        for file in FILES:
            _, part, key = file.split(".")
            path = (out.get(part) or {}).get(key)
            if path:
                found = resolve(path, f"config.{file}")
                out[part] = {**out[part], key: str(found.absolute())}
        return out

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data of the passages."""
        split = make_split(self.store, self.split_config)
        options = self.options
        named = options.naming.token and not options.naming.text
        return Dataset(options.behaviour, options.tasks, self.store, split, self.seed, named)

    @property
    def stream(self) -> Mixture:  # type: ignore[override]
        """The training part alone."""
        return self.dataset.stream

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the store and the files beside it."""
        return self.dataset.fingerprint

    def corpus(self) -> Iterable[str]:
        """All names, and passages of the first epoch."""
        names = self.dataset.names
        yield from (f" {name}" for name in itertools.chain(names.distinct, names.others))
        for place in range(min(len(self.stream), _CORPUS)):
            passage = self.stream(place)
            yield plain((*passage.pieces, *(passage.answer or ())))

    def held_out(self, name: str, most: int, seed: int) -> list[Passage]:
        """Questions about the part's targets for each family with a share, and histories."""
        part, tasks = getattr(self.dataset.split, name), self.dataset.asked
        out = []
        if self.options.tasks.text:
            for k in some_rows(len(part), most, seed).tolist():
                rng = np.random.default_rng([seed, 3, k])
                stop = int(part.stops[k]) + 1
                user = int(part.users[k])
                out.append(
                    self.dataset.behaviour.user_passage(user, int(part.starts[k]), stop, rng)
                )
        for family, share in self.options.tasks.shares.items():
            ids = tasks.trained(family, part.stops) if share else []
            if ids:
                out += self.questions(name, ids[0], most, seed)[1]
            elif share:
                warnings.warn(
                    f"config.text.tasks.{family}: nothing of the {name} has what its prompts ask "
                    f"for; the {name} leaves the family out",
                    stacklevel=2,
                )
        return out

    def questions(
        self, name: str, id: str, most: int, seed: int
    ) -> tuple[np.ndarray, list[Passage]]:
        """A prompt asked about targets of a part: which examples of it, and the passages."""
        part, tasks = getattr(self.dataset.split, name), self.dataset.asked
        able = np.flatnonzero(tasks.able(PROMPTS[id], part.stops))
        chosen = able[some_rows(len(able), most, seed)]
        offsets = self.store.offsets
        passages = []
        for k in chosen.tolist():
            rng = np.random.default_rng([seed, 4, k])  # the same candidates for every prompt
            user = int(part.users[k])
            passages.append(
                tasks.passage(
                    id, int(part.starts[k]), int(part.stops[k]), int(offsets[user + 1]), rng
                )
            )
        return chosen, passages

    def completed(self, tokenizer: Tokenizer) -> Tokenizer:
        """See `Source`."""
        if not self.options.naming.token:
            return tokenizer
        try:
            return tokenizer.with_controls(token_names(len(self.dataset.names.distinct)))
        except InputError as error:
            raise InputError(f"config.text.naming.token: {error}") from None

    def encoder(self, tokenizer: Tokenizer) -> PieceEncoder:
        """The map from passages to tokens."""
        naming = self.options.naming
        if not naming.token:
            return PieceEncoder(tokenizer)
        own = known_tokens(tokenizer, self.dataset.names)
        return PieceEncoder(tokenizer, own, naming.text)

    def vectors(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray] | None:
        """See `Source`."""
        if not self.options.naming.run:
            return None
        return np.array(list(known_tokens(tokenizer, self.dataset.names).values())), self._vectors

    @functools.cached_property
    def _vectors(self) -> np.ndarray:
        run, names = self.options.naming.run, self.dataset.names
        return item_vectors(run, self.store, self.split_config, names)

    def families(self) -> list[Family]:
        """The families that have a share."""
        return [family for family, share in self.options.tasks.shares.items() if share]

    def batches(self, tokenizer: Tokenizer, **fields: Any) -> PassageBatches:
        """See `Source`."""
        encoder, marks, length = self.encoder(tokenizer), fields["marks"], fields["length"]
        pool = self.dataset.names.pool(encoder, marks, length - OWN)
        blanking = Blanking(
            encoder, marks, fields["config"], self.options.entities, pool, length, fields["ends"],
            fields["seed"],
        )  # fmt: skip
        return PassageBatches(self.stream, tokenizer, **fields, blanking=blanking)
