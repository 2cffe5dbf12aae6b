"""How well a language model continues documents that are held out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.likelihood import (
    MEASURES,
    LikelihoodConfig,
    PackedScorer,
    PredictFn,
    measures,
)
from recjax.text.corpus import KINDS, Documents
from recjax.text.documents import Document
from recjax.text.token_batches import NO_LABEL, Encoded, encode
from recjax.text.tokenizers import Tokenizer

# Measures that each prompt has, and which of several is the worst.
WORST: dict[str, Callable[..., float]] = {"loss": max, "exact": min}


@dataclasses.dataclass(frozen=True, eq=False)
class DocumentEvaluator(PackedScorer[Document]):
    """Measures how well a language model predicts documents, teacher-forced (no generation).

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
        """Checks that every kind and prompt has something to measure, as `run` would.

        Raises:
            InputError: all documents of a kind are cut before the text that is measured.
        """
        labels = [(batch["documents"], batch["labels"] != NO_LABEL) for batch in self._batches]
        size = self.config.batch_size
        tokens = np.concatenate(
            [np.bincount(d[learned], minlength=size)[:size] for d, learned in labels]
        )
        kinds = [(document.kind, document.form) for document in self.examples]
        for kind, form in dict.fromkeys(kinds):
            chosen = np.array([pair == (kind, form) for pair in kinds])
            if not tokens[: len(chosen)][chosen].any():
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
        forms = np.array([-1 if d.form is None else d.form for d in self.examples])
        out: dict[str, float] = {}
        by_prompt: dict[str, float] = {}
        for name in ("text", *self.kinds):
            chosen = np.ones(len(kind_of), bool) if name == "text" else kind_of == number[name]
            measured = measures(loss[chosen], right[chosen], tokens[chosen])
            out |= {f"{self.name}/{name}/{key}": value for key, value in measured.items()}
            if name == "text" or not self.documents.forms(name):
                continue
            rows = [chosen & (forms == form) for form in range(self.documents.forms(name))]
            of_prompts = [measures(loss[r], right[r], tokens[r]) for r in rows]
            for form, measured in enumerate(of_prompts):
                for key in WORST:
                    by_prompt[f"{self.name}/{name}/prompt{form}/{key}"] = measured[key]
            for key, worst in WORST.items():
                values = [measured[key] for measured in of_prompts]
                by_prompt[f"{self.name}/{name}/worst/{key}"] = worst(values)
        return out | by_prompt
