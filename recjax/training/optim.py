"""Optimisers from a config section.

"adam" is Adam, or AdamW where `weight_decay` is set. "muon" gives the kernels [... in out] of a
model's layers Muon's updates (Jordan 2024: momentum 0.95, made orthogonal by Newton-Schulz), as
large as Adam's are (Liu et al. 2025, section 2.2), so that one learning rate serves both; all else
(embeddings, heads, norms, biases) keeps Adam's, with Nesterov's momentum as `optax.contrib.muon`
has it.

Ordered rules over parameter paths say which parameters decay, which take Muon's updates, which
learn faster and which not at all (`OptimRule`). Those of `config.optim.rules` stand before
`RULES`:

    config.optim.rules = (
        {"match": "items/.*", "rate": 0.1},  # a tenth of the learning rate
        {"match": "positions/.*", "frozen": True},
    )
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from recjax.config import nearest
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, Count, FieldError, Positive, Range
from recjax.typing import Array, Params

_ADAM_RMS = 0.2  # of an update of Adam's, by Liu et al.


@dataclasses.dataclass(frozen=True)
class OptimRule(Checked):
    """Settings of the parameters whose path `match` matches in full.

    None says nothing. For each of the other fields, the first rule that matches a parameter and
    says something about it decides.
    """

    match: str  # regex
    rate: Amount | None = None  # times the learning rate
    # Times `weight_decay`; 1 for matrices, 0 for vectors, scales of norms and biases.
    decay: Amount | None = None
    muon: bool | None = None  # Muon's updates, where `name` is muon; for matrices only
    frozen: bool | None = None  # stays as it starts, without optimiser state

    def __post_init__(self):
        super().__post_init__()
        try:
            re.compile(self.match)
        except re.error as error:
            raise FieldError("match", f"{self.match!r} is no regular expression: {error}") from None
        if all(value is None for value in self._settings):
            raise FieldError("match", f"{self.match!r}: expected one of rate, decay, muon, frozen")

    @property
    def _settings(self) -> tuple[Any, ...]:
        return self.rate, self.decay, self.muon, self.frozen


# After those of the config. Of layers in a stack, norms and biases are matrices; biases of
# distances (T5, HSTU) decay neither in P5 nor in Hugging Face's trainer. Muon is for layers'
# kernels.
RULES = (
    OptimRule(r".*(/scale|bias|bias/table)", decay=0.0),
    OptimRule(r"(?!.*\bhead/).*/kernel", muon=True),
    OptimRule(r".*", rate=1.0, decay=1.0, muon=False, frozen=False),
)


@dataclasses.dataclass(frozen=True)
class OptimConfig(Checked):
    """Section `optim`: the optimiser and its rates."""

    name: Literal["adam", "muon"] = "adam"
    learning_rate: Positive = 1e-3  # of all parameters, with Muon too
    b1: Annotated[float, Range(0, below=1)] = 0.9  # b1, b2 and eps are Adam's
    b2: Annotated[float, Range(0, below=1)] = 0.999  # SASRec's authors use 0.98
    eps: Positive = 1e-8  # a row of a table that a step does not read has the update 0 / eps
    weight_decay: Amount = 0.0  # decoupled (AdamW), on matrices but biases; see `rules`
    clip_norm: Amount = 0.0  # global norm of the gradient; 0 = none
    warmup_steps: Count = 0  # linear from 0
    # Holds `ramp_rate` until the first of these epochs, then rises linearly to the learning rate at
    # the second; (0, 0) = no ramp.
    ramp_epochs: tuple[Amount, Amount] = (0.0, 0.0)
    ramp_rate: Amount = 0.0
    # Cosine to 0 that ends after this many epochs, those of the warm-up among them; the rate stays
    # 0 behind it. 0 = constant.
    decay_epochs: Amount = 0.0
    # Linear to 0 over the last so many epochs. They begin when the criterion of `config.train`
    # holds, or so many epochs before its cap; 0 = training ends there and then.
    cooldown_epochs: Amount = 0.0
    # Validation, test and recommendations have the moving average of the trained parameters, which
    # so much of stays at each update; less at the first ones. 0 = none.
    average: Annotated[float, Range(0, below=1)] = 0.0
    rules: tuple[OptimRule, ...] = ()  # of some parameters

    def __post_init__(self):
        super().__post_init__()
        for place, rule in enumerate(self.rules):
            if rule.muon and self.name != "muon":
                raise FieldError(f"rules[{place}].muon", f"expected name 'muon', got '{self.name}'")
        if self.ramp_epochs[0] > self.ramp_epochs[1]:
            raise FieldError("ramp_epochs", f"expected rising numbers, got {self.ramp_epochs}")
        if self.ramp_epochs[1] and (self.warmup_steps or self.decay_epochs):
            raise FieldError(
                "ramp_epochs",
                "a ramp is in place of warmup_steps and decay_epochs; expected 0 for both",
            )
        if self.cooldown_epochs and self.decay_epochs:
            raise FieldError(
                "cooldown_epochs",
                "a cool-down is in place of decay_epochs; expected 0 for one of them",
            )


def schedule(config: OptimConfig, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant or cosine decay; or a ramp."""
    decay_steps = round(config.decay_epochs * steps_per_epoch)

    begin, end_of_ramp = config.ramp_epochs

    def rate(step: Array) -> Array | float:
        if end_of_ramp:
            risen = (step / steps_per_epoch - begin) / max(end_of_ramp - begin, 1e-9)
            rise = config.learning_rate - config.ramp_rate
            return config.ramp_rate + rise * jnp.clip(risen, 0.0, 1.0)
        warm = jnp.minimum(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if not decay_steps:
            return config.learning_rate * warm
        start, end = config.warmup_steps, decay_steps
        done = jnp.clip((step - start) / max(1, end - start), 0.0, 1.0)
        return config.learning_rate * warm * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return rate


def make_optimizer(
    config: OptimConfig, steps_per_epoch: int, cooldown: int = 0
) -> optax.GradientTransformation:
    """The update rule of a config, with clipping before and the schedule after.

    Args:
        config: the update rule.
        steps_per_epoch: what `decay_epochs` counts in.
        cooldown: updates of the cool-down, 0 = none; `set_cooldown` begins it.
    """
    parts = []
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    with_muon = config.name == "muon"
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps, nesterov=with_muon)
    parts.append(_muon(adam, config) if with_muon else adam)
    if config.weight_decay:
        for times in _values(config, "decay"):
            mask = functools.partial(_having, config, "decay", times)
            parts.append(optax.add_decayed_weights(config.weight_decay * times, mask=mask))
    for times in _values(config, "rate"):
        if times != 1:
            mask = functools.partial(_having, config, "rate", times)
            parts.append(optax.masked(optax.scale(times), mask))
    parts.append(optax.scale_by_learning_rate(schedule(config, steps_per_epoch)))
    if cooldown:
        parts.append(_cooldown(cooldown))
    if config.average:
        parts.append(_average(config.average))
    return optax.chain(*parts)


def check_rules(config: OptimConfig, params: Mapping[str, Any]) -> None:
    """Checks a config's rules against parameters.

    Args:
        config: with `rules`.
        params: those that the system trains, by path; abstract ones, too.

    Raises:
        InputError: a rule that matches none of them, or gives Muon's updates to vectors.
    """
    for place, rule in enumerate(config.rules):
        where = f"config.optim.rules[{place}]"
        matched = [path for path in params if re.fullmatch(rule.match, path)]
        if not matched:
            hint = nearest(rule.match, params)
            raise InputError(f"{where}: '{rule.match}' matches no trained parameter; {hint}")
        vectors = [path for path in matched if params[path].ndim < 2]
        if rule.muon and vectors:
            raise InputError(f"{where}.muon: '{vectors[0]}' is a vector; expected matrices only")


def decay_of(config: OptimConfig, path: str, value: Any) -> float:
    """The factor of a parameter's weight decay by the config's rules."""
    return _setting(config, "decay", path, value)


def frozen_by(config: OptimConfig, params: Mapping[str, Any]) -> list[str]:
    """The paths of parameters that a config's rules freeze."""
    return [path for path, value in params.items() if _setting(config, "frozen", path, value)]


def _setting(config: OptimConfig, field: str, path: str, value: Any) -> Any:
    """The value of one field by the first rule that sets it for a parameter."""
    rules = [*config.rules, *RULES]
    if value.ndim < 2:  # biases and norms are vectors
        vector = OptimRule(r".*", decay=0.0, muon=False)
        rules.insert(len(config.rules), vector)
    values = (getattr(rule, field) for rule in rules if re.fullmatch(rule.match, path))
    return next(setting for setting in values if setting is not None)


def _values(config: OptimConfig, field: str) -> list[float]:
    """The numbers other than 0 that rules give a field, 1 first; of `rate`, 0 too."""
    numbers = {getattr(rule, field) for rule in config.rules} - {None, 1.0}
    return [1.0, *sorted(numbers if field == "rate" else numbers - {0.0})]


def _having(config: OptimConfig, field: str, wanted: Any, params: Params) -> dict[str, bool]:
    """Whether the rules give each parameter's field a value."""
    return {path: _setting(config, field, path, value) == wanted for path, value in params.items()}


class CooldownState(NamedTuple):
    """Steps done, and the step at which the cool-down begins."""

    done: Array
    start: Array


_NEVER = np.iinfo(np.int32).max


def _cooldown(steps: int) -> optax.GradientTransformation:
    """Updates that shrink linearly to 0 over so many steps from `CooldownState.start` on."""

    def init(params: Any) -> CooldownState:
        del params
        return CooldownState(jnp.zeros((), jnp.int32), jnp.full((), _NEVER, jnp.int32))

    def update(updates: Any, state: CooldownState, params: Any = None):
        del params
        left = jnp.clip(1.0 - (state.done - state.start + 1) / steps, 0.0, 1.0)
        updates = jax.tree.map(lambda u: u * left.astype(u.dtype), updates)
        return updates, CooldownState(state.done + 1, state.start)

    return optax.GradientTransformation(init, update)


def set_cooldown(opt_state: Any, begins: bool) -> Any:
    """The optimiser's state with its cool-down beginning at the next update, or not yet."""

    def changed(node: Any) -> Any:
        if not isinstance(node, CooldownState):
            return node
        start = np.int32(np.asarray(node.done) if begins else _NEVER)
        return node._replace(start=jax.device_put(start, node.start.sharding))

    return jax.tree.map(changed, opt_state, is_leaf=lambda node: isinstance(node, CooldownState))


class AverageState(NamedTuple):
    """Steps done, and the moving average of the parameters by path."""

    done: Array
    params: Any


def _average(decay: float) -> optax.GradientTransformation:
    """Leaves the updates as they are; the state is the average of what they make."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: AverageState, params: Any = None):
        # The first steps are forgotten soon: at step 0 nothing of the zeros stays.
        weight = jnp.minimum(decay, state.done / (state.done + 10))
        new = jax.tree.map(
            lambda a, p, u: (weight * a + (1 - weight) * (p + u)).astype(a.dtype),
            state.params, params, updates,
        )  # fmt: skip
        return updates, AverageState(state.done + 1, new)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any) -> dict[str, Any]:
    """The moving averages of parameters by path; none where the optimiser has none, or no step."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, AverageState))
    averages = [leaf for leaf in leaves if isinstance(leaf, AverageState)]
    return dict(averages[0].params) if averages and int(averages[0].done) else {}


def _muon(
    others: optax.GradientTransformation, config: OptimConfig
) -> optax.GradientTransformation:
    """Muon's updates of the matrices [... in out] that the rules name, those of `others` else."""

    def labels(params):
        muon = _having(config, "muon", True, params)
        return {path: "kernel" if muon[path] else "other" for path in params}

    def last_two(params):
        return jax.tree.map(lambda a: MuonDimensionNumbers(a.ndim - 2, a.ndim - 1), params)

    kernels = optax.chain(
        scale_by_muon(weight_dimension_numbers=last_two),
        optax.stateless_with_tree_map(lambda u, _: u * _ADAM_RMS * max(u.shape[-2:]) ** 0.5),
    )
    return optax.partition({"kernel": kernels, "other": others}, labels)
