"""The likelihood of documents' text by a language model, without generating.

Letters: R packed rows, T tokens, M labelled places.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.shards import fetch, shards_of, split_batch
from recjax.ranges import Checked, Count, Seed, Size
from recjax.text.corpus import KINDS, Documents
from recjax.text.documents import Document
from recjax.text.pairs import Row, joined
from recjax.text.token_batches import NO_LABEL, Encoded, encode, fixed_batches
from recjax.text.tokenizers import Tokenizer
from recjax.typing import Array

# Measures that each prompt has, and which of several is the worst.
WORST: dict[str, Callable[..., float]] = {"loss": max, "exact": min}
MEASURES = ("loss", "perplexity", "accuracy", "exact")
_CHUNK = 512  # places whose logits are held at a time

# `(params, batch) -> (negative log-likelihood [M], whether the likeliest token was right [M])` of
# the tokens at `places` [M], flat in the [R T] of `tokens`, `positions` and `segments`, or [S m] in
# S equal parts of the rows; soft tokens as in `recjax.text.token_batches`.
PredictFn = Callable[[Any, Mapping[str, Array]], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig(Checked):
    """Section `evaluation` of language models."""

    batch_size: Size = 128  # documents a batch
    max_examples: Count = 500  # of each kind: items, or histories in every prompt; 0 = all
    seed: Seed = 0  # of their choice


def likelihood(
    h: Array, targets: Array, logits: Callable[[Array], Array], parts: int = 1
) -> tuple[Array, Array]:
    """Negative log-likelihood, and whether the likeliest token is the target.

    Args:
        h: [M E] hidden states before the targets, M a multiple of 512 in each part.
        targets: [M].
        logits: the model's head, [... E] -> [... V].
        parts: equal parts of M, that different devices may hold: 512 of each are taken at a time.
    """

    def chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
        scores = logits(part[0]).astype(jnp.float32)
        chosen = jnp.take_along_axis(scores, part[1][..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(scores, axis=-1) - chosen, scores.argmax(axis=-1) == part[1]

    lead = (parts, -1, _CHUNK) if parts > 1 else (-1, _CHUNK)
    chunks = h.reshape(*lead, h.shape[-1]), targets.reshape(lead)
    if parts == 1:
        found = jax.lax.map(chunk, chunks)
    else:
        found = jax.lax.map(chunk, tuple(jnp.moveaxis(a, 1, 0) for a in chunks))
        found = tuple(jnp.moveaxis(a, 1, 0) for a in found)
    loss, right = found
    return loss.reshape(-1), right.reshape(-1)


M = TypeVar("M")


class Scored(abc.ABC, Generic[M]):
    """Examples whose learned tokens a language model is asked for, packed into rows.

    Attributes:
        config: how many examples, and how many at a time.
        length: T.
        predict: the model.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """

    config: LikelihoodConfig
    length: int
    predict: PredictFn
    sharding: NamedSharding | None
    learned: ClassVar[str] = "labels"  # the field that says what is learned where

    @property
    @abc.abstractmethod
    def examples(self) -> Sequence[M]:
        """The examples that are measured."""

    @abc.abstractmethod
    def encoded(self, examples: Sequence[M]) -> Encoded:
        """Examples as tokens."""

    def parts(self, example: M) -> int:
        """How many parts of an example are scored apart, of the numbers in `options` from 1 on."""
        del example
        return 1

    @functools.cached_property
    def _batches(self) -> list[dict[str, np.ndarray]]:
        """Packed rows with `places` of the labels, [M] or [S m], the same in all; -1 fills up."""
        shards = shards_of(self.sharding)
        batches = fixed_batches(
            self.examples, self.encoded, self.length, self.config.batch_size, shards
        )
        places = [
            [np.flatnonzero(part != NO_LABEL) for part in np.split(batch[self.learned], shards)]
            for batch in batches
        ]
        most = -(-max(len(place) for parts in places for place in parts) // _CHUNK) * _CHUNK
        out = []
        for batch, parts in zip(batches, places, strict=True):
            filled = np.full((shards, most), -1, np.int32)
            for row, part in zip(filled, parts, strict=True):
                row[: len(part)] = part
            out.append({**batch, "places": filled if shards > 1 else filled[0]})
        return out

    @functools.cached_property
    def _predict(self) -> Callable[..., tuple[Array, Array]]:
        return jax.jit(self.predict)

    def scores(
        self, params: Any, progress: Callable[[int], Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each example, its learned tokens' loss, how many were the likeliest, how many.

        Of each part, where an example has several.
        """
        size, done = self.config.batch_size, 0
        parts = np.array([self.parts(example) for example in self.examples])
        firsts = np.cumsum(parts) - parts
        loss, right, tokens = (np.zeros(parts.sum()) for _ in range(3))
        for batch in self._batches:
            places = np.atleast_2d(batch["places"])
            documents = batch["documents"].reshape(len(places), -1)
            real = (places >= 0).reshape(-1)
            inputs = {k: batch[k] for k in batch if k != "documents"}
            results = self._predict(params, split_batch(inputs, self.sharding))
            owner = np.take_along_axis(documents, places, axis=1).reshape(-1)[real]
            owner = firsts[done + owner]
            if "options" in batch:
                options = batch["options"].reshape(len(places), -1)
                owner += np.take_along_axis(options, places, axis=1).reshape(-1)[real] - 1
            for total, values in zip((loss, right), fetch(results), strict=True):
                total += np.bincount(owner, values[real], minlength=len(total))
            tokens += np.bincount(owner, minlength=len(tokens))
            count = min(size, len(self.examples) - done)
            done += count
            progress(count)
        return loss, right, tokens


@dataclasses.dataclass(frozen=True, eq=False)
class LikelihoodEvaluator(Scored[Document]):
    """How well a language model continues documents, given what comes before (no generation).

    Of each kind of document: `loss` (nats a token), `perplexity`, `accuracy` (share of tokens that
    were the likeliest) and `exact` (share of documents whose text was the likeliest at every
    token, which is what greedy decoding would have said). "text" is all kinds together. Histories
    are those of the split's part with their targets, the newest window of each; documents about
    items are those that training knows, for a catalogue has no unseen items.

    A history that is asked about is asked in every prompt of the table. `loss` and `exact` are also
    given for each prompt (`residual/prompt0/exact`), and for the worst of them
    (`residual/worst/exact`): training can wait until every prompt is understood.

    Attributes:
        config: how many documents.
        name: prefix of the metric names ("validation", "test").
        documents: of the split's part: its runs with their targets.
        tokenizer: of the model.
        length: T.
        predict: the model.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """

    config: LikelihoodConfig
    name: str
    documents: Documents
    tokenizer: Tokenizer
    length: int
    predict: PredictFn
    sharding: NamedSharding | None = None

    @functools.cached_property
    def examples(self) -> list[Document]:
        """The documents that are measured, kind by kind."""
        rng = np.random.default_rng(self.config.seed)
        out = []
        for kind in KINDS:
            members = self.documents.members(kind)
            if not self.documents.counts[kind]:
                continue
            if 0 < self.config.max_examples < len(members):
                members = np.sort(rng.choice(members, self.config.max_examples, replace=False))
            forms = range(self.documents.forms(kind)) or [None]
            out += [self.documents.fixed(kind, int(m), form) for form in forms for m in members]
        return out

    def encoded(self, examples: Sequence[Document]) -> Encoded:
        """The examples as tokens."""
        return encode(examples, self.tokenizer, self.length)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are measured."""
        return tuple(dict.fromkeys(document.kind for document in self.examples))

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        names = [f"{self.name}/{kind}/{m}" for kind in ("text", *self.kinds) for m in MEASURES]
        for kind in self.kinds:
            forms = [f"prompt{k}" for k in range(self.documents.forms(kind))]
            for form in (*forms, "worst") if forms else ():
                names += [f"{self.name}/{kind}/{form}/{m}" for m in WORST]
        return names

    def check(self) -> None:
        """Finds out what `run` would: whether every kind and prompt has something to measure.

        Raises:
            InputError: all documents of a kind are cut before the text that is measured.
        """
        labels = [(batch["documents"], batch["labels"] != NO_LABEL) for batch in self._batches]
        size = self.config.batch_size
        tokens = np.concatenate(
            [np.bincount(d[learned], minlength=size)[:size] for d, learned in labels]
        )
        asked = [(document.kind, document.form) for document in self.examples]
        for kind, form in dict.fromkeys(asked):
            mine = np.array([one == (kind, form) for one in asked])
            if not tokens[: len(mine)][mine].any():
                prompt = "" if form is None else f", prompt {form}"
                raise InputError(
                    f"config.model.max_length: {self.length} tokens leave no room for what is "
                    f"learned in any document of kind '{kind}'{prompt}"
                )

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name (`validation/naming/exact`).

        Args:
            params: the model's parameters.
            progress: called with the number of documents done.

        Raises:
            InputError: all documents of a kind are cut before the text that is measured.
        """
        self.check()
        number = {kind: k for k, kind in enumerate(self.kinds)}
        kind_of = np.array([number[document.kind] for document in self.examples])
        loss, right, tokens = self.scores(params, progress)
        # A document whose text was cut off is not exact.
        exact = (right == tokens) & (tokens > 0)
        forms = np.array([-1 if d.form is None else d.form for d in self.examples])
        out: dict[str, float] = {}
        by_prompt: dict[str, float] = {}
        for name in ("text", *self.kinds):
            mine = np.ones(len(kind_of), bool) if name == "text" else kind_of == number[name]
            measured = measures(loss[mine], right[mine], tokens[mine])
            out |= {f"{self.name}/{name}/{key}": value for key, value in measured.items()}
            if name == "text" or not self.documents.forms(name):
                continue
            each = [mine & (forms == form) for form in range(self.documents.forms(name))]
            of_each = {
                "loss": [float(loss[one].sum() / tokens[one].sum()) for one in each],
                "exact": [float(exact[one].mean()) for one in each],
            }
            for form in range(len(each)):
                for key in WORST:
                    by_prompt[f"{self.name}/{name}/prompt{form}/{key}"] = of_each[key][form]
            for key, worst in WORST.items():
                by_prompt[f"{self.name}/{name}/worst/{key}"] = worst(of_each[key])
        return out | by_prompt


def measures(loss: np.ndarray, right: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """`MEASURES` of examples' scores: loss, likeliest tokens and tokens [n] of each."""
    mean = float(loss.sum() / tokens.sum())
    exact = (right == tokens) & (tokens > 0)
    values = (mean, math.exp(min(mean, 700.0)), right.sum() / tokens.sum(), exact.mean())
    return dict(zip(MEASURES, map(float, values), strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of prompt and answer that are measured, as `NAME/answers/loss` and its kin.

    Attributes:
        config: how many pairs, and how.
        name: prefix of the metric names ("validation", "test").
        rows: the pairs of one part.
    """

    config: LikelihoodConfig
    name: str
    rows: Sequence[Row]

    @functools.cached_property
    def examples(self) -> Sequence[Row]:
        """The pairs that are measured."""
        most = self.config.max_examples
        if not 0 < most < len(self.rows):
            return self.rows
        rng = np.random.default_rng(self.config.seed)
        chosen = np.sort(rng.choice(len(self.rows), most, replace=False))
        return [self.rows[k] for k in chosen]

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/answers/{measure}" for measure in MEASURES]

    def check(self) -> None:
        """Nothing is left to find out: every pair has an answer, and fits."""

    def named(self, *scores: np.ndarray) -> dict[str, float]:
        """Metrics by name; the arguments of `measures`."""
        return {f"{self.name}/answers/{key}": value for key, value in measures(*scores).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class PairEvaluator(Pairs, Scored[Row]):
    """How well a language model answers prompts; see `LikelihoodEvaluator`.

    Attributes:
        config, name, rows: see `Pairs`.
        length, predict, sharding: see `Scored`.
    """

    length: int
    predict: PredictFn
    sharding: NamedSharding | None = None

    def encoded(self, examples: Sequence[Row]) -> Encoded:
        """The examples as tokens."""
        return joined(examples)

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name.

        Args:
            params: of the model.
            progress: called with the number of pairs done.
        """
        return self.named(*self.scores(params, progress))
