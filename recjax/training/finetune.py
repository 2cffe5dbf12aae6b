"""Fine-tuning: a loaded language model learns the answers to prompts.

    recjax train --config=configs/llm/finetune.py --config.llm=FOLDER \\
        --config.data.path=pairs.jsonl --workdir=runs/tuned

Low-rank adapters are trained, or all of the model: see `recjax.training.adapting`.

Pairs are packed into rows as documents are elsewhere: R rows of T tokens, and no pair sees another.
A model with an encoder (T5, T0) reads prompts there and writes answers in its decoder; both sides
of pairs are packed (`recjax.text.sides`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax

from recjax.config import build, to_plain
from recjax.errors import InputError
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.evaluation.pairs import PairEvaluator
from recjax.evaluation.sides import SidedEvaluator, label_likelihood
from recjax.generate.prompts import filler
from recjax.nn.masks import make_mask
from recjax.paths import home
from recjax.ranges import (
    Count,
    Epochs,
    FieldError,
    Range,
    Seed,
    Size,
)
from recjax.text.pairs import (
    Pair,
    PairBatches,
    Pairs,
    PairsConfig,
    Row,
    Shuffled,
    encode_pairs,
    split_pairs,
)
from recjax.text.sides import SidedBatches, Sides, Widths, widths_for
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.adapting import AdaptingConfig, AdaptingRun
from recjax.training.optim import OptimConfig
from recjax.training.system import System
from recjax.training.token_loss import label_budget, label_loss, token_likelihood, token_loss
from recjax.training.train_config import TrainConfig
from recjax.typing import Array, Params

_STRIDE = 64  # T is a multiple


@dataclasses.dataclass(frozen=True)
class FinetuneTrainConfig(TrainConfig):
    """Section `train` of fine-tuning."""

    batch_size: Size = 16  # pairs a step, over all devices
    epochs: Epochs = 10.0  # a cap; validation stops before
    steps_per_call: Annotated[int, Range(1, 10_000)] = 1
    patience: Count = 2
    metric: str = "validation/answers/loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(AdaptingConfig):
    """The config of fine-tuning."""

    data: PairsConfig
    seed: Seed = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: FinetuneTrainConfig = dataclasses.field(default_factory=FinetuneTrainConfig)
    evaluation: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)

    system = "finetune"  # its name in `recjax.systems.SYSTEMS`; no field

    def __post_init__(self):
        super().__post_init__()
        if not self.llm:
            raise FieldError("llm", "is empty; expected the folder of a language model")


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in."""
    return to_plain(build(FinetuneConfig, section, "config"))


def _pairs(config: FinetuneConfig, may_prepare: bool) -> Pairs:
    del may_prepare
    return split_pairs(config.data, config.seed)


def _settled(config: FinetuneConfig, pairs: Pairs) -> FinetuneConfig:
    del pairs
    paths = {name: getattr(config.data, name) for name in ("path", "validation_path", "test_path")}
    paths = {name: str(home(path).absolute()) if path else "" for name, path in paths.items()}
    data = dataclasses.replace(config.data, **paths)
    return dataclasses.replace(config, llm=str(home(config.llm).absolute()), data=data)


class FinetuneRun(AdaptingRun):
    """Everything that fine-tuning consists of, built from its config.

    Args:
        config: the run's config.
        store: the pairs.
        workdir: the run's folder, or None for a run that keeps nothing.
    """

    unit = "pairs"
    config: FinetuneConfig

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The base model's tokenizer."""
        return load_tokenizer(self.folder, size=self.base.config.vocab_size)

    def _rows(self, pairs: list[Pair]) -> list[Row]:
        data, known = self.config.data, self.base.config.max_length
        if data.max_length > known:
            raise InputError(
                f"config.data.max_length: {data.max_length:,}; the model was trained on {known:,}"
            )
        longest = data.max_length or known
        model = self.base.config
        fill = filler(model, self.tokenizer)

        def blank(prompt: Sequence[int]) -> tuple[int, int]:
            begin = list(prompt).index(model.start_id)
            return model.blank_of(prompt[:begin]), begin

        return encode_pairs(
            pairs, self.tokenizer, data.form, longest, skip=data.skip_long,
            apart=self.sided or fill is not None, fill=fill, blank=None if fill is None else blank,
        )  # fmt: skip

    @functools.cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Pairs as tokens, by part."""
        parts = ("train", "validation", "test")
        return {name: self._rows(getattr(self.store, name)) for name in parts}

    @functools.cached_property
    def length(self) -> int:
        """T: the longest pair, rounded up."""
        longest = max(len(row.tokens) for rows in self.rows.values() for row in rows)
        return min(-(-longest // _STRIDE) * _STRIDE, max(longest, self.base.config.max_length))

    @property
    def sided(self) -> bool:
        """Whether prompts are read by an encoder."""
        return self.base.family.build.reads_encoder

    @functools.cached_property
    def batches(self) -> PairBatches | SidedBatches:
        """The training batches."""
        rows, size = Shuffled(self.rows["train"], self.config.seed), self.config.train.batch_size
        shared: dict[str, Any] = {
            **parallel.rows_of_process(self.mesh, self.parts_of_batch),
            "agree": parallel.most_of_all,
        }
        if self.sided:
            return SidedBatches(
                lambda places: [self._sides(rows(k)) for k in places], len(rows), self._widths,
                size, **shared,
            )  # fmt: skip
        return PairBatches(rows, self.tokenizer, self.length, size, **shared)

    def _sides(self, row: Row) -> Sides:
        """A pair for an encoder, which reads the prompt as a whole text, and a decoder."""
        read = [*row.tokens[: row.learned], *self.tokenizer.end]
        return Sides(read, row.tokens[row.learned :])

    @functools.cached_property
    def _widths(self) -> Widths:
        """Widths of the rows of an encoder and a decoder."""
        return widths_for([self._sides(row) for rows in self.rows.values() for row in rows])

    def _hidden(self, module: Any, batch: Mapping[str, Array], key: Array | None = None) -> Array:
        """Final hidden states [R T E] of packed rows; of a decoder where there is one."""
        if self.sided:
            packed = batch["read"], batch["written"]
            read = {"encoder": batch["encoder"], "packed": packed}
            return module.hidden(batch["decoder"], **read, key=key)[0]
        segments, positions = batch["segments"], batch["positions"]
        if "ar" in batch:
            reading = {
                "positions": positions,
                "mask": make_mask(segments > 0, batch["ar"], segments),
            }
        else:
            reading = module.reading(segments, batch["labels"] != NO_LABEL, positions)
        return module.hidden(batch["tokens"], **reading, key=key)[0]

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) of the loss over the answers' tokens, given all parameters."""
        del data
        module = self.model.merge(params)
        labels = batch["labels"]
        h = self._hidden(module, batch, key if self.drops else None)
        if isinstance(self.batches, SidedBatches):
            return label_loss(h, module.head_table(), labels, mesh=self.mesh)
        budget = label_budget(self.batches.label_share, labels, self.parts_of_batch)
        return token_loss(h, module.head_table(), labels, budget=budget, mesh=self.mesh)

    def evaluator(self, name: Literal["validation", "test"]) -> PairEvaluator | SidedEvaluator:
        """Measures the answers of one part."""
        if not self.rows[name]:
            raise InputError(
                "no pairs to test on: config.data.test_path and test_share name none; "
                "--split=validation has some"
            )
        if self.sided:
            return SidedEvaluator(
                self.config.evaluation, name, self.rows[name], self._sides, self._widths,
                self._answered, parallel.batch_sharding(self.mesh),
            )  # fmt: skip
        return PairEvaluator(
            self.config.evaluation,
            name,
            self.rows[name],
            self.length,
            self.predict,
            sharding=parallel.batch_sharding(self.mesh),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Validation, and the test where there are pairs for one."""
        return ("validation", "test") if self.rows["test"] else ("validation",)

    def predict(self, params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """See `recjax.evaluation.likelihood.PredictFn`."""
        module = self.model.merge(params)
        return token_likelihood(self._hidden(module, batch), batch, module.logits)

    @functools.cached_property
    def _answered(self) -> Callable[..., tuple[Array, Array]]:
        """See `SidedEvaluator.predict`."""

        def answered(params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array]:
            module = self.model.merge(params)
            return label_likelihood(module.logits(self._hidden(module, batch)), batch["labels"])

        return jax.jit(answered)

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        trained = self.model.size(self.trained)
        parts = {name: len(rows) for name, rows in self.rows.items()}
        left_out = sum(self.store.manifest["counts"].values()) - sum(parts.values())
        omitted = f", {left_out:,} too long and left out" if left_out else ""
        width = f"{self.length:,} tokens"
        if self.sided:
            width = f"{self._widths.read:,} tokens to read and {self._widths.written:,} to write"
        return (
            f"{self.base.family.name}: {self.model.size():,} parameters, {trained:,} of them "
            f"trained; {', '.join(f'{n:,} {name}' for name, n in parts.items())} pairs{omitted}; "
            f"rows of {width}, {self.batches.steps_per_epoch:,} steps an epoch; "
            f"{self.devices}"
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        """The identity of a checkpoint: the adapters, the frozen model, the pairs."""
        return {**self.model_identity, "data": self.store.fingerprint}


def planned(config: FinetuneConfig, rows: int) -> dict[str, Any]:
    """See `System.plan`; the pairs are read to see how many rows a step has."""
    train = dataclasses.replace(config.train, mesh=(-1, 1, 1))
    pairs = split_pairs(config.data, config.seed)
    tuned = FinetuneRun(dataclasses.replace(config, train=train), pairs)
    batches = dataclasses.replace(tuned.batches, row_multiple=rows)
    length = tuned.length
    if isinstance(batches, SidedBatches):
        length = max(batches.widths)
    return tuned.plan_settings | {"batch": batches(0)["labels"].shape[1], "length": length}


SYSTEM = System(
    FinetuneConfig, FinetuneRun, complete, _pairs, _settled, plan=planned,
    may_change=("llm", "data.path", "data.validation_path", "data.test_path"), learns="lora",
)  # fmt: skip
