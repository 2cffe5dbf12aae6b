"""Variants of `_variants.py` (rows and seeds), trained and measured side by side in one program.

M of them are one array each, and a step of all of them is one call: small models leave a device
idle. Each has the batches, keys and early stopping of a run of its own.

Letters: M variants, I items and padding, U users, A columns, D model width, S seeds.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from _variants import MixedRun, Row, Variant
from flax import nnx

from recjax.evaluation.protocols import EvaluationConfig, Measured
from recjax.guided.sources import read_guided
from recjax.models.definition import params_of
from recjax.training.criteria import Progress
from recjax.training.freezing import with_frozen
from recjax.training.state import TrainState
from recjax.training.step import make_steps
from recjax.training.train_config import total_steps, validation_steps


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The result of training M variants.

    Attributes:
        params: by path, [M ...], each variant's best.
        steps: [M] of the best.
        values: [M] of validation.
        ended: how training ended: "patience", "epochs" or "time".
        seconds: that it took.
    """

    params: dict[str, jax.Array]
    steps: list[int]
    values: list[float]
    ended: list[str]
    seconds: float


class Study:
    """Trains and measures variants of one model and objective.

    Args:
        config: of the base.
        store: the data.
        rows: all that will be asked for.
        size: M; fewer variants are filled up, so that one program serves all.
        batch: examples at a time.
    """

    def __init__(self, config, store, rows: Sequence[Row], size: int, batch: int = 4096):
        self.store, self.size = store, size
        self._read = functools.cache(lambda guided, seed: read_guided(guided, store, seed))
        found = [self._read(row.guided, 0) for row in rows if row.guided]
        self.columns = max([1, *(len(guided.names) for guided in found)])
        users = max([0, *(len(g.users) for g in found if g.users is not None)])
        counts = {g.recent for g in found if g.recent is not None} or {10}
        if len(counts) > 1:
            raise ValueError(f"recent:K of {sorted(counts)}; expected one K")
        self.run = MixedRun(config, store, users, self.columns, counts.pop())
        if self.run.config.optim.weight_decay:
            raise ValueError("weight decay would shrink what is not trained; expected none")
        given = config.evaluation
        limits = {"max_examples": given.max_examples, "batch_size": batch}
        small = EvaluationConfig(cutoffs=(10,), **limits)
        large = dataclasses.replace(given, **limits)
        self.validation = dataclasses.replace(self.run.evaluator("validation"), config=small)
        self.test = dataclasses.replace(self.run.evaluator("test"), config=large)

    @property
    def _width(self):
        return self.run.config.model["dim"]

    def arrays(self, variant: Variant) -> dict[str, np.ndarray]:
        """The frozen parameters of a variant, and where its maps start."""
        row, width = variant.row, self._width
        out = {path: array.copy() for path, array in self.run._arrays.items()}
        for name in ("items/map", "side/map"):
            out[name] = np.zeros((self.columns, width), np.float32)
        if row.guided is None or row.late:
            out["items/learned"][row.dim or width :] = 0
            return out
        guided, refine = self._read(row.guided, variant.seed), row.refine
        count = len(guided.names)
        size = refine.width(count)
        deviation = refine.deviation or math.sqrt(2 / (self.store.n_items + width))
        out["items/learned"][width - size :] = 0
        out["items/columns"][:, :count] = guided.items
        out["items/alpha"][:] = refine.alpha
        out["items/linear"][:] = refine.form == "linear"
        rng = np.random.default_rng([variant.seed, 8])
        for name in ("items/map", "side/map"):
            start = deviation * np.eye(count)
            if size != count:
                start = rng.normal(0, deviation / math.sqrt(count), (count, size))
            out[name][:count, width - size :] = start
        if refine.user != "none":
            out["side/on"][:] = 1
            out["side/gain"][:] = guided.recent is not None
            if guided.users is not None:
                out["side/users"][: len(guided.users), :count] = guided.users
        if refine.user == "joined":
            out["side/kept"][width - size :] = 0
        return out

    def late(self, variant: Variant | None) -> dict[str, np.ndarray]:
        """The term of a variant's scores."""
        items = np.zeros((self.store.n_items, self.columns), np.float32)
        users = np.zeros((self.run._sizes[0], self.columns), np.float32)
        gain = weight = np.float32(0)
        if variant is not None and variant.row.late:
            guided = self._read(variant.row.guided, variant.seed)
            items[:, : len(guided.names)] = guided.items
            gain, weight = np.float32(guided.recent is not None), np.float32(1)
            if guided.users is not None:
                users[: len(guided.users), : len(guided.names)] = guided.users
        return {
            "late/items": items, "late/users": users, "late/gain": gain, "late/weight": weight,
        }  # fmt: skip

    def _filled(self, variants):
        if len(variants) > self.size:
            raise ValueError(f"{len(variants)} variants; expected {self.size} at most")
        return [*variants, *[variants[-1]] * (self.size - len(variants))]

    @functools.cached_property
    def _init(self):
        run = self.run

        def make(seed):
            params = params_of(run.build(nnx.Rngs(params=jax.random.key(seed))))
            return {path: a for path, a in params.items() if path in run.trained}

        return jax.jit(jax.vmap(make))

    @functools.cached_property
    def _steps(self):
        run = self.run
        one = make_steps(with_frozen(run.loss_fn), run.optimizer, run.trained, dtype=run.dtype)
        of_each = jax.vmap(one, in_axes=(0, 0, (0, None), 0))

        def steps(state, batches, seeds, frozen, data, keys):
            own = jax.tree.map(lambda a: a[seeds], batches)
            return of_each(state, own, (frozen, data), keys)

        return jax.jit(steps, donate_argnums=0)

    @functools.cached_property
    def _better(self):
        def better(improved, new, old):
            def chosen(a, b):
                return jnp.where(improved.reshape(-1, *[1] * (a.ndim - 1)), a, b)

            return jax.tree.map(chosen, new, old)

        return jax.jit(better, donate_argnums=2)

    def _stack(self, dicts):
        paths = dicts[0]
        return {p: jnp.asarray(np.stack([np.asarray(d[p]) for d in dicts])) for p in paths}

    def _batches(self, seeds):
        """Batches of all seeds: `(step, count) -> [S K R L]`; R only grows."""
        each = [dataclasses.replace(self.run.batches, seed=seed) for seed in seeds]
        rows = 0

        def make(step, count):
            nonlocal rows
            found = [one(step, count) for one in each]
            rows = max(rows, *(f["ids"].shape[1] for f in found))
            wide = [
                {
                    name: np.pad(a, ((0, 0), (0, rows - a.shape[1]), (0, 0)))
                    for name, a in f.items()
                    if name != "users"
                }
                for f in found
            ]
            return {name: np.stack([w[name] for w in wide]) for name in wide[0]}

        for step in range(0, 256, 16):  # a larger batch later would be compiled again
            make(step, 16)
        return make

    def train(self, variants: Sequence[Variant], seconds: float = math.inf, told=print) -> Trained:
        """Trains variants; each ends by its own validation, as a run does, or all so many seconds
        after the first one."""
        run, config, started = self.run, self.run.config.train, time.perf_counter()
        filled = self._filled(variants)
        seeds = sorted({variant.seed for variant in filled})
        of_seed = jnp.array([seeds.index(variant.seed) for variant in filled])
        arrays = [self.arrays(variant) for variant in filled]
        params = self._init(jnp.array([variant.seed for variant in filled]))
        given = self._stack([{p: a for p, a in own.items() if p in run.trained} for own in arrays])
        params = {**params, **given}
        frozen = self._stack([{p: own[p] for p in run._arrays} for own in arrays])
        late = self._stack([self.late(None)] * self.size)
        opt_state = jax.vmap(run.optimizer.init)(params)
        state = TrainState(jnp.zeros(self.size, jnp.int32), params, opt_state)
        best = jax.tree.map(jnp.copy, params)
        keys = jax.vmap(jax.random.key)(jnp.array([variant.seed for variant in filled]))
        per_epoch = run.batches.steps_per_epoch
        cap, every = total_steps(config.epochs, per_epoch), validation_steps(config, per_epoch)
        batches, progress = self._batches(seeds), [Progress() for _ in filled]
        ended = ["epochs"] * self.size
        metric = "validation/full/ndcg@10"

        def ahead(step):
            return max(0, min(config.steps_per_call, cap - step, every - step % every))

        step, clock = 0, 0.0
        with ThreadPoolExecutor(1) as maker:
            batch = maker.submit(batches, 0, ahead(0))
            while step < cap:
                count = ahead(step)
                state, _ = self._steps(state, batch.result(), of_seed, frozen, run.data, keys)
                step += count
                batch = maker.submit(batches, step, ahead(step)) if step < cap else batch
                if step % every and step < cap:
                    continue
                found = self.validation.measure_stacked({**state.params, **frozen, **late})
                values = [one.metrics[metric] for one in found]
                improved = np.zeros(self.size, bool)
                for place, (own, value) in enumerate(zip(progress, values, strict=True)):
                    if ended[place] == "patience":
                        continue
                    over = own.judge(
                        {metric: value}, step, metric=metric, patience=config.patience, goals={}
                    )
                    improved[place] = own.best_step == step
                    ended[place] = "patience" if over else "epochs"
                if improved.any():
                    best = self._better(jnp.array(improved), state.params, best)
                took = time.perf_counter() - started
                told(f"step {step}, {took:.0f} s: " + " ".join(f"{v:.4f}" for v in values))
                if all(end == "patience" for end in ended):
                    break
                clock = clock or time.perf_counter()  # all is compiled by now
                if time.perf_counter() - clock > seconds:
                    ended = [end if end == "patience" else "time" for end in ended]
                    break
        return Trained(
            {**best, **frozen}, [p.best_step or 0 for p in progress],
            [p.best_value for p in progress], ended, time.perf_counter() - started,
        )  # fmt: skip

    def measure(self, params) -> list[Measured]:
        """The test of M trained variants."""
        late = self._stack([self.late(None)] * self.size)
        return self.test.measure_stacked({**params, **late})

    def fuse(
        self, variants: Sequence[Variant], params, places: Sequence[int], weights: Sequence[float]
    ) -> tuple[list[float], list[float], list[Measured]]:
        """Weights of late variants by validation, and their tests.

        Args:
            variants: late ones.
            params: of M trained ones.
            places: of each variant's base among them.
            weights: to choose from; of equal ones, the first.

        Returns:
            Each variant's weight, its validation, and its test.
        """
        own = [self.late(variant) for variant in variants]
        asked = [(v, w) for v in range(len(variants)) for w in weights]
        values = []
        for found in self._late(self.validation, own, params, places, asked):
            values.append(found.metrics["validation/full/ndcg@10"])
        table = np.array(values).reshape(len(variants), len(weights))
        chosen = [weights[k] for k in table.argmax(1)]
        tests = self._late(self.test, own, params, places, list(enumerate(chosen)))
        return chosen, table.max(1).tolist(), list(tests)

    def _late(self, evaluator, own, params, places, asked):
        for first in range(0, len(asked), self.size):
            part = asked[first : first + self.size]
            filled = self._filled(part)
            late = self._stack([{**own[v], "late/weight": np.float32(w)} for v, w in filled])
            at = jnp.array([places[v] for v, _ in filled])
            based = {path: array[at] for path, array in params.items()}
            yield from evaluator.measure_stacked({**based, **late})[: len(part)]
