#!/usr/bin/env python
"""Searches the settings of a modern encoder's training, many side by side; validation chooses.

    python scripts/study_recipes.py --config=configs/recommenders/beauty_modern.py:ligr \
        --workdir=runs/recipes --size=8 --rounds=3

A round trains `--size` settings of the config's model in one program: drawn ones, and from the
second round on half of them are neighbours of the best so far. Varied are the learning rate and its
decay, weight decay, dropout of all kinds, smoothing, the average of parameters, and the temperature
of a model that ranks by cosine; all else is the config's. A round ends when no setting's validation
has got better for `--patience` validations (`config.train.evaluate_every`), or after `--seconds`.
`settings.jsonl` in the workdir has a line a setting: its keys for `recjax train`, validation and
test; the last line printed is the command that trains the best one. Minutes on a GPU.
"""

import copy
import json
import shlex
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.arguments import Parser, positive
from recjax.config import load_config
from recjax.errors import InputError, run_script
from recjax.flags import read_overrides
from recjax.models.definition import params_of
from recjax.models.layered import LayeredConfig
from recjax.models.recommender import read_config
from recjax.paths import flag_path
from recjax.training.cross_entropy import above_mean, softmax_cross_entropy
from recjax.training.optim import decay_of
from recjax.training.recommender import RunConfig
from recjax.training.system import load_system
from recjax.training.workdir import build_config, complete

METRIC = "full/ndcg@10"
SPACE = {  # a list: one of these; a pair: between them, evenly in the logarithm
    "optim.learning_rate": (4e-4, 2e-3),
    "optim.weight_decay": [0.0, 0.01, 0.03, 0.1, 0.2],
    "optim.average": [0.9, 0.99, 0.998],
    "optim.decay_epochs": [0.0, 30.0, 60.0],
    "model.dropout": [0.3, 0.4, 0.5, 0.6],
    "model.item_dropout": [0.0, 0.0, 0.1, 0.2],
    "objective.smoothing": [0.0, 0.0, 0.05, 0.1],
    "objective.temperature": (0.04, 0.12),
}


def space_of(config) -> dict:
    """What is varied of a config's model."""
    own = dict(SPACE)
    if not config.model.get("cosine"):
        del own["objective.temperature"]
    return own


def drawn(rng: np.random.Generator, space: dict) -> dict[str, float]:
    """A setting."""
    return {
        key: float(np.exp(rng.uniform(*np.log(value))))
        if isinstance(value, tuple)
        else value[rng.integers(len(value))]
        for key, value in space.items()
    }


# Keys that a search takes at their defaults alone.
_USUAL = {
    "config.optim": ("name", "clip_norm", "ramp_epochs", "cooldown_epochs", "rules"),
    "config.train": ("dtype", "metric", "goals"),
    "config": ("start", "items"),
}


def updated(optim, per_epoch, state, grads, setting, step):
    """A setting's state after a step: what `training.optim` makes of its keys, traced."""
    params, t = state["params"], step + 1.0
    m = jax.tree.map(lambda m, g: optim.b1 * m + (1 - optim.b1) * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: optim.b2 * v + (1 - optim.b2) * g * g, state["v"], grads)
    start, end = optim.warmup_steps, jnp.round(setting["optim.decay_epochs"] * per_epoch)
    done = jnp.clip((step - start) / jnp.maximum(end - start, 1.0), 0.0, 1.0)
    rate = jnp.where(end > 0, 0.5 * (1 + jnp.cos(jnp.pi * done)), 1.0)
    rate *= setting["optim.learning_rate"] * jnp.minimum(1.0, t / max(start, 1))
    new = {}
    for path, p in params.items():
        root = jnp.sqrt(v[path] / (1 - optim.b2**t)) + optim.eps
        update = m[path] / (1 - optim.b1**t) / root
        update += setting["optim.weight_decay"] * decay_of(optim, path, p) * p
        new[path] = p - rate * update
    kept = jnp.minimum(setting["optim.average"], step / (step + 10.0))
    average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, state["average"], new)
    return {**state, "params": new, "m": m, "v": v, "average": average}


def check(config) -> None:
    """Refuses a config of which a search would train something else.

    Raises:
        InputError: naming the key and what was expected.
    """
    if config.system != "recommender" or config.objective.name != "softmax":
        raise InputError("--config: expected a recommender's, of objective 'softmax'")
    if not isinstance(read_config(config.model)[1], LayeredConfig):
        raise InputError(f"--config: expected a modern encoder, not '{config.model['name']}'")
    for where, keys in _USUAL.items():
        given, usual = config, RunConfig(config.data, config.model)
        for section in where.split(".")[1:]:
            given, usual = getattr(given, section), getattr(usual, section)
        for key in keys:
            value, wanted = getattr(given, key), getattr(usual, key)
            if value != wanted:
                raise InputError(f"{where}.{key}: {value!r}; a search trains with {wanted!r} alone")


class SideBySide:
    """Settings of one model, trained in one program.

    Args:
        run: of the config.
    """

    def __init__(self, run):
        self.run, self.per_epoch = run, run.batches.steps_per_epoch
        # They share the batches' order; dropout and weights are each setting's own.
        self.start = jax.jit(jax.vmap(self._start))
        self.steps = jax.jit(self._steps, donate_argnums=0)
        self.better = jax.jit(self._better, donate_argnums=0)

    def _start(self, seed):
        params = params_of(self.run.build(nnx.Rngs(params=jax.random.key(seed))))
        zeros = jax.tree.map(jnp.zeros_like, params)
        copies = {name: jax.tree.map(lambda a: a + 0, params) for name in ("average", "best")}
        return {"params": params, "m": zeros, "v": jax.tree.map(jnp.copy, zeros), **copies}

    def _loss(self, params, batch, setting, key):
        module, own = self.run.model.merge(params), self.run.config.objective
        config = copy.copy(module.config)
        for name in ("dropout", "item_dropout"):
            object.__setattr__(config, name, setting[f"model.{name}"])
        for _, part in nnx.iter_modules(module):
            if hasattr(part, "config"):
                object.__setattr__(part, "config", config)
            if hasattr(part, "dropout_rate"):
                object.__setattr__(part, "dropout_rate", setting["model.dropout"])
        learned, table = module.learn(batch, nnx.Rngs(dropout=key)), module.item_table()
        h = learned.vectors / setting.get("objective.temperature", own.temperature)
        seen = learned.seen
        if seen is not None:
            seen = seen[0], seen[1] / setting.get("objective.temperature", own.temperature)
        weights = (learned.targets > 0).astype(jnp.float32)
        total, weight = softmax_cross_entropy(h, table, learned.targets, weights, seen=seen)
        over = above_mean(h, table, learned.targets, self.run.store.n_items, seen)
        total += setting["objective.smoothing"] * jnp.sum(over * weights)
        return total / jnp.maximum(weight, 1.0)

    def _one(self, state, batch, setting, seed, step):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), step)
        loss, grads = jax.value_and_grad(self._loss)(state["params"], batch, setting, key)
        return updated(self.run.config.optim, self.per_epoch, state, grads, setting, step), loss

    def _steps(self, state, batches, settings, seeds, first):
        def body(carry, batch):
            state, step = carry
            state, loss = jax.vmap(self._one, in_axes=(0, None, 0, 0, None))(
                state, batch, settings, seeds, step
            )
            return (state, step + 1), loss

        (state, _), losses = jax.lax.scan(body, (state, first), batches)
        return state, losses[-1]

    def _better(self, state, better):
        def chosen(new, old):
            return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return {**state, "best": jax.tree.map(chosen, state["average"], state["best"])}

    def measured(self, stacked, part: str) -> list[dict[str, float]]:
        """Metrics of each setting."""
        evaluator, size = self.run.evaluator(part), len(next(iter(stacked.values())))
        return [evaluator.run({path: a[n] for path, a in stacked.items()}) for n in range(size)]

    def train(self, settings: list[dict], patience: int, seconds: float) -> list[dict]:
        """Trains settings; a record each: `setting`, `epoch` and metrics of its best."""
        train, size = self.run.config.train, len(settings)
        arrays = {key: jnp.array([s[key] for s in settings]) for key in settings[0]}
        seeds = jnp.arange(size)
        state = self.start(seeds)
        cap = round(train.epochs * self.per_epoch)
        every = max(1, round(train.evaluate_every * self.per_epoch))
        best: list[dict] = [{} for _ in settings]
        since, step, ends = np.zeros(size, int), 0, time.monotonic() + seconds
        while step < cap and (since < patience).any() and time.monotonic() < ends:
            count = min(train.steps_per_call, cap - step, every - step % every)
            batch = self.run.place(step, count)
            state, losses = self.steps(state, batch, arrays, seeds, jnp.float32(step))
            step += count
            if step % every and step < cap:
                continue
            found = self.measured(state["average"], "validation")
            values = np.array([one[f"validation/{METRIC}"] for one in found])
            old = np.array([one.get(f"validation/{METRIC}", -1.0) for one in best])
            for n in np.flatnonzero(values > old):
                best[n] = {"epoch": step / self.per_epoch, **found[n]}
            since = np.where(values > old, 0, since + 1)
            state = self.better(state, jnp.asarray(values > old))
            told = " ".join(f"{value:.4f}" for value in values)
            print(f"epoch {step / self.per_epoch:.1f}, loss {losses.mean():.3f}: {told}",
                  file=sys.stderr, flush=True)  # fmt: skip
        tests = self.measured(state["best"], "test")
        rows = zip(settings, best, tests, strict=True)
        return [{"setting": s, **one, **test} for s, one, test in rows if one]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0], keys=True)
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:ARG")
    parser.add_argument("--workdir", type=flag_path, required=True)
    parser.add_argument("--size", type=positive, default=8, help="settings side by side")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument(
        "--patience", type=positive, default=4, help="validations without a better one"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of a round")
    args, rest = parser.parse_known_args(argv)
    section, _ = load_config(args.config, read_overrides(rest), complete)
    config = build_config(section)
    check(config)
    system = load_system(config.system)
    study = SideBySide(system.run(config, system.store(config, True)))
    args.workdir.mkdir(parents=True, exist_ok=True)
    space, rng, rows = space_of(config), np.random.default_rng(config.seed), []
    for number in range(args.rounds):
        settings = [drawn(rng, space) for _ in range(args.size)]
        for n in range(args.size // 2 if number else 0):
            near = {**rows[n % min(3, len(rows))]["setting"]}
            for key in rng.choice(list(space), 2, replace=False):
                near[key] = settings[n][key]
            settings[n] = near
        rows += study.train(settings, args.patience, args.seconds)
        rows.sort(key=lambda row: -row[f"validation/{METRIC}"])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (args.workdir / "settings.jsonl").write_text(text)
    best = rows[0]
    print(f"validation {best[f'validation/{METRIC}']:.4f}, test {best[f'test/{METRIC}']:.4f}")
    keys = [f"--config.{key}={value}" for key, value in best["setting"].items()]
    command = ["recjax", "train", f"--config={args.config}", *rest, *keys]
    print(shlex.join([*command, f"--workdir={args.workdir / 'best'}"]))


if __name__ == "__main__":
    run_script(main)
