"""Fine-tuning of users' scores by policy gradient (the paper's section 3.1 and appendix A.3).

    recjax train --config=configs/guided/ml100k_policy.py --config.llm=FOLDER --workdir=runs/policy

A step asks the model about B users and draws G answers for each. An answer's reward tells how well
its scores, times the items' frozen ones, rank what the user did next: items liked before others
(AUC), or the next items among all (mean reciprocal rank). The advantage of an answer is its reward
less the mean of the user's other answers. Two kinds of draws (`recjax.guided.answers`):

- `reward.draws="forced"`: the form's words are given and the ratings drawn, so that no answer fails
  to be read.
- `"free"`: the model writes, as in the paper. Tokens of the words are rewarded by their format and
  those of ratings by the task. The format loss, with the scores masked, has a weight by how far an
  answer is read (section `format`); where nothing is, a teacher's scores are learned instead.

With `reward.updates` above 1 a step learns several times from its draws, with the change of their
probabilities clipped (PPO's loss, GRPO's advantages). Drawing, rewards and all updates are one
jitted program; a resumed run draws what the uninterrupted one would have.

The reported loss is 1 - the mean reward, and what options add; its gradient is that of the policy.

Deviations from the paper: ratings are drawn behind given words by default; the critic-free gradient
is made relative to a group; the reward is the measure itself, of each user alone (the reciprocal
rank where the paper has the base model's loss, the AUC where it counts misclassified pairs); scores
match by inner products of standardised ones; a freely written answer is read up to its first token
that leaves the form, in the tokens that the tokenizer gives the form, which is stricter than
reading by rule; the format loss is that of the form's words behind ratings drawn at random (a
teacher's, where the user has them), once a user; the paper's text does not have its three weights,
so that `format` has defaults of our own. Defaults of `optim` and `train` are not the paper's (Adam,
1e-5 with warm-up and linear decay, 12 epochs of batches of 4).

Letters: B users, G answers of each, A aspects, R ratings, I items and padding, C targets.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from recjax.config import build
from recjax.data.attributes import moments
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.guided.answers import DrawnAnswers, ForcedAnswers, FreeAnswers, ReadPrompts
from recjax.guided.aspects import AspectSet, aspect_set
from recjax.guided.policy_config import PolicyConfig
from recjax.guided.policy_loss import divergence, policy_loss
from recjax.guided.prompts import answer_form
from recjax.guided.rewards import TASKS
from recjax.guided.score_files import Scores, read_item_scores, read_user_scores
from recjax.guided.user_examples import UserExamples
from recjax.guided.user_ranking import PolicyEvaluator
from recjax.llm_folders import stop_ids
from recjax.models.definition import fingerprint
from recjax.paths import home
from recjax.scoring.form_states import form_states
from recjax.scoring.form_tokens import FormTokens, form_tokens
from recjax.scoring.forms import tree_for
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.adapting import AdaptingRun
from recjax.training.system import System, filled_in, own_store
from recjax.typing import Array, Params


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in."""
    return filled_in(build(PolicyConfig, section, "config"))


def _settled(config: PolicyConfig, store: Store) -> PolicyConfig:
    def absolute(path: str) -> str:
        return str(home(path).absolute()) if path else ""

    data = dataclasses.replace(config.data, store=str(store.path.absolute()))
    reward = dataclasses.replace(config.reward, teacher=absolute(config.reward.teacher))
    return dataclasses.replace(
        config, llm=absolute(config.llm), items=absolute(config.items), data=data, reward=reward
    )


class PolicyRun(AdaptingRun):
    """Everything that a policy's fine-tuning consists of, built from its config."""

    unit = "users"
    config: PolicyConfig
    store: Store

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The base model's tokenizer."""
        return load_tokenizer(self.folder, size=self.base.config.vocab_size)

    @functools.cached_property
    def items(self) -> Scores:
        """The items' scores."""
        chosen = aspect_set(self.config.aspects) if self.config.aspects else None
        return read_item_scores(self.config.items, self.store.catalog, chosen)

    @property
    def aspects(self) -> AspectSet:
        """The aspects of the items' scores."""
        return self.items.aspects

    @functools.cached_property
    def form(self) -> FormTokens:
        """The form of an answer."""
        if reason := self.base.family.not_causal:
            raise InputError(
                f"config.llm: the family {self.base.family.name} {reason}; expected a causal "
                "language model"
            )
        return form_tokens(answer_form(self.aspects), self.tokenizer)

    @functools.cached_property
    def batches(self) -> UserExamples:
        """The training batches, and the examples of the other parts."""
        size = self.config.train.batch_size
        return UserExamples(
            self.config.users,
            self.store,
            self.aspects,
            self.items,
            self.tokenizer,
            seed=self.config.seed,
            batch_size=size,
            context=self.base.config.max_length - self._slots,
            multiple=parallel.row_multiple(size, self.mesh, self.parts_of_batch),
            process=parallel.rows_of_process(self.mesh)["process"],
        )

    @functools.cached_property
    def forced(self) -> ForcedAnswers:
        """Answers whose ratings alone are drawn; evaluation measures with them, too."""
        tree = tree_for(self.form, self._stop, self.tokenizer)
        return ForcedAnswers(self.form, tree, self.config.reward.temperature)

    @functools.cached_property
    def free(self) -> FreeAnswers | None:
        """Answers whose tokens are drawn, where the run asks for them."""
        asked = self.config.reward
        if asked.draws != "free":
            return None
        if not self.form.exact:
            raise InputError(
                f"config.reward.draws: 'free' needs a tokenizer that reads '{self.aspects.names[0]}"
                ": 7' as the words and then the rating; expected 'forced' for this one"
            )
        ends = [int(t) for t in np.asarray(self.forced.tree.after)[-1] if t >= 0]
        pad_id = self.tokenizer.pad_id
        return FreeAnswers(form_states(self.form, ends), self._stop, pad_id, asked.temperature)

    @property
    def answers(self) -> ForcedAnswers | FreeAnswers:
        """The answers that training draws: `free` or `forced`."""
        return self.free or self.forced

    @functools.cached_property
    def _stop(self) -> tuple[int, ...]:
        eos = self.tokenizer.eos_id
        return tuple(stop_ids(self.folder)) or (() if eos is None else (eos,))

    @property
    def _slots(self) -> int:
        """Cache slots that an answer takes."""
        return max(answers.slots for answers in (self.forced, self.answers))

    @property
    def updates_of_batch(self) -> int:
        """See `Trainable`."""
        return self.config.reward.updates

    @functools.cached_property
    def data(self) -> dict[str, Array]:
        """`items` [I A] standardised scores, `mean` and `deviation` [A] of the aspects, and a
        `teacher`'s ratings [U A] (-1 = none)."""
        known = self.items.known.sum(1) > 0
        mean, deviation = moments(self.items.values[known])
        items = np.where(known[:, None], (self.items.values - mean) / deviation, 0.0)
        out = {"items": items.astype(np.float32), "mean": mean, "deviation": deviation}
        if self.config.reward.teacher:
            users = self.store.user_numbers
            given = read_user_scores(self.config.reward.teacher, users, self.aspects)
            rounded = np.clip(np.rint(given.values), self.aspects.least, self.aspects.most)
            is_complete = given.known.sum(1) == len(self.aspects)
            ratings = rounded.astype(np.int32) - self.aspects.least
            out["teacher"] = np.where(is_complete[:, None], ratings, -1)
        return parallel.replicate(out, self.mesh)

    def vectors(self, ratings: Array, data: Mapping[str, Array]) -> Array:
        """Users' scores [... A], standardised as the items' are, from ratings [... A]."""
        return (ratings - data["mean"]) / data["deviation"]

    def rewards(self, users: Array, batch: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """Rewards [B G] of standardised scores [B G A]."""
        return TASKS[self.config.reward.task].reward(users, batch, data["items"])

    def _credited(
        self, answers: DrawnAnswers, batch: Any, data: Any, rows: int
    ) -> tuple[Array, Array]:
        """`(rewards [B G], credited)` of answers. Advantages are made of `credited`: the rewards
        again, or [B G A] each rating's own part of them (`config.reward.credit`)."""
        chosen = answers.chosen.reshape(rows, -1, answers.chosen.shape[-1])
        is_read = answers.whole.reshape(rows, -1)
        users = self.vectors(chosen.astype(jnp.float32) + self.aspects.least, data)
        users = jnp.where(is_read[..., None], users, 0.0)
        rewards = jnp.where(is_read, self.rewards(users, batch, data), 0.0)
        if self.config.reward.credit == "answer":
            return rewards, rewards
        size = users.shape[1]
        others_mean = (users.sum(1, keepdims=True) - users) / (size - 1)

        def without(aspect: Array) -> Array:
            others = jnp.arange(users.shape[-1]) != aspect
            return self.rewards(jnp.where(others, users, others_mean), batch, data)

        rewards_without = jnp.moveaxis(jax.lax.map(without, jnp.arange(users.shape[-1])), 0, -1)
        return rewards, jnp.where(is_read[..., None], rewards[..., None] - rewards_without, 0.0)

    def _read(self, module: Any, batch: Mapping[str, Array]) -> ReadPrompts:
        rows, length = batch["tokens"].shape
        cache = module.empty_cache(rows, length + self._slots)
        newest = jnp.full((rows, 1), length - 1, jnp.int32)
        h, cache = module.hidden(batch["tokens"], mask=batch["real"], cache=cache, places=newest)
        return ReadPrompts(h[:, 0], cache)

    def _copies(self, prompts: ReadPrompts) -> ReadPrompts:
        """B prompts, each repeated G times."""
        return prompts.take(jnp.repeat(jnp.arange(len(prompts.state)), self.config.reward.samples))

    def _drawn(
        self, params: Params, prompts: ReadPrompts, batch: Any, data: Any, key: Array
    ) -> Any:
        """Answers to the read prompts [N], with their rewards and gains."""
        rows = len(batch["tokens"])
        module = self.model.merge(jax.lax.stop_gradient(params)).for_decoding()
        prompts = jax.lax.stop_gradient(prompts)
        keys = jax.random.split(key, rows * self.config.reward.samples)
        answers = jax.lax.stop_gradient(self.answers.draw(module, prompts, keys))
        rewards, credited = self._credited(answers, batch, data, rows)
        gain = self.answers.gains(answers, credited, scale=self.config.reward.scale)
        return {"answers": answers, "rewards": rewards, "gain": gain}

    def draw(self, params: Params, batch: Any, data: Any, key: Array) -> Any:
        """The batch with draws that several updates learn from; see `Trainable`."""
        module = self.model.merge(params)
        prompts = self._copies(self._read(module, batch))
        drawn = self._drawn(params, prompts, batch, data, key)
        before = self.answers.log_probs(module, prompts, drawn["answers"])
        return {**batch, "drawn": {**drawn, "before": before}}

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) over users: see `policy_loss`."""
        reward, rows = self.config.reward, len(batch["tokens"])
        module = self.model.merge(params)
        prompts = self._read(module, batch)
        copies = self._copies(prompts)
        drawn = batch.get("drawn") or self._drawn(params, copies, batch, data, key)
        answers, before = drawn["answers"], drawn.get("before")

        def grouped(flat: Array) -> Array:
            return flat.reshape(rows, reward.samples, -1)

        log_probs = grouped(self.answers.log_probs(module, copies, answers))
        real = grouped(answers.real)
        loss = policy_loss(
            log_probs, drawn["gain"], drawn["rewards"], real=real, clip=reward.clip,
            before=None if before is None else grouped(before),
        )  # fmt: skip
        if reward.kl:
            zeros = {path: jnp.zeros_like(params[path]) for path in self.trained}
            start = self.model.merge({**params, **zeros})
            start_prompts = self._copies(self._read(start, batch))
            start_log_probs = grouped(self.answers.log_probs(start, start_prompts, answers))
            loss += reward.kl * divergence(log_probs, start_log_probs, real)
        return loss + self._taught(module, prompts, answers, batch, data, key), jnp.float32(rows)

    def _taught(
        self,
        module: Any,
        prompts: ReadPrompts,
        answers: DrawnAnswers,
        batch: Any,
        data: Any,
        key: Array,
    ) -> Array:
        """The losses of given answers: those of the teacher, and those that teach the form."""
        reward, weight = self.config.reward, self.config.format
        rows, places = len(batch["tokens"]), len(self.aspects)
        teacher_ratings = jnp.full((rows, places), -1)
        if reward.teacher:
            teacher_ratings = data["teacher"][batch["users"]]
        known = (teacher_ratings >= 0).all(-1)
        if self.free is None:
            if not reward.teacher:
                return jnp.float32(0.0)
            ratings = self.forced.taught(module, prompts, jnp.maximum(teacher_ratings, 0)).sum(-1)
            return -reward.teacher_weight * jnp.where(known, ratings, 0.0).sum()
        random_ratings = jax.random.randint(key, teacher_ratings.shape, 0, len(self.form.options))
        words, ratings = self.free.taught(
            module, prompts, jnp.where(known[:, None], teacher_ratings, random_ratings)
        )
        whole, is_partly_read = answers.whole, (answers.chosen >= 0).any(-1)
        weights = jnp.where(
            whole, weight.whole, jnp.where(is_partly_read, weight.partly, weight.unread)
        )
        unread = (~is_partly_read).reshape(rows, -1).mean(1)
        form = (weights.reshape(rows, -1).mean(1) * words).sum()
        fallback = jnp.where(known, unread * (words + ratings), 0.0).sum()
        return -form - reward.teacher_weight * fallback

    def ranked(self, params: Params, batch: Any, data: Any) -> tuple[Array, Array, Array]:
        """`(ratings, rewards, is_read)` of users: expected ratings [B A], the rewards of `TASKS`
        [B n], and whether a drawn answer can be read [B]."""
        module = self.model.merge(params).for_decoding()
        rows = len(batch["tokens"])
        keys = jax.random.split(jax.random.key(0), rows)
        prompts = self._read(module, batch)
        _, log_probs = self.forced.filled(module, prompts, keys, 0.0)
        ratings = jnp.exp(log_probs) @ jnp.array(self.aspects.ratings, jnp.float32)
        users = self.vectors(ratings, data)[:, None]
        rewards = [task.reward(users, batch, data["items"])[:, 0] for task in TASKS.values()]
        is_read = jnp.ones(rows, bool)
        if self.free is not None:
            is_read = self.free.draw(module, prompts, keys).whole
        return ratings, jnp.stack(rewards, 1), is_read

    def evaluator(self, name: Literal["validation", "test"]) -> PolicyEvaluator:
        """Measures the users' scores on what they did next."""
        evaluation, task = self.config.evaluation, self.config.reward.task
        examples = self.batches.at("test" if name == "test" else "validation")
        return PolicyEvaluator(
            evaluation, name, task, examples, self.data, self.ranked, self.free is not None,
            parallel.batch_sharding(self.mesh),
        )  # fmt: skip

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        examples = self.batches
        gaps = self.items.says()
        return (
            f"{self.base.family.name}: {len(examples.users):,} users of {self.store.n_users:,}, "
            f"{len(self.aspects)} aspects, {self.config.reward.samples} answers each; prompts of "
            f"{examples.length:,} tokens, {examples.steps_per_epoch:,} steps an epoch; "
            f"{self.devices}" + (f"; {gaps}" if gaps else "")
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        """The identity of a checkpoint: the adapters, the frozen model, the data and scores."""
        return {
            **self.model_identity,
            "data": self.store.fingerprint,
            "items": fingerprint({"items": jnp.asarray(self.items.values)}),
        }


SYSTEM = System(
    PolicyConfig, PolicyRun, complete, own_store, _settled,
    may_change=("llm", "items", "data.path", "data.store"), learns="lora",
)  # fmt: skip
