"""Fine-tuning: a loaded language model learns the answers to prompts.

    recjax train --config=configs/llm/finetune.py --config.llm=FOLDER \\
        --config.data.path=pairs.jsonl --workdir=runs/tuned

Only low-rank adapters are trained, saved and have optimiser state; the model itself is frozen, and
named by its folder and fingerprint. The best checkpoint ends as WORKDIR/adapter, in peft's form;
with `merge` also as WORKDIR/hf, a model of its own. With `method` "full" all parameters are
trained, in float32, and WORKDIR/hf is the result.

Pairs are packed into rows as documents are elsewhere: R rows of T tokens, and no pair sees another.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from flax import nnx

from recjax.config import build, to_plain
from recjax.convert.language_model import (
    Loaded,
    language_model,
    outline,
    read_language_model,
    write_language_model,
)
from recjax.convert.peft import adapted, merged, write_adapter
from recjax.convert.peft_config import targets_of
from recjax.errors import InputError
from recjax.evaluation.likelihood import LikelihoodConfig, PairEvaluator
from recjax.models.definition import ModelDef, fingerprint
from recjax.nn.lora import MOST_RANK, LoRAConfig
from recjax.ranges import (
    Checked,
    Count,
    Dropout,
    Epochs,
    FieldError,
    Positive,
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
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.freezing import FULL, LORA
from recjax.training.loop import TrainConfig
from recjax.training.optim import OptimConfig
from recjax.training.run import Run
from recjax.training.system import System
from recjax.training.token_loss import token_likelihood, token_loss
from recjax.typing import Array, Params

_STRIDE = 64  # T is a multiple


@dataclasses.dataclass(frozen=True)
class LowRankConfig(Checked):
    """Section `lora` of fine-tuning."""

    rank: Annotated[int, Range(1, MOST_RANK)] = 8  # R
    alpha: Positive = 16.0  # the update is scaled by alpha / R
    rslora: bool = False  # by alpha / sqrt(R) instead
    dropout: Dropout = 0.0  # on the adapters' inputs
    # As in peft: ends of the names of linear maps; ("all-linear",) = all but the head; () = the
    # usual ones of the model's family.
    targets: tuple[str, ...] = ()

    def on(self, base: Loaded) -> LoRAConfig:
        """The adapters of a model, by our paths.

        Raises:
            InputError: a name of no linear map of the model.
        """
        given: Any = "all-linear" if self.targets == ("all-linear",) else self.targets
        targets = base.family.lora_targets
        if given:
            targets = tuple(map(re.escape, targets_of(given, "config.lora.targets", base)))
        return LoRAConfig(self.rank, self.alpha, self.rslora, self.dropout, targets)


@dataclasses.dataclass(frozen=True)
class FinetuneTrainConfig(TrainConfig):
    """Section `train` of fine-tuning."""

    batch_size: Size = 16  # pairs a step, over all devices
    epochs: Epochs = 10.0  # a cap; validation stops before
    steps_per_call: Annotated[int, Range(1, 10_000)] = 1
    patience: Count = 2
    metric: str = "validation/answers/loss"


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(Checked):
    """The config of fine-tuning."""

    llm: str  # folder of a language model with its tokenizer
    data: PairsConfig
    method: Literal["lora", "full"] = "lora"
    lora: LowRankConfig = dataclasses.field(default_factory=LowRankConfig)
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""  # of the frozen model; "" = stored
    remat: Literal["none", "dots", "full"] = "none"  # what the backward pass computes again
    merge: bool = False  # write the model with its adapter merged, too
    seed: Seed = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: FinetuneTrainConfig = dataclasses.field(default_factory=FinetuneTrainConfig)
    evaluation: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)

    system = "finetune"  # its name in `recjax.systems.SYSTEMS`; no field

    def __post_init__(self):
        super().__post_init__()
        if not self.llm:
            raise FieldError("llm", "is empty; expected the folder of a language model")
        if self.method == "full" and self.dtype not in ("", "float32"):
            raise FieldError("dtype", "expected float32 where all parameters are trained")


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in."""
    return to_plain(build(FinetuneConfig, section, "config"))


def _pairs(config: FinetuneConfig, may_prepare: bool) -> Pairs:
    del may_prepare
    return split_pairs(config.data, config.seed)


def _settled(config: FinetuneConfig, pairs: Pairs) -> FinetuneConfig:
    del pairs
    paths = {name: getattr(config.data, name) for name in ("path", "validation_path", "test_path")}
    paths = {name: str(Path(path).absolute()) if path else "" for name, path in paths.items()}
    data = dataclasses.replace(config.data, **paths)
    return dataclasses.replace(config, llm=str(Path(config.llm).absolute()), data=data)


class FinetuneRun(Run):
    """Everything that fine-tuning consists of, built from its config.

    Args:
        config: the run's config.
        store: the pairs.
        workdir: the run's folder, or None for a run that keeps nothing.
    """

    unit = "pairs"
    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, store: Pairs, workdir: Path | None = None):
        super().__init__(config, store, workdir)
        self.rules = FULL if config.method == "full" else LORA

    @property
    def _folder(self) -> Path:
        return Path(self.config.llm).expanduser()

    @property
    def _dtype(self) -> str | None:
        return "float32" if self.config.method == "full" else self.config.dtype or None

    @functools.cached_property
    def base(self) -> Loaded:
        """The language model; of its parameters the shapes alone."""
        return outline(self._folder, dtype=self._dtype, remat=self.config.remat)

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The language model with its parameters, on the devices."""
        return read_language_model(
            self._folder, dtype=self._dtype, remat=self.config.remat,
            shardings=lambda shapes, axes: parallel.param_shardings(shapes, axes, self.mesh),
        )  # fmt: skip

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The base model's tokenizer."""
        return load_tokenizer(self._folder, size=self.base.config.vocab_size)

    @functools.cached_property
    def lora(self) -> LoRAConfig:
        """The adapters, by our paths."""
        return self.config.lora.on(self.base)

    @functools.cached_property
    def _adapted(self) -> Loaded:
        return self.base if self.config.method == "full" else adapted(self.base, self.lora, {})

    @functools.cached_property
    def model(self) -> ModelDef:
        """The definition of the model with its adapters."""
        return self._adapted.definition

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        return self._adapted.build(rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self.base.family.axes

    @property
    def given(self) -> Params:
        """The model's own parameters, where they are trained."""
        return self.loaded.params if self.config.method == "full" else {}

    @property
    def frozen(self) -> Params:
        """The model's own parameters, where adapters are trained."""
        return {} if self.config.method == "full" else self.loaded.params

    def _rows(self, pairs: list[Pair]) -> list[Row]:
        data, known = self.config.data, self.base.config.max_length
        if data.max_length > known:
            raise InputError(
                f"config.data.max_length: {data.max_length:,}; the model was trained on {known:,}"
            )
        longest = data.max_length or known
        return encode_pairs(pairs, self.tokenizer, data.form, longest, skip=data.skip_long)

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

    @functools.cached_property
    def batches(self) -> PairBatches:
        """The training batches."""
        return PairBatches(
            Shuffled(self.rows["train"], self.config.seed),
            self.tokenizer,
            self.length,
            self.config.train.batch_size,
            **parallel.rows_of_process(self.mesh),
        )

    def _hidden(self, module: Any, batch: Mapping[str, Array], key: Array | None = None) -> Array:
        """Final hidden states [R T E] of packed rows."""
        written = batch["labels"] != NO_LABEL
        reading = module.reading(batch["segments"], written, batch["positions"])
        return module.hidden(batch["tokens"], **reading, key=key)[0]

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) of the answers' tokens' loss, of all parameters together."""
        del data
        module = self.model.merge(params)
        labels = batch["labels"]
        drops = self.config.method == "lora" and self.config.lora.dropout > 0
        h = self._hidden(module, batch, key if drops else None)
        budget = math.ceil(self.batches.label_share * labels.size)
        return token_loss(h, module.head_table(), labels, budget=budget, mesh=self.mesh)

    def evaluator(self, name: Literal["validation", "test"]) -> PairEvaluator:
        """Measures the answers of one part."""
        if not self.rows[name]:
            raise InputError(
                "no pairs to test on: config.data.test_path and test_share name none; "
                "--split=validation has some"
            )
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

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        shapes = {path: math.prod(a.shape) for path, a in self.model.shapes.items()}
        trained = sum(shapes[path] for path in self.trained)
        parts = {name: len(rows) for name, rows in self.rows.items()}
        left_out = sum(self.store.manifest["counts"].values()) - sum(parts.values())
        said = f", {left_out:,} too long and left out" if left_out else ""
        return (
            f"{self.base.family.name}: {sum(shapes.values()):,} parameters, {trained:,} of them "
            f"trained; {', '.join(f'{n:,} {name}' for name, n in parts.items())} pairs{said}; "
            f"rows of {self.length:,} tokens, {self.batches.steps_per_epoch:,} steps an epoch; "
            f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        """What a checkpoint belongs to: the adapters, the frozen model, the pairs."""
        return {
            "lora": {"method": self.config.method, **to_plain(self.config.lora)},
            "llm": fingerprint(self.loaded.params),
            "data": self.store.fingerprint,
        }

    def finish(self, params: Params) -> dict[str, Any]:
        """Writes the best parameters: WORKDIR/adapter, and WORKDIR/hf where a model is wanted."""
        assert self.workdir is not None
        out: dict[str, Any] = {}
        own = self._everywhere({path: params[path] for path in self.trained})
        if self.config.method == "lora":
            out["adapter"] = str(self.workdir / "adapter")
            if jax.process_index() == 0:
                write_adapter(
                    out["adapter"], self.base, self.lora, own,
                    origin=self.identity["llm"], overwrite=True,
                )  # fmt: skip
        if self.config.method == "full" or self.config.merge:
            out["folder"] = str(self.workdir / "hf")
            if self.config.method == "lora":
                own = self._everywhere(merged(self.loaded, self.lora, params).params)
            if jax.process_index() == 0:
                model = language_model(self.base.config, own, self.base.folder)
                write_language_model(Path(out["folder"]), model, overwrite=True)
        return out

    def _everywhere(self, params: Params) -> Params:
        return jax.jit(lambda p: p, out_shardings=parallel.replicated(self.mesh))(params)


SYSTEM = System(
    FinetuneConfig, FinetuneRun, complete, _pairs, _settled,
    may_change=("llm", "data.path", "data.validation_path", "data.test_path"), learns="lora",
)  # fmt: skip
