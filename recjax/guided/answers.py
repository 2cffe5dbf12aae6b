"""Answers of a policy, and how likely they are: of a form's ratings, or of all tokens.

- "forced": the words are given; a decision is a rating. No answer has another form.
- "free": the model writes, as in the paper; a decision is a token. Tokens of the words are rewarded
  by whether they keep to the form, those of the ratings by the task. An answer that leaves the form
  ends there, and its reward of the task is 0.

Letters: B users, G answers of each, N = B G, D decisions, A aspects, T tokens, E numbers of a
state, V tokens of the vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax.generate.loop import decode
from recjax.generate.sampling import Sampler, log_prob
from recjax.guided.policy_loss import advantages, format_advantages
from recjax.nn.cache import KVCache
from recjax.scoring.form_likelihood import choice_log_probs
from recjax.scoring.form_programs import Tree, fill, in_all_rows
from recjax.scoring.form_states import FormStates
from recjax.scoring.form_tokens import FormTokens
from recjax.typing import Array


class ReadPrompts(NamedTuple):
    """Prompts that a model has read.

    Attributes:
        state: [N E], the last hidden state of each.
        cache: of them, with room for an answer.
    """

    state: Array
    cache: KVCache

    def take(self, rows: Array) -> "ReadPrompts":
        """The prompts of some rows."""
        return ReadPrompts(self.state[rows], self.cache.take(rows))


class DrawnAnswers(NamedTuple):
    """N answers.

    Attributes:
        decided: [N D] int32, the decisions: ratings, or tokens.
        real: [N D] bool, decisions there are.
        chosen: [N A] int32, the ratings; -1 where none is read.
        whole: [N] bool, answers that are read to their end.
        at, kept, choice: [N D] of free answers, see `form_states.Walked`; else empty.
    """

    decided: Array
    real: Array
    chosen: Array
    whole: Array
    at: Any = ()
    kept: Any = ()
    choice: Any = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ForcedAnswers:
    """Answers of given words, whose ratings alone are drawn.

    Attributes:
        form: as tokens.
        tree: of `recjax.scoring.forms.tree_for`.
        temperature: of the draws.
    """

    form: FormTokens
    tree: Tree
    temperature: float

    @property
    def slots(self) -> int:
        """Cache slots that an answer takes."""
        return self.form.slots + max(map(len, self.form.options))

    def filled(
        self, module: Any, prompts: ReadPrompts, keys: Array, temperature: float
    ) -> tuple[Array, Array]:
        """Ratings [N A], and the log-probabilities [N A R] of all: see `fill`."""
        first = in_all_rows(self.form.words[0], len(keys))
        return fill(
            module, self.form, self.tree, prompts.cache, first, jnp.ones_like(first, bool), keys,
            jnp.float32(temperature),
        )  # fmt: skip

    def draw(self, module: Any, prompts: ReadPrompts, keys: Array) -> DrawnAnswers:
        """An answer for each key [N]; the module is one for decoding."""
        chosen, _ = self.filled(module, prompts, keys, self.temperature)
        return DrawnAnswers(
            chosen, jnp.ones_like(chosen, bool), chosen, jnp.ones(len(chosen), bool)
        )

    def log_probs(self, module: Any, prompts: ReadPrompts, answers: DrawnAnswers) -> Array:
        """Log-probabilities [N D] of the decisions, at the temperature of the draws."""
        return self.taught(module, prompts, answers.decided, self.temperature)

    def taught(
        self, module: Any, prompts: ReadPrompts, chosen: Array, temperature: float = 1.0
    ) -> Array:
        """Log-probabilities [N A] of ratings."""
        return choice_log_probs(module, self.form, self.tree, prompts.cache, chosen, temperature)

    def gains(self, answers: DrawnAnswers, rewards: Array, *, scale: bool) -> Array:
        """Advantages [B G D] or [B G] of the task's rewards [B G A] or [B G]."""
        del answers
        return advantages(rewards, scale=scale)


@dataclasses.dataclass(frozen=True, eq=False)
class FreeAnswers:
    """Answers that the model writes.

    Attributes:
        states: of the form.
        stop: tokens that end what a model writes.
        pad_id: behind that.
        temperature: of the draws.
    """

    states: FormStates
    stop: tuple[int, ...]
    pad_id: int
    temperature: float

    @property
    def slots(self) -> int:
        """Cache slots that an answer takes."""
        return self.states.longest

    def draw(self, module: Any, prompts: ReadPrompts, keys: Array) -> DrawnAnswers:
        """See `ForcedAnswers.draw`."""

        def step(tokens: Array, cache: KVCache) -> tuple[Array, KVCache]:
            h, cache = module.hidden(tokens[:, None], cache=cache)
            return module.logits(h[:, 0]), cache

        generated = decode(
            step, module.logits(prompts.state), prompts.cache, max_new_tokens=self.states.longest,
            stop=jnp.array(self.stop, jnp.int32), pad_id=self.pad_id,
            sampler=Sampler(self.temperature), keys=keys,
        )  # fmt: skip
        walk = self.states.walk(generated.tokens)
        return DrawnAnswers(
            generated.tokens, walk.real, walk.chosen, walk.whole, walk.at, walk.kept,
            walk.choice,
        )  # fmt: skip

    def log_probs(self, module: Any, prompts: ReadPrompts, answers: DrawnAnswers) -> Array:
        """See `ForcedAnswers.log_probs`."""
        return self._tokens(module, prompts, answers.decided, answers.real, self.temperature)

    def taught(self, module: Any, prompts: ReadPrompts, chosen: Array) -> tuple[Array, Array]:
        """Sums [N] of the log-probabilities of whole answers with these ratings [N A]: of the
        words' tokens (the ratings are masked), and of the ratings' tokens."""
        tokens, real = self.states.write(chosen)
        choice = self.states.walk(tokens).choice
        log_probs = self._tokens(module, prompts, tokens, real, 1.0)
        words = jnp.where(real & ~choice, log_probs, 0.0).sum(-1)
        return words, jnp.where(choice, log_probs, 0.0).sum(-1)

    def _tokens(
        self, module: Any, prompts: ReadPrompts, tokens: Array, real: Array, temperature: float
    ) -> Array:
        """Log-probabilities [N T] of tokens, each given those before it; only real ones count."""
        h, _ = module.hidden(tokens[:, :-1], mask=real[:, :-1], cache=prompts.cache)
        h = jnp.concatenate([prompts.state[:, None], h], axis=1)

        @jax.checkpoint
        def token_log_prob(inputs: tuple[Array, Array]) -> Array:  # [N V] logits of one place
            h, token = inputs
            return log_prob(module.logits(h).astype(jnp.float32) / temperature, token)

        return jax.lax.map(token_log_prob, (h.swapaxes(0, 1), tokens.T)).T

    def gains(self, answers: DrawnAnswers, rewards: Array, *, scale: bool) -> Array:
        """See `ForcedAnswers.gains`. Tokens of the words gain by keeping to the form."""
        shape = (*rewards.shape[:2], -1)
        state, keeps_form, choice, real = (
            a.reshape(shape) for a in (answers.at, answers.kept, answers.choice, answers.real)
        )
        words = format_advantages(state, keeps_form, real & ~choice, self.states.count)
        task = advantages(rewards, scale=scale)
        if task.ndim == 3:
            rating = jnp.maximum(jnp.asarray(self.states.place)[state], 0)
            task = jnp.take_along_axis(task, rating, axis=-1)
        else:
            task = task[..., None]
        return jnp.where(choice, task, words)
