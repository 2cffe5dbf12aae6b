"""Which of several given answers follows a prompt: by likelihood, or as an answer's text says.

scores = OptionScorer(lm)(["Which film is older?"], [["Alien", "Heat"]])       # nats a token
named_option("I would say Alien.", ["Alien", "Heat"])                          # 0

The options of a prompt share one row (`OptionRows`): they stand behind it side by side and do not
see each other (`options` of `nn.masks.make_mask`), so that the prompt is read once.

Letters: n tokens of all rows, one row after the other; R rows, T tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.likelihood import LikelihoodConfig, PackedScorer, PredictFn
from recjax.generate.prompts import bucket, lengths
from recjax.llm import LanguageModel
from recjax.models.definition import ModelDef
from recjax.nn.masks import make_mask
from recjax.nn.places import text_positions
from recjax.text.titles import normalise
from recjax.text.token_batches import NO_LABEL, Encoded
from recjax.training.parallel import batch_sharding
from recjax.training.token_loss import label_likelihood
from recjax.typing import Array, Params

Row = TypeVar("Row", bound=Encoded)


@dataclasses.dataclass(frozen=True, eq=False)
class OptionRows(PackedScorer[Row]):
    """Prompts whose options are scored apart.

    Attributes:
        config: with the number of prompts in a batch.
        length: T.
        rows: of each prompt, its tokens and those of its options behind it. Their `fields` have
            `targets`, the token that each place predicts, and `options`, which of the prompt's
            options a token belongs to, from 1 on; 0 in the prompt.
        predict: the model, of `targets`.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """

    config: LikelihoodConfig
    length: int
    rows: Sequence[Row]
    predict: PredictFn
    sharding: NamedSharding | None
    learned: ClassVar[str] = "targets"

    @property
    def examples(self) -> Sequence[Row]:
        """The prompts with their options."""
        return self.rows

    def parts(self, example: Row) -> int:
        """The number of its options."""
        return int(example.fields()["options"][0][-1])

    def encoded(self, examples: Sequence[Row]) -> Row:
        """Several rows as one."""
        names = [field.name for field in dataclasses.fields(examples[0]) if field.name != "blends"]
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(example, name) for example in examples]) for name in names
        }
        return type(examples[0])(**joined, blends=[])

    def log_probs(self, params: Any, *, mean: bool = True) -> np.ndarray:
        """The log-probability of each option, one prompt's after the other's.

        Args:
            params: of the model.
            mean: nats a token, so that long texts do not lose by their length; else of the whole.
        """
        loss, _, tokens = self.scores(params, lambda n: None)
        return -loss / np.maximum(tokens, 1) if mean else -loss


@dataclasses.dataclass(frozen=True, eq=False)
class _Prompted(Encoded):
    """Prompts, each with its options behind it. An option begins with the prompt's last token,
    which predicts its first: so each place predicts one token.

    Attributes:
        options: [n] int32, see `OptionRows`.
    """

    options: np.ndarray

    def fields(self) -> Mapping[str, tuple[np.ndarray, int]]:
        """For `lay_out`: `tokens`, `targets` and `options` [R T]."""
        return {
            "tokens": (self.tokens, 0),
            "targets": (self.labels, NO_LABEL),
            "options": (self.options, 0),
        }


class OptionScorer:
    """Scores several answers to a prompt by their likelihood under a language model.

    An option's score is the mean log-probability of the tokens of its text, after the prompt and a
    blank. Rows are padded to a few lengths, with one compiled program for each.

    Args:
        lm: with a tokenizer.
        tokens: at most so many in a batch (one prompt at least), which bounds the memory. Logits
            are held for 512 of them.

    Raises:
        InputError: `lm` has no tokenizer, or reads prompts both ways.
    """

    def __init__(self, lm: LanguageModel, *, tokens: int = 4096):
        if lm.tokenizer is None:
            raise InputError("options are scored by a language model with a tokenizer; it has none")
        lm.check_causal("a scorer of options")
        self._lm, self._tokenizer, self._tokens = lm, lm.tokenizer, tokens
        self._predict = functools.partial(_predict, lm.definition)

    def __call__(
        self,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        names: Sequence[str] = (),
    ) -> list[np.ndarray]:
        """Nats a token, an array with one number an option for each prompt.

        Args:
            prompts: whole texts.
            options: of each prompt.
            names: of the prompts, for errors; by default "prompt 0", "prompt 1", ...

        Raises:
            InputError: an empty prompt, or one that with an option is longer than what the model
                was trained on.
        """
        out = [np.zeros(0)] * len(prompts)
        for members, scorer in self._by_length(prompts, options, names):
            counts = [scorer.parts(row) for row in scorer.rows]
            log_probs = np.split(scorer.log_probs(self._lm.params), np.cumsum(counts)[:-1])
            for index, scores in zip(members, log_probs, strict=True):
                out[index] = scores
        return out

    def _by_length(
        self,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        names: Sequence[str] = (),
    ) -> list[tuple[list[int], OptionRows[_Prompted]]]:
        """For each length of rows, the prompts' numbers and what scores their options."""
        if not prompts:
            return []
        names = names or [f"prompt {number}" for number in range(len(prompts))]
        rows = [self._row(*one) for one in zip(prompts, options, names, strict=True)]
        sizes = lengths(max(len(row.tokens) for row in rows))
        by_size: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_size.setdefault(bucket(len(row.tokens), sizes), []).append(index)
        sharding = None if self._lm.mesh is None else batch_sharding(self._lm.mesh)
        out = []
        for size, members in by_size.items():
            # Batches of about equal numbers of rows: one program.
            batches = -(-len(members) * size // max(self._tokens, size))
            config = LikelihoodConfig(batch_size=-(-len(members) // batches))
            own = [rows[index] for index in members]
            out.append((members, OptionRows(config, size, own, self._predict, sharding)))
        return out

    def _row(self, prompt_text: str, options: Sequence[str], name: str) -> _Prompted:
        encode = self._tokenizer.encode_batch
        prompt = [*self._tokenizer.begin, *encode([prompt_text])[0]]
        answers = encode([f" {option}" for option in options], start=False)
        if not prompt:
            raise InputError(f"{name}: no tokens; expected a prompt with text")
        longest, known = len(prompt) + max(map(len, answers)), self._lm.config.max_length
        if longest > known:
            raise InputError(
                f"{name}: {longest} tokens with the answer; the model was trained on {known}; "
                "expected a shorter prompt"
            )
        *asked, last = prompt
        tokens = [asked, *([last, *answer[:-1]] for answer in answers)]
        sizes = list(map(len, tokens))
        row = np.concatenate(tokens).astype(np.int32)
        return _Prompted(
            tokens=row,
            labels=np.concatenate([[NO_LABEL] * len(asked), *answers]).astype(np.int32),
            soft=np.zeros_like(row),
            lengths=np.array([len(row)]),
            blends=[],
            options=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        )


def _predict(
    definition: ModelDef, params: Params, batch: Mapping[str, Array]
) -> tuple[Array, Array]:
    """See `recjax.evaluation.likelihood.PredictFn`; of `targets`."""
    model = definition.merge(params)
    segments, options = batch["segments"], batch["options"]
    mask = make_mask(segments > 0, 1, segments, options)
    positions = text_positions(segments, options)
    h, _ = model.hidden(batch["tokens"], positions=positions, mask=mask)
    return label_likelihood(h, batch, model.logits)


def named_option(text: str, options: Sequence[str]) -> int | None:
    """Which option a text names, or None: it names none, or several.

    Text and titles are compared in their normal forms, whole words only, also inside a sentence.
    Longer titles are looked for first and taken out of the text, so that "Alien" is not found in
    "Alien Resurrection". A title of marks alone ("???") must be the whole answer. A title that is
    an everyday word ("It") is found where the word is meant: nothing tells the two apart.

    >>> named_option("I would pick Alien: Resurrection.", ["Alien", "Alien Resurrection"])
    1
    """
    left = f" {normalise(text)} "
    named = []
    for place, name in sorted(enumerate(map(normalise, options)), key=lambda pair: -len(pair[1])):
        if f" {name} " in left:
            named.append(place)
            while f" {name} " in left:  # twice over a shared blank, too
                left = left.replace(f" {name} ", " | ")
    return named[0] if len(named) == 1 else None
