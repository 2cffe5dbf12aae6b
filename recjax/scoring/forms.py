"""Forms: answers whose words are given but for a choice at some places ("pace: <1 to 10>").

    form = Form(("tension:", "\\npace:"), tuple(f" {n}" for n in range(1, 11)))
    filled = FormFiller(lm, form)(prompt_ids)            # chosen [B A], log_probs [B A R]

The words are fed to the model; only the choices are the model's, so that no answer has another
form. Two modes:

- "chain": each choice knows those before it. The choices are those of free greedy generation where
  that keeps to the form. A cached calls of a few tokens each, and no step for each token.
- "apart": each place stands directly behind the prompt, and sees no other. One forward pass.

A choice may be of several tokens ("10"): it is decided token by token, as generation does, and an
option that others go on from ("1") against what follows it in the form. The probability of an
option is the product over its tokens, each among those that the form allows there.

Letters: B rows, T tokens, A places, R options.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.generate.prompts import Prompts, lengths, pad_rows
from recjax.generate.sampling import row_keys
from recjax.llm import LanguageModel
from recjax.scoring.form_programs import Tree, apart, chain, tree_of
from recjax.scoring.form_tokens import Form, FormTokens, form_tokens
from recjax.text.tokenizers import Tokenizer

Mode = Literal["chain", "apart"]


def tree_for(form: FormTokens, stop: Sequence[int], tokenizer: Tokenizer) -> Tree:
    """The form's options as a tree over tokens.

    Args:
        form: as tokens.
        stop: tokens that end an answer; they or a new line follow its last choice.
        tokenizer: that made the form's tokens.
    """
    ends = list(stop)
    ends += [t for t in tokenizer.encode("\n", start=False)[:1] if t not in ends]
    return tree_of(form, [[word[0]] for word in form.words[1:]] + [ends])


class Filled(NamedTuple):
    """The choices at the A places of B rows.

    Attributes:
        chosen: [B A] int32, the options' numbers.
        log_probs: [B A R] float32 of all options, given what was chosen before ("chain") or the
            prompt alone ("apart"); each sums up to 1.
    """

    chosen: np.ndarray
    log_probs: np.ndarray


class FormFiller:
    """Fills a form behind prompts.

    Rows are padded to a few lengths, with one compiled program for each; the beginning that all
    prompts share is read once.

    Args:
        lm: causal, with a tokenizer.
        form: to fill.
        mode: see above.

    Raises:
        InputError: `lm` has no tokenizer, or reads prompts both ways; see `form_tokens`.
    """

    def __init__(self, lm: LanguageModel, form: Form, mode: Mode = "chain"):
        if lm.tokenizer is None:
            raise InputError("forms need a language model with a tokenizer; it has none")
        lm.check_causal("a form")
        self._lm = lm
        self.tokens = form_tokens(form, lm.tokenizer)
        self._tree = tree_for(self.tokens, lm.stop, lm.tokenizer)
        self._shared: list[int] = []
        run = chain if mode == "chain" else apart
        self._run = jax.jit(functools.partial(run, lm.definition, self.tokens))

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float = 0.0,
        seed: int = 0,
        first_row: int = 0,
        names: Sequence[str] = (),
    ) -> Filled:
        """Fills the form behind each of B prompts.

        Args:
            prompts: ids of each.
            temperature: 0 takes the most likely token; above, options are drawn ("chain": each
                draw knows those before it). The log-probabilities are those at that temperature.
            seed: of the draws; row b draws alike in every batch where it is row `first_row` + b.
            first_row: the number of the first row.
            names: of the prompts, for errors; by default "prompt 0", "prompt 1", ...

        Raises:
            InputError: a prompt that is longer, with the answer, than the model was trained on.
        """
        rows = [np.asarray(prompt, np.int32) for prompt in prompts]
        known = self._lm.config.max_length
        for number, row in enumerate(rows):
            if len(row) + self.tokens.longest > known:
                name = names[number] if names else f"prompt {number}"
                raise InputError(
                    f"{name}: {len(row) + self.tokens.longest} tokens with the answer; the model "
                    f"was trained on {known}; expected a shorter prompt"
                )
        start = self._start(rows)
        prefix = self._lm.prefix_cache(rows[0][:start].tolist()) if start else None
        rest = [row[start:] for row in rows]
        pad = 0 if self._lm.tokenizer is None else self._lm.tokenizer.pad_id
        tokens, real = pad_rows(rest, pad_id=pad, sizes=lengths(max(map(len, rest))))
        keys = row_keys(jax.random.key(seed), first_row + jnp.arange(len(rows)))
        tokens, real, keys = self._lm.placed(tokens, real, keys)
        chosen, log_probs = self._run(
            self._lm.params, self._tree, prefix, tokens, real, keys, float(temperature)
        )
        return Filled(np.asarray(chosen), np.asarray(log_probs))

    def _start(self, rows: list[np.ndarray]) -> int:
        """Tokens that all rows share: those of the calls before, where these have them too."""
        n = len(self._shared)
        if n and all(len(row) > n and row[:n].tolist() == self._shared for row in rows):
            return n
        start = Prompts(rows, None).shared()
        self._shared = rows[0][:start].tolist()
        return start
