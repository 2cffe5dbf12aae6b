"""Explanation: a run that writes a user's opinion of an item, measured by BLEU and ROUGE.

    recjax train --config=configs/explanation/gift_cards.py:peter --workdir=runs/peter

The texts and the split are those of RecSysLLM's task (`recjax.text.explained`), so that rows of
both compare. Of each part:

| metric | of |
|---|---|
| `test/explanation/loss` | the tokens of the texts, in nats |
| `test/rating/rmse`, `mae` | the predicted ratings, of models that predict them |
| `test/explanation/bleu2`, `bleu4`, `rouge1`, `rouge2`, `rougeL` | texts written token by token |
| `test/explanation/unique` | share of different texts among those written |
| `test/explanation/baseline/bleu2`, ... | the most frequent training text in each one's place |
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.config import build, to_plain
from recjax.data.prepare import DataConfig, read_options, resolve
from recjax.data.reviews import Reviews, read_reviews
from recjax.data.splits import Split
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.shards import fetch, on_each, split_batch
from recjax.generate.loop import decode
from recjax.models.explainers import RATES, Inputs, Sizes, read_explainer
from recjax.ranges import Amount, Checked, Range, Seed
from recjax.text.bpe import train_bpe
from recjax.text.explained import Explained, ExplainedBatches, as_arrays, explained
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.explanation_evaluator import (
    ExplanationEvaluationConfig,
    ExplanationEvaluator,
)
from recjax.training.new_model import TokenizerConfig, keep_tokenizer
from recjax.training.optim import OptimConfig
from recjax.training.ranking_run import SplitConfig, make_split
from recjax.training.run import Run
from recjax.training.system import System, filled_in, own_settled
from recjax.training.token_loss import label_loss
from recjax.training.train_config import TrainConfig
from recjax.typing import Array, Params

_STRIDE = 8  # T is a multiple


@dataclasses.dataclass(frozen=True)
class ExplanationTextConfig(Checked):
    """Section `text`: the explanations."""

    reviews: str  # a file of reviews (`recjax.data.reviews`)
    max_tokens: Annotated[int, Range(1, 1024)] = 48  # T, of a text with its end, at most


@dataclasses.dataclass(frozen=True)
class ExplanationLossConfig(Checked):
    """Section `loss`: weights beside the loss of a text's token."""

    rating: Amount = 0.1  # of the squared error; PETER's
    context: Amount = 1.0  # of the words in any order; PETER's


@dataclasses.dataclass(frozen=True)
class ExplanationTrainConfig(TrainConfig):
    """Section `train` of explanations."""

    metric: str = "validation/explanation/loss"


@dataclasses.dataclass(frozen=True)
class ExplanationConfig(Checked):
    """An explainer's config."""

    data: DataConfig
    model: dict  # `name`, a `preset`, and fields of its `Config`
    text: ExplanationTextConfig
    seed: Seed = 0  # of weights, shuffles and dropout
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    loss: ExplanationLossConfig = dataclasses.field(default_factory=ExplanationLossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: ExplanationTrainConfig = dataclasses.field(default_factory=ExplanationTrainConfig)
    evaluation: ExplanationEvaluationConfig = dataclasses.field(
        default_factory=ExplanationEvaluationConfig
    )

    def __post_init__(self):
        super().__post_init__()
        read_explainer(self.model)
        read_options(self.data)

    system = "explanation"  # its name in `recjax.systems.SYSTEMS`; no field


def complete(section: Any) -> dict[str, Any]:
    """See `recjax.training.workdir.complete`."""
    config = build(ExplanationConfig, section, "config")
    own = to_plain(read_explainer(config.model)[1])
    return filled_in(config, model={"name": config.model["name"], **own})


def _settled(config: ExplanationConfig, store: Any) -> ExplanationConfig:
    path = resolve(config.text.reviews, "config.text.reviews")
    text = dataclasses.replace(config.text, reviews=str(path.absolute()))
    return dataclasses.replace(own_settled(config, store), text=text)


def _inputs(batch: Mapping[str, Array]) -> Inputs:
    return Inputs(batch["users"], batch["items"], batch["ratings"], batch["features"])


class ExplanationRun(Run):
    """A model of explanations with its data; see `SavedRun`.

    Raises:
        InputError: the data have no ratings, or a part of the split no explanation.
    """

    config: ExplanationConfig
    unit = "reviews"

    def __init__(self, config: ExplanationConfig, store: Store, workdir: Path | None = None):
        super().__init__(config, store, workdir)
        self._module, self._own = read_explainer(config.model)

    @functools.cached_property
    def split(self) -> Split:
        """Training runs, validation and test examples."""
        return make_split(self.store, self.config.split)

    @functools.cached_property
    def reviews(self) -> Reviews:
        """The users' reviews."""
        key = "config.text.reviews"
        return read_reviews(resolve(self.config.text.reviews, key), self.store, key)

    @functools.cached_property
    def parts_of_data(self) -> dict[str, Explained]:
        """The explanations of each part.

        Raises:
            InputError: ratings that are no 1 to 5 stars, for a model that reads such.
        """
        parts = explained(self.store, self.split, self.reviews)
        highest = parts["train"].ratings.max()
        if self._module.Model.starred and highest > RATES:
            raise InputError(
                f"config.model.name: '{self.config.model['name']}' knows 1 to {RATES} stars, and "
                f"the data have ratings of up to {highest:g}: scale them before `recjax prepare`, "
                "or take 'peter'"
            )
        return parts

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The workdir's tokenizer, or one that is trained on the training texts."""
        folder = None if self.workdir is None else self.workdir / "tokenizer"
        if folder is not None and folder.is_dir():
            return load_tokenizer(folder)
        train = self.parts_of_data["train"]
        return train_bpe([*train.texts, *train.features], self.config.tokenizer.vocab_size)

    def train(self) -> dict[str, Any]:
        """See `Run.train`."""
        assert self.workdir is not None
        keep_tokenizer(self.workdir, self.tokenizer, self.tokenizer.eos_id)
        return super().train()

    @functools.cached_property
    def length(self) -> int:
        """T: the longest training text with its end, rounded up."""
        texts = self.tokenizer.encode_batch(list(self.parts_of_data["train"].texts), eos=True)
        longest = -(-max(map(len, texts)) // _STRIDE) * _STRIDE
        return min(longest, self.config.text.max_tokens)

    def _arrays(self, rows: Explained) -> dict[str, np.ndarray]:
        wanted = getattr(self._own, "feature_tokens", 0)
        return as_arrays(rows, self.tokenizer, self.length, wanted)

    @functools.cached_property
    def batches(self) -> ExplainedBatches:
        """The training reviews."""
        size = self.config.train.batch_size
        return ExplainedBatches(
            self._arrays(self.parts_of_data["train"]),
            size,
            self.config.seed,
            parallel.row_multiple(size, self.mesh, self.parts_of_batch),
            parallel.rows_of_process(self.mesh)["process"],
        )

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        sizes = Sizes(self.store.n_users, self.store.n_items, self.tokenizer.size)
        return self._module.Model(self._own, sizes, rngs=rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self._module.PARAM_AXES

    @property
    def given(self) -> Params:
        """The mean of the training ratings, where ratings are predicted."""
        if not self._module.Model.rates:
            return {}
        mean = self.parts_of_data["train"].ratings.mean(dtype=np.float64)
        return {"mean": jnp.float32(mean)}

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sums, weights): of the text's tokens, and at their weights of ratings and context."""
        del data
        module, config = self.model.merge(params), self.config.loss
        labels = batch["labels"]
        rngs = nnx.Rngs(dropout=key)
        outputs = module.learn(_inputs(batch), batch["tokens"], deterministic=False, rngs=rngs)
        terms = [label_loss(outputs.states, module.head[...], labels, mesh=self.mesh)]
        if outputs.rating is not None:
            off = jnp.sum((outputs.rating - batch["ratings"]) ** 2)
            terms.append((config.rating * off, jnp.float32(len(labels))))
        if outputs.context is not None and config.context:
            words = (labels >= 0) & (labels != self.tokenizer.eos_id)
            logs = jax.nn.log_softmax(module.logits(outputs.context).astype(jnp.float32))
            each = jnp.take_along_axis(logs, jnp.maximum(labels, 0), axis=1)
            terms.append((-config.context * (each * words).sum(), jnp.float32(words.sum())))
        sums, weights = map(jnp.stack, zip(*terms, strict=True))
        return sums, weights

    @functools.cached_property
    def _read(self) -> Callable[..., tuple[Array, Array, Array | None]]:
        def read(params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array, Array | None]:
            module = self.model.merge(params)
            outputs = module.learn(_inputs(batch), batch["tokens"])
            labels = batch["labels"]
            loss, weight = label_loss(outputs.states, module.head[...], labels, mesh=self.mesh)
            return loss, weight, outputs.rating

        return jax.jit(read)

    @functools.cached_property
    def _written(self) -> Callable[..., tuple[Array, Array]]:
        length, stop = self.config.text.max_tokens, jnp.array([self.tokenizer.eos_id])

        def write(params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array]:
            module = self.model.merge(params)
            _, cache = module.begin(_inputs(batch), length + 1)

            def step(tokens: Array, cache: Any) -> tuple[Array, Any]:
                h, cache = module.step(tokens, cache)
                return module.logits(h), cache

            logits, cache = step(batch["tokens"][:, 0], cache)
            made = decode(step, logits, cache, max_new_tokens=length, stop=stop)
            return made.tokens, made.lengths

        sharding = parallel.batch_sharding(self.mesh)
        return jax.jit(lambda params, batch: on_each(write, sharding, (params,), batch))

    def writer(self, params: Params) -> Callable[[Mapping[str, np.ndarray]], list[str]]:
        """`batch -> texts`: of each row of `as_arrays` the likeliest, token by token.

        Each device writes its part of the rows, which it has to divide.
        """
        params, sharding = parallel.on_all(params, self.mesh), parallel.batch_sharding(self.mesh)

        def write(batch: Mapping[str, np.ndarray]) -> list[str]:
            tokens, lengths = fetch(self._written(params, split_batch(batch, sharding)))
            texts = [self.tokenizer.decode(row[:n]) for row, n in zip(tokens, lengths, strict=True)]
            return [" ".join(text.split()) for text in texts]

        return write

    def evaluator(self, name: Any) -> ExplanationEvaluator:
        """Measures one part of the split."""
        return self._evaluator(name, name == "test" or self.config.evaluation.write_in_validation)

    def measurer(self, name: Any) -> ExplanationEvaluator:
        """See `SavedRun.measurer`; texts are written."""
        return self._evaluator(name, True)

    def _evaluator(self, name: str, writes: bool) -> ExplanationEvaluator:
        config, train = self.config.evaluation, self.parts_of_data["train"]
        rows = self.parts_of_data[name].some(config.max_examples, config.seed)
        return ExplanationEvaluator(
            config,
            name,
            rows,
            self._arrays(rows),
            parallel.batch_sharding(self.mesh),
            self._read,
            self.writer if writes else None,
            (float(train.ratings.min()), float(train.ratings.max())),
            self._module.Model.rates,
            collections.Counter(train.texts).most_common(1)[0][0],
        )

    def describe(self) -> str:
        """One line: model, parameters, data."""
        return (
            f"{self.config.model['name']}: {self.model.size():,} parameters, "
            f"{self.tokenizer.size:,} tokens; {len(self.batches):,} training reviews of up to "
            f"{self.length} tokens"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the model and the data."""
        model = {"name": self.config.model["name"], **to_plain(self._own)}
        data = self.store.fingerprint + self.reviews.sha256[:16]
        return {"model": {**model, "vocab_size": self.tokenizer.size}, "data": data}


SYSTEM = System(
    ExplanationConfig, ExplanationRun, complete, settled=_settled,
    may_change=("data.path", "data.store", "text.reviews"),
)  # fmt: skip
