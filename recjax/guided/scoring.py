"""Scores of items and users on aspects, by a language model (the paper's equations 3 and 4).

    rate = Rater(load_llm("FOLDER"), aspect_set("movies"), "item")
    rated = rate([item_text(record) for record in store.catalog[1:]])
    rated[0].scores                                      # A numbers

Three ways:

- "forced": the answer's words are given and only the ratings chosen, each knowing those before it
  (`recjax.scoring.forms`): no answer has another form. The ratings are those of "free" where its
  answer keeps to the form.
- "apart": each rating behind the prompt alone, all in one forward pass.
- "free": the model writes an answer, and rules read it, as in the paper. The only way of an
  OpenAI-compatible endpoint (`EndpointRater`).

A score is the most likely rating, or with `value="expected"` the mean of the ratings by their
probabilities. `calibrate` divides the probabilities by those behind prompts without content
("N/A" in the place of the item; Zhao et al. 2021), so that a rating that the model prefers whatever
the item is loses this advantage; what later ratings of an answer know of earlier ones it leaves.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from recjax.config import to_plain
from recjax.errors import InputError
from recjax.generate.prompts import filler
from recjax.guided.aspects import AspectSet
from recjax.guided.prompts import NO_CONTENT, Parsed, Question, answer_form, parse, question
from recjax.llm import LanguageModel
from recjax.llm_inputs import encoder_texts
from recjax.models.definition import fingerprint
from recjax.scoring.endpoint import Endpoint
from recjax.scoring.form_tokens import form_tokens
from recjax.scoring.forms import FormFiller
from recjax.text.chat import Form as PromptForm
from recjax.text.chat import chat_messages, has_template, prompt_ids

How = Literal["forced", "apart", "free"]
Value = Literal["likeliest", "expected"]
Done = Callable[[int, "Rated"], None]
_SPARE = 16  # tokens that a free answer may have beyond the longest of the form


@dataclasses.dataclass(frozen=True)
class Rated:
    """One item or user.

    Attributes:
        scores: A numbers, None where there is none.
        answer: the text that was read; None where no text was.
        parsed: how it was read.
    """

    scores: tuple[float | None, ...]
    answer: str | None = None
    parsed: Parsed | None = None


class Rater:
    """Rates by a language model of `load_llm`.

    Args:
        lm: with a tokenizer; causal, but for "free".
        aspects: to rate.
        kind: "item" or "user".
        how, value, calibrate: see above.
        form: of prompts: "text", or "chat" for a model with a chat template; None: as the model's
            folder has it.
        brief: ask with the text alone, for a model that was fine-tuned so.
        batch_size: prompts at a time.

    Attributes:
        longest: tokens of a free answer, at most.

    Raises:
        InputError: options that do not go together, or that the model does not allow.
    """

    def __init__(
        self,
        lm: LanguageModel,
        aspects: AspectSet,
        kind: str,
        *,
        how: How = "forced",
        value: Value = "likeliest",
        calibrate: bool = False,
        form: PromptForm | None = None,
        brief: bool = False,
        batch_size: int = 32,
    ):
        if lm.tokenizer is None:
            raise InputError("scores need a language model with a tokenizer; it has none")
        for name, given, known in (("how", how, How), ("value", value, Value)):
            if given not in get_args(known):
                raise InputError(f"{name} '{given}': expected one of {', '.join(get_args(known))}")
        if how == "free" and (value == "expected" or calibrate):
            raise InputError("free answers have no probabilities: expected 'forced' or 'apart'")
        self._lm, self._tokenizer, self.aspects, self.kind = lm, lm.tokenizer, aspects, kind
        self._how, self._value, self._size = how, value, batch_size
        self.form: PromptForm = form or ("chat" if has_template(lm.tokenizer) else "text")
        self._calibrate, self._brief = calibrate, brief
        self._free_prior: np.ndarray | None = None
        answers = answer_form(aspects)
        self.longest = form_tokens(answers, lm.tokenizer).longest + _SPARE
        self._filler = None
        if how != "free":
            self._filler = FormFiller(lm, answers, "chain" if how == "forced" else "apart")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that determine the scores, apart from the texts; JSON-ready."""
        return {
            "kind": self.kind,
            "aspects": to_plain(self.aspects),
            "prompt": list(question(self.aspects, self.kind, "", self._brief)),
            "how": self._how,
            "value": self._value,
            "calibrate": self._calibrate,
            "form": self.form,
            "llm": str(self._lm.folder),
            "llm_fingerprint": fingerprint(self._lm.params),
        }

    def __call__(
        self, texts: Sequence[str], done: Done | None = None, names: Sequence[str] = ()
    ) -> list[Rated]:
        """Scores of each text.

        Args:
            texts: of the items (`item_text`), or of users' histories (`user_text`).
            done: gets each as soon as it is known, with its place.
            names: of the texts, for errors.

        Raises:
            InputError: naming a text that is longer than what the model was trained on.
        """
        out: list[Rated] = []
        for first in range(0, len(texts), self._size):
            part = list(texts[first : first + self._size])
            count = len(part)
            # The last batch is as large as the others: no program is compiled for it.
            part += part[:1] * (min(self._size, len(texts)) - count)
            part_names = list(names[first : first + self._size]) if names else []
            part_names += part_names[:1] * (len(part) - len(part_names))
            rated = self._batch(part, part_names)[:count]
            for place, rating in enumerate(rated, start=first):
                if done is not None:
                    done(place, rating)
            out += rated
        return out

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the prompts about texts."""
        asked = [question(self.aspects, self.kind, text, self._brief) for text in texts]
        return question_ids(self._tokenizer, asked, self.form)

    def _batch(self, texts: list[str], names: list[str]) -> list[Rated]:
        prompts = self.prompts(texts)
        if self._filler is None:
            return [_read(text, self.aspects) for text in self._written(prompts)]
        filled = self._filler(prompts, names=names)
        least = self.aspects.least
        if self._value == "likeliest" and not self._calibrate:
            return [Rated(tuple(float(c + least) for c in row)) for row in filled.chosen]
        log_probs = np.asarray(filled.log_probs, np.float64)
        if self._calibrate:
            log_probs = log_probs - self._prior()
            log_probs -= np.logaddexp.reduce(log_probs, axis=-1, keepdims=True)
        if self._value == "likeliest":
            scores = log_probs.argmax(-1) + float(least)
        else:
            scores = np.exp(log_probs) @ np.array(self.aspects.ratings, np.float64)
        return [Rated(tuple(map(float, row))) for row in scores]

    def _written(self, prompts: list[list[int]]) -> Sequence[str]:
        """The texts that the model writes behind the prompts, in blanks, or by its decoder."""
        lm, tokenizer = self._lm, self._tokenizer
        end = () if self.form == "chat" else tokenizer.end
        rows: Any = [[*row, *end] for row in prompts]
        fill = filler(lm.config, tokenizer)
        encoder = real = None
        if lm.family.build.reads_encoder:
            inputs = encoder_texts(lm.config, tokenizer, rows, special=False, chat=False)
            rows, encoder, real = inputs
        else:
            rows = prompts if fill is None else list(map(fill, rows))
        generation = lm.generate(
            rows, max_new_tokens=self.longest, encoder=encoder, encoder_mask=real
        )
        assert generation.texts is not None
        return generation.texts

    def _prior(self) -> np.ndarray:
        """[A R] log-probabilities behind prompts without content, their mean."""
        if self._free_prior is None:
            assert self._filler is not None
            filled = self._filler(self.prompts(NO_CONTENT))
            mean = np.exp(filled.log_probs.astype(np.float64)).mean(0)
            self._free_prior = np.log(np.maximum(mean, 1e-12))
        return self._free_prior


def question_ids(tokenizer: Any, asked: Sequence[Question], form: PromptForm) -> list[list[int]]:
    """The ids of questions, that an answer follows."""
    if form == "chat":
        systems = [question.system for question in asked]
        return prompt_ids(tokenizer, [question.user for question in asked], "chat", systems)
    # As a model that was fine-tuned on such pairs has read them: an item's text may hold anything.
    rows = tokenizer.encode_batch([question.text for question in asked])
    return [[*tokenizer.begin, *row] for row in rows]


def _read(text: str, aspects: AspectSet) -> Rated:
    parsed = parse(text, aspects)
    return Rated(parsed.scores, text, parsed)


class EndpointRater:
    """Rates by an OpenAI-compatible endpoint: free answers, read by rules.

    Args:
        endpoint: of `recjax.scoring.endpoint`.
        aspects: to rate.
        kind: "item" or "user".
        budget: questions at most, all calls together; None = no limit. Attempts again of a
            question are not counted.
    """

    def __init__(
        self, endpoint: Endpoint, aspects: AspectSet, kind: str, *, budget: int | None = None
    ):
        self._endpoint, self.aspects, self.kind = endpoint, aspects, kind
        self.left = budget
        form = answer_form(aspects)
        longest = max((form.text([r] * len(aspects)) for r in range(len(form.options))), key=len)
        self._most = len(longest.encode()) + _SPARE  # no tokenizer needs more than one for a byte

    @property
    def settings(self) -> dict[str, Any]:
        """See `Rater.settings`."""
        return {
            "kind": self.kind,
            "aspects": to_plain(self.aspects),
            "prompt": list(question(self.aspects, self.kind, "")),
            "how": "free",
            "llm": self._endpoint.address,
            "llm_fingerprint": self._endpoint.model,
        }

    def __call__(
        self, texts: Sequence[str], done: Done | None = None, names: Sequence[str] = ()
    ) -> list[Rated]:
        """Scores of each text, or of the first ones where the budget ends.

        Args:
            texts, names: see `Rater`.
            done: gets each as soon as it is known, with its place; what comes before an error is
                not lost.

        Raises:
            InputError: of `Endpoint.ask`.
        """
        if self.left is not None:
            texts = texts[: self.left]
            self.left -= len(texts)
        asked = [question(self.aspects, self.kind, text) for text in texts]

        def told(place: int, answer: str) -> None:
            if done is not None:
                done(place, _read(answer, self.aspects))

        messages = [chat_messages(*one) for one in asked]
        answers = self._endpoint.ask(messages, max_tokens=self._most, done=told, names=names)
        return [_read(answer, self.aspects) for answer in answers]
