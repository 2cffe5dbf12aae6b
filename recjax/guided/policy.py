"""Fine-tuning of users' scores by policy gradient (the paper's section 3.1 and appendix A.3).

    recjax train --config=configs/guided/ml100k_policy.py --config.llm=FOLDER --workdir=runs/policy

A step asks the model about B users and draws G answers for each, with the form's words given and
the ratings drawn. An answer's reward tells how well its scores, times the items' frozen ones, rank
what the user did next: items liked before others (AUC), or the next items among all (mean
reciprocal rank). The advantage of an answer is its reward less the mean of the user's other
answers. Drawing, rewards and the gradient are one jitted program; a resumed run draws what the
uninterrupted one would have.

The reported loss is 1 - the mean reward; its gradient is that of the policy.

Deviations from the paper: the answer's words are given, so no token is rewarded for its format,
and no answer fails to be read; every draw is used for one step, so that there is nothing to clip;
the paper's critic-free gradient is made relative to a group.

Letters: B users, G answers of each, A aspects, R ratings, I items and padding, C targets.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from recjax.config import build, to_plain
from recjax.data.prepare import DataConfig, read_options
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.guided.aspects import (
    AspectSet,
    Scores,
    aspect_set,
    read_item_scores,
    read_user_scores,
)
from recjax.guided.prompts import answer_form
from recjax.guided.rewards import TASKS
from recjax.guided.user_examples import UserConfig, UserExamples
from recjax.guided.user_ranking import PolicyEvaluationConfig, PolicyEvaluator
from recjax.llm_folders import stop_ids
from recjax.models.definition import fingerprint
from recjax.ranges import Amount, Checked, FieldError, Positive, Range, Seed
from recjax.scoring._form_programs import fill, slots
from recjax.scoring.form_likelihood import choice_log_probs
from recjax.scoring.forms import FormTokens, form_tokens, tree_for
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training.adapting import AdaptingConfig, AdaptingRun
from recjax.training.finetune import FinetuneTrainConfig
from recjax.training.optim import OptimConfig
from recjax.training.system import System, own_store
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class RewardConfig(Checked):
    """Section `reward`."""

    # "liked": AUC of the next items, liked or not; "next": their mean reciprocal rank.
    task: Literal["liked", "next"] = "liked"
    samples: Annotated[int, Range(2, 1024)] = 8  # G
    temperature: Positive = 1.0  # of the draws
    # Of a rating's advantage: the answer's, or the answer's reward less that with this aspect left
    # at the mean (less noise; what later ratings of the answer make of it is left out).
    credit: Literal["answer", "aspect"] = "answer"
    scale: bool = False  # divide advantages by their deviation in the group, as GRPO does
    kl: Amount = 0.0  # weight of the divergence from the start; of adapters alone
    teacher: str = ""  # a file of users' scores; its answers' likelihood is learned, too
    teacher_weight: Amount = 0.0


@dataclasses.dataclass(frozen=True)
class PolicyTrainConfig(FinetuneTrainConfig):
    """Section `train`."""

    metric: str = "validation/users/auc"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig(AdaptingConfig):
    """The config of a policy's fine-tuning."""

    data: DataConfig
    items: str  # a file of the items' scores
    aspects: str = ""  # their set; "" = as the file says
    users: UserConfig = dataclasses.field(default_factory=UserConfig)
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    seed: Seed = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: PolicyTrainConfig = dataclasses.field(default_factory=PolicyTrainConfig)
    evaluation: PolicyEvaluationConfig = dataclasses.field(default_factory=PolicyEvaluationConfig)

    system = "policy"  # its name in `recjax.systems.SYSTEMS`; no field

    def __post_init__(self):
        super().__post_init__()
        read_options(self.data)
        if not self.llm:
            raise FieldError("llm", "is empty; expected the folder of a language model")
        if not self.items:
            raise FieldError("items", "is empty; expected a file of the items' scores")
        if self.reward.kl and self.method != "lora":
            raise FieldError("reward.kl", "needs the start's weights: expected method 'lora'")
        if bool(self.reward.teacher) != bool(self.reward.teacher_weight):
            raise FieldError("reward.teacher_weight", "goes with reward.teacher: set both or none")


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in."""
    config = build(PolicyConfig, section, "config")
    plain = to_plain(config)
    plain["data"]["options"] = to_plain(read_options(config.data)[1])
    return plain


def _settled(config: PolicyConfig, store: Store) -> PolicyConfig:
    def absolute(path: str) -> str:
        return str(Path(path).expanduser().absolute()) if path else ""

    data = dataclasses.replace(config.data, store=str(store.path.absolute()))
    reward = dataclasses.replace(config.reward, teacher=absolute(config.reward.teacher))
    return dataclasses.replace(
        config, llm=absolute(config.llm), items=absolute(config.items), data=data, reward=reward
    )


def advantages(rewards: Array, *, scale: bool = False) -> Array:
    """Rewards [B G ...] less the mean of the group's others; zero on average.

    Args:
        rewards: of G answers to one question, independent draws.
        scale: divide by the group's deviation. The gradient's direction is then no longer that of
            the mean reward: groups that differ little weigh as much as others.
    """
    size = rewards.shape[1]
    others = (rewards.sum(1, keepdims=True) - rewards) / (size - 1)
    out = rewards - others
    if scale:
        out = out / (jnp.std(rewards, axis=1, keepdims=True) + 1e-6)
    return jax.lax.stop_gradient(out)


def policy_loss(log_probs: Array, rewards: Array, *, scale: bool = False) -> Array:
    """The sum over B of 1 - the mean reward; its gradient is the policy gradient.

    Args:
        log_probs: [B G A] of the drawn ratings, each given those before it.
        rewards: [B G] of answers, or [B G A] of ratings, in [0, 1].
        scale: see `advantages`.
    """
    gain = advantages(rewards, scale=scale)
    gain = gain if gain.ndim == log_probs.ndim else gain[..., None]
    surrogate = -(gain * log_probs).sum(-1).mean(1).sum()
    answer = rewards if rewards.ndim == 2 else rewards.mean(-1)
    value = (1.0 - answer.mean(1)).sum()
    return surrogate + jax.lax.stop_gradient(value - surrogate)


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
        """Of the items' scores."""
        return self.items.aspects

    @functools.cached_property
    def form(self) -> FormTokens:
        """The answer."""
        if not self.base.family.build.shares_prefix:
            raise InputError(
                f"config.llm: the family {self.base.family.name} reads prompts both ways; expected "
                "a causal language model"
            )
        return form_tokens(answer_form(self.aspects), self.tokenizer)

    @functools.cached_property
    def batches(self) -> UserExamples:
        """The training batches, and the examples of the other parts."""
        return UserExamples(
            self.config.users,
            self.store,
            self.aspects,
            self.items,
            self.tokenizer,
            seed=self.config.seed,
            batch_size=self.config.train.batch_size,
            context=self.base.config.max_length - self._slots,
        )

    @functools.cached_property
    def _tree(self) -> tuple[Any, list[list[int]]]:
        eos = self.tokenizer.eos_id
        stop = stop_ids(self.folder) or (() if eos is None else (eos,))
        return tree_for(self.form, stop, self.tokenizer)

    @property
    def _slots(self) -> int:
        """Cached tokens of an answer."""
        inner = self._tree[1]
        longest = max(map(len, self.form.options))
        return slots(self.form.words, self.form.options, inner) + longest

    @functools.cached_property
    def data(self) -> dict[str, Array]:
        """Standardised scores of the items [I A], the mean and deviation of an aspect, a teacher's
        ratings [U A] (-1 = none)."""
        known = self.items.known.sum(1) > 0
        mean = self.items.values[known].mean(0)
        deviation = np.maximum(self.items.values[known].std(0), 1e-6)
        items = np.where(known[:, None], (self.items.values - mean) / deviation, 0.0)
        out = {"items": items.astype(np.float32), "mean": mean, "deviation": deviation}
        if self.config.reward.teacher:
            users = self.store.user_numbers
            given = read_user_scores(self.config.reward.teacher, users, self.aspects)
            rounded = np.clip(np.rint(given.values), self.aspects.least, self.aspects.most)
            whole = given.known.sum(1) == len(self.aspects)
            ratings = rounded.astype(np.int32) - self.aspects.least
            out["teacher"] = np.where(whole[:, None], ratings, -1)
        return {name: jnp.asarray(a) for name, a in out.items()}

    def vectors(self, ratings: Array, data: Mapping[str, Array]) -> Array:
        """Users' scores [... A], standardised as the items' are, from ratings [... A]."""
        return (ratings - data["mean"]) / data["deviation"]

    def rewards(self, users: Array, batch: Mapping[str, Array], data: Mapping[str, Array]) -> Array:
        """[B G] of standardised scores [B G A]."""
        return TASKS[self.config.reward.task].reward(users, batch, data["items"])

    def _credited(self, ratings: Array, batch: Any, data: Any) -> Array:
        """Rewards [B G] of answers' ratings [B G A], or [B G A] of each rating."""
        users = self.vectors(ratings, data)
        whole = self.rewards(users, batch, data)
        if self.config.reward.credit == "answer":
            return whole
        size = users.shape[1]
        others = (users.sum(1, keepdims=True) - users) / (size - 1)

        def without(place: Array) -> Array:
            kept = jnp.arange(users.shape[-1]) != place
            return self.rewards(jnp.where(kept, users, others), batch, data)

        left = jax.lax.map(without, jnp.arange(users.shape[-1]))
        return whole[..., None] - jnp.moveaxis(left, 0, -1)

    def _read(self, module: Any, batch: Mapping[str, Array], copies: int) -> Any:
        """A cache of the prompts, `copies` rows of each, with room for an answer."""
        rows, length = batch["tokens"].shape
        cache = module.empty_cache(rows, length + self._slots)
        _, cache = module.hidden(
            batch["tokens"], mask=batch["real"], cache=cache, places=jnp.zeros((rows, 1), jnp.int32)
        )
        return cache.take(jnp.repeat(jnp.arange(rows), copies))

    def _drawn(self, module: Any, cache: Any, keys: Array, temperature: Array) -> Any:
        words, (tree, inner) = self.form.words, self._tree
        first = jnp.broadcast_to(jnp.array(words[0], jnp.int32), (len(keys), len(words[0])))
        return fill(
            module, words, self.form.options, inner, tree, cache, first,
            jnp.ones_like(first, bool), keys, temperature,
        )  # fmt: skip

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) over users: see `policy_loss`."""
        asked = self.config.reward
        rows = len(batch["tokens"])
        module = self.model.merge(params)
        cache = self._read(module, batch, asked.samples)
        still = self.model.merge(jax.lax.stop_gradient(params)).for_decoding()
        keys = jax.random.split(key, rows * asked.samples)
        chosen, _ = self._drawn(
            still, jax.lax.stop_gradient(cache), keys, jnp.float32(asked.temperature)
        )
        chosen = jax.lax.stop_gradient(chosen).reshape(rows, asked.samples, -1)
        shape = chosen.shape
        log_probs = self._taught(module, cache, chosen.reshape(-1, shape[-1])).reshape(shape)
        ratings = chosen.astype(jnp.float32) + self.aspects.least
        loss = policy_loss(log_probs, self._credited(ratings, batch, data), scale=asked.scale)
        if asked.kl:
            start = {p: jnp.zeros_like(a) if p in self.trained else a for p, a in params.items()}
            frozen = self.model.merge(start)
            first = self._read(frozen, batch, asked.samples)
            gap = self._taught(frozen, first, chosen.reshape(-1, shape[-1])).reshape(shape)
            gap = jax.lax.stop_gradient(gap) - log_probs
            # Schulman's estimate of the divergence: never negative, and of little variance.
            loss += asked.kl * (jnp.exp(gap) - gap - 1).sum(-1).mean(1).sum()
        if asked.teacher:
            given = data["teacher"][batch["users"]]
            known = (given >= 0).all(-1)
            first = self._read(module, batch, 1)
            taught = self._taught(module, first, jnp.maximum(given, 0))
            loss -= asked.teacher_weight * jnp.where(known, taught.sum(-1), 0.0).sum()
        return loss, jnp.float32(rows)

    def _taught(self, module: Any, cache: Any, chosen: Array) -> Array:
        return choice_log_probs(
            module, self.form.words, self.form.options, self._tree[0], cache, chosen
        )

    def ranked(self, params: Params, batch: Any, data: Any) -> tuple[Array, Array]:
        """Of users [B]: expected ratings [B A], and the reward of each of `TASKS` [B n]."""
        module = self.model.merge(params).for_decoding()
        keys = jax.random.split(jax.random.key(0), len(batch["tokens"]))
        _, log_probs = self._drawn(module, self._read(module, batch, 1), keys, jnp.float32(0.0))
        ratings = jnp.exp(log_probs) @ jnp.array(self.aspects.ratings, jnp.float32)
        users = self.vectors(ratings, data)[:, None]
        rewards = [task.reward(users, batch, data["items"])[:, 0] for task in TASKS.values()]
        return ratings, jnp.stack(rewards, 1)

    def evaluator(self, name: Literal["validation", "test"]) -> PolicyEvaluator:
        """Measures the users' scores on what they did next."""
        evaluation, task = self.config.evaluation, self.config.reward.task
        examples = self.batches.at("test" if name == "test" else "validation")
        return PolicyEvaluator(evaluation, name, task, examples, self.data, self.ranked)

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        examples = self.batches
        said = self.items.says()
        return (
            f"{self.base.family.name}: {len(examples.users):,} users of {self.store.n_users:,}, "
            f"{len(self.aspects)} aspects, {self.config.reward.samples} answers each; prompts of "
            f"{examples.length:,} tokens, {examples.steps_per_epoch:,} steps an epoch; "
            f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
            + (f"; {said}" if said else "")
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
