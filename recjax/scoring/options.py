"""Which of several given answers follows a prompt: by likelihood, or as an answer's text says.

scores = OptionScorer(lm)(["Which film is older?"], [["Alien", "Heat"]])       # nats a token
named_option("I would say Alien.", ["Alien", "Heat"])                          # 0

Letters: R rows, T tokens, M places.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.evaluation.likelihood import likelihood
from recjax.generate.buckets import bucket
from recjax.generate.prompts import lengths
from recjax.llm import LanguageModel
from recjax.models.definition import ModelDef
from recjax.nn.masks import make_mask
from recjax.text.titles import normalise
from recjax.typing import Array, Params

_PLACES = 512  # `likelihood` takes a multiple of so many
_PADDING = -1


class OptionScorer:
    """How likely a language model holds each of several answers to a prompt.

    An option's score is the mean log-probability of the tokens of its text, after the prompt and a
    blank: the mean, so that long texts do not lose by their length. The options of a prompt share
    one row and do not see each other, so the prompt is read once. Rows are padded to a few lengths,
    with one compiled program for each.

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
        self._score = jax.jit(functools.partial(_score, lm.definition))

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
            InputError: a prompt with an option is longer than what the model was trained on.
        """
        if not prompts:
            return []
        names = names or [f"prompt {number}" for number in range(len(prompts))]
        rows = [self._row(*one) for one in zip(prompts, options, names, strict=True)]
        sizes = lengths(max(len(row.tokens) for row in rows))
        by_size: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_size.setdefault(bucket(len(row.tokens), sizes), []).append(index)
        out = [np.zeros(0)] * len(rows)
        for size, members in by_size.items():
            # Batches of equal numbers of rows and places: one program.
            batches = -(-len(members) * size // max(self._tokens, size))
            count = -(-len(members) // batches)
            parts = [members[start : start + count] for start in range(0, len(members), count)]
            most = max(sum(len(rows[index].places) for index in part) for part in parts)
            places = -(-most // _PLACES) * _PLACES
            for part in parts:
                scored = self._batch([rows[index] for index in part], (count, size), places)
                for index, scores in zip(part, scored, strict=True):
                    out[index] = scores
        return out

    def _row(self, prompt_text: str, options: Sequence[str], name: str) -> "_Row":
        encode = self._tokenizer.encode_batch
        prompt = [*self._tokenizer.begin, *encode([prompt_text])[0]]
        answers = encode([f" {option}" for option in options], start=False)
        longest, known = len(prompt) + max(map(len, answers)), self._lm.config.max_length
        if longest > known:
            raise InputError(
                f"{name}: {longest} tokens with the answer; the model was trained on {known}; "
                "expected a shorter prompt"
            )
        counts = [len(prompt), *map(len, answers)]
        within = np.concatenate([np.arange(count) for count in counts])
        segments = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(prompt), len(within))
        before = np.where(within[places] == 0, len(prompt) - 1, places - 1)
        return _Row(
            tokens=np.concatenate([prompt, *answers]),
            positions=np.where(segments == 0, within, len(prompt) + within),
            segments=segments,
            places=places,
            before=before,
        )

    def _batch(
        self, rows: Sequence["_Row"], shape: tuple[int, int], places: int
    ) -> list[np.ndarray]:
        """Scores of rows, padded to [R T] with room for so many places."""
        tokens, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        segments = np.full(shape, _PADDING, np.int32)
        targets, before = np.zeros(places, np.int32), np.zeros(places, np.int32)
        stop, spans = 0, []
        for number, row in enumerate(rows):
            used = slice(len(row.tokens))
            tokens[number, used], positions[number, used] = row.tokens, row.positions
            segments[number, used] = row.segments
            start, stop = stop, stop + len(row.places)
            targets[start:stop] = row.tokens[row.places]
            before[start:stop] = number * shape[1] + row.before
            spans.append(slice(start, stop))
        scored = self._score(self._lm.params, tokens, positions, segments, before, targets)
        scores = -np.asarray(scored, np.float64)
        out = []
        for row, span in zip(rows, spans, strict=True):
            option = row.segments[row.places] - 1
            out.append(np.bincount(option, scores[span]) / np.bincount(option))
        return out


class _Row(NamedTuple):
    """A prompt (segment 0) and after it each option (segments 1, 2, ...), T tokens together.

    Attributes:
        tokens, segments: [T].
        positions: [T]; each option goes on from the prompt.
        places: of the options' tokens.
        before: of what predicts each of them: the token before it, or the prompt's last.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    before: np.ndarray


def _score(
    definition: ModelDef,
    params: Params,
    tokens: Array,
    positions: Array,
    segments: Array,
    before: Array,
    targets: Array,
) -> Array:
    """Negative log-likelihood [M] of targets [M] at flat places `before` [M] of rows [R T]."""
    model = definition.merge(params)
    mask = make_mask(jnp.ones(tokens.shape, bool), 1, segments)
    h, _ = model.hidden(tokens, positions=positions, mask=mask)
    return likelihood(h.reshape(-1, h.shape[-1])[before], targets, model.logits)[0]


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
    found = []
    for place, name in sorted(enumerate(map(normalise, options)), key=lambda pair: -len(pair[1])):
        if f" {name} " in left:
            found.append(place)
            while f" {name} " in left:  # twice over a shared blank, too
                left = left.replace(f" {name} ", " | ")
    return found[0] if len(found) == 1 else None
