"""P5: recommendation as text to text, by a T5 with vectors of whole words (Geng et al. 2022).

    recjax train --config=configs/recsysllm/p5_beauty.py --workdir=runs/p5

A T5, new (`config.model`) or of a folder (`config.llm`, all of it is trained), learns P5's five
families of tasks on numbers of users and items; `config.text` says what is asked, and which of P5's
leaks are open (`recjax.recsysllm.p5_data`; none by default). Answers that are items are written by
beams that a trie holds to the catalogue. Of candidates in a prompt those rank first that the beams
find first. The metrics are those of `recjax.recsysllm.scores`.

Deviations: prompts in our own words, their lists with commas alone; ratings as they are, not drawn
about them; a target may be any interaction of the training part after the first; histories of the
newest items alone; prompts that are too long lose their beginning, not their end; families have
shares, not samples a user; the loss is the mean over all tokens of a batch, P5's code has the mean
over answers of each one's mean; no dropout; a cosine, not a line, after the warm-up; whole words
are read in generation, too (P5's notebooks leave them out there).

The best checkpoint ends as WORKDIR/hf, which `recjax.load_llm(WORKDIR)` reads.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
from flax import nnx

from recjax.config import build, to_plain
from recjax.convert.language_model import Loaded, language_model, outline, read_language_model
from recjax.convert.writing import write_of_all
from recjax.data.prepare import DataConfig, read_options
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.evaluation.sides import label_likelihood
from recjax.llm import LanguageModel
from recjax.models.language import Family, LanguageConfig, family_for
from recjax.paths import home
from recjax.ranges import Checked, Count, Epochs, FieldError, Range, Seed, Size
from recjax.recsysllm.answering import recommending
from recjax.recsysllm.answers import ByBeams, TitleLists
from recjax.recsysllm.mixed import FILES
from recjax.recsysllm.p5_answers import AnswerLoss, P5Answerer, P5Evaluator
from recjax.recsysllm.p5_data import P5Options, P5Source, Prompts
from recjax.replace import signed
from recjax.text.bpe import train_bpe
from recjax.text.sides import SidedBatches, Widths, widths_for
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.new_model import TokenizerConfig, keep_tokenizer, plain_model, read_model
from recjax.training.optim import OptimConfig
from recjax.training.ranking_run import SplitConfig
from recjax.training.run import Run
from recjax.training.system import System, filled_in, own_settled
from recjax.training.token_loss import label_loss
from recjax.training.train_config import TrainConfig
from recjax.typing import Array, Params

_SAMPLE = 512  # passages, by whose mean lengths the widths of rows are chosen


@dataclasses.dataclass(frozen=True)
class P5TrainConfig(TrainConfig):
    """Section `train` of P5."""

    batch_size: Size = 128  # prompts a step, over all devices
    epochs: Epochs = 10.0
    steps_per_call: Annotated[int, Range(1, 10_000)] = 4
    metric: str = "validation/text/loss"


@dataclasses.dataclass(frozen=True)
class P5Config(Checked):
    """The config of a run of P5."""

    data: DataConfig
    llm: str = ""  # folder of a T5 with its tokenizer; "" = a new model
    model: dict = dataclasses.field(default_factory=dict)  # a new T5: see `read_model`
    whole_words: Count = 512  # rows of the table of whole words, P5's number; 0 = no table
    text: P5Options = dataclasses.field(default_factory=P5Options)
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    answer: Annotated[int, Range(2, 1024)] = 64  # T, tokens of an answer, at most
    seed: Seed = 0  # of weights, numbers and prompts
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: P5TrainConfig = dataclasses.field(default_factory=P5TrainConfig)
    evaluation: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)

    def __post_init__(self):
        super().__post_init__()
        if bool(self.llm) == bool(self.model):
            found = "both are set" if self.llm else "neither is set"
            raise FieldError("llm", f"a model's folder or config.model, a new one; {found}")
        if "whole_words" in self.model:
            raise FieldError("model.whole_words", "stands in config.whole_words; expected it there")
        if self.model:
            model = read_model(self.model, self.tokenizer.vocab_size)
            _check_encoder(family_for(model), "config.model.name")
        read_options(self.data)

    system = "p5"  # its name in `recjax.systems.SYSTEMS`; no field


def _check_encoder(family: Family, where: str) -> None:
    if not family.build.reads_encoder:
        raise InputError(f"{where}: {family.name}; P5 needs an encoder: expected t5")


def complete(section: Any) -> dict[str, Any]:
    """See `recjax.training.workdir.complete`."""
    config = build(P5Config, section, "config")
    if not config.model:
        return filled_in(config)
    model = plain_model(config.model, config.tokenizer.vocab_size)
    del model["whole_words"]
    return filled_in(config, model=model)


def _settled(config: P5Config, store: Any) -> P5Config:
    text = build(P5Options, P5Source.settled(to_plain(config.text)), "config.text")
    llm = str(home(config.llm).absolute()) if config.llm else ""
    return dataclasses.replace(own_settled(config, store), text=text, llm=llm)


class P5Run(ByBeams, Run):
    """Everything that a run of P5 consists of, built from its config; see `SavedRun`."""

    config: P5Config
    store: Store
    unit = "prompts"

    @functools.cached_property
    def _base(self) -> Loaded | None:
        """The folder's model without its weights; None of a new one.

        Raises:
            InputError: no model with an encoder there.
        """
        if not self.config.llm:
            return None
        base = outline(Path(self.config.llm), dtype="float32")
        _check_encoder(base.family, f"config.llm: {self.config.llm}")
        return base

    @functools.cached_property
    def _family(self) -> Family:
        return family_for(self.model_config)

    @functools.cached_property
    def source(self) -> P5Source:
        """The source of the passages."""
        return P5Source(self.config.text, self.store, self.config.split, self.seed)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer; of a new model the workdir's, or one trained on prompts."""
        if self._base is not None:
            return load_tokenizer(self.config.llm, size=self._base.config.vocab_size)
        folder = None if self.workdir is None else self.workdir / "tokenizer"
        if folder is not None and folder.is_dir():
            return load_tokenizer(folder)
        return train_bpe(self.source.corpus(), self.config.tokenizer.vocab_size)

    @functools.cached_property
    def model_config(self) -> LanguageConfig:
        """The model's own config."""
        words: Any = {"whole_words": self.config.whole_words}
        if self._base is not None:
            return dataclasses.replace(self._base.config, **words)
        return read_model({**self.config.model, **words}, self.tokenizer.size)

    @property
    def given(self) -> Params:
        """The folder's parameters; a table of whole words that it has not is drawn."""
        if self._base is None:
            return {}

        def shardings(shapes: Any, axes: Any) -> Any:
            return parallel.param_shardings(
                shapes, parallel.ruled(axes, self.logical_rules), self.mesh
            )

        loaded = read_language_model(self.config.llm, dtype="float32", shardings=shardings)
        known = self.model.shapes
        return {
            path: a for path, a in loaded.params.items()
            if path in known and known[path].shape == a.shape
        }  # fmt: skip

    @functools.cached_property
    def prompts(self) -> Prompts:
        """The map from passages to rows."""
        config: Any = self.model_config
        out = Prompts(self.tokenizer, config.max_length, self.config.answer, config.whole_words)
        longest = max(map(len, out.encoder.learn(self.source.dataset.names.distinct)))
        if longest >= self.config.answer:
            raise InputError(
                f"config.answer: {self.config.answer} tokens; an item's number and the end take "
                f"{longest + 1}"
            )
        return out

    def train(self) -> dict[str, Any]:
        """See `Run.train`."""
        assert self.workdir is not None
        if self._base is None:
            keep_tokenizer(self.workdir, self.tokenizer, self.tokenizer.eos_id)
        return super().train()

    @functools.cached_property
    def batches(self) -> SidedBatches:
        """The training batches."""
        stream, prompts = self.source.stream, self.prompts
        return SidedBatches(
            lambda places: prompts.sides([stream(k) for k in places]), len(stream), self._widths,
            self.config.train.batch_size, agree=parallel.most_of_all,
            **parallel.rows_of_process(self.mesh, self.parts_of_batch),
        )  # fmt: skip

    @functools.cached_property
    def _widths(self) -> Widths:
        """Widths of rows that fit the longest prompts and answers."""
        some = self.prompts.sides([self.source.stream(k) for k in range(_SAMPLE)])
        return widths_for(some, self.prompts.length, self.prompts.answer)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        return self._family.build(self.model_config, rngs=rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self._family.axes

    def _states(self, model: Any, batch: Any) -> Array:
        """The decoder's states [R T E]."""
        packed = batch["read"], batch["written"]
        read = {"encoder": batch["encoder"], "words": batch.get("words"), "packed": packed}
        return model.hidden(batch["decoder"], **read)[0]

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) of the loss of the answers' tokens."""
        del data, key
        model = self.model.merge(params)
        h = self._states(model, batch)
        return label_loss(h, model.head_table(), batch["labels"], mesh=self.mesh)

    @functools.cached_property
    def _read(self) -> Callable[..., tuple[Array, Array]]:
        def read(params: Params, batch: Any) -> tuple[Array, Array]:
            model = self.model.merge(params)
            return label_likelihood(model.logits(self._states(model, batch)), batch["labels"])

        return jax.jit(read)

    def answerer(self, params: Params) -> P5Answerer:
        """A writer of answers with these parameters."""
        lm = LanguageModel(
            self.model, parallel.for_writing(params, self.mesh), self.model_config,
            tokenizer=self.tokenizer, stop=(int(self.tokenizer.eos_id or 0),),
            mesh=self.mesh if self.mesh.size > 1 else None,
        )  # fmt: skip
        return P5Answerer(self.source.answers, lm, self.prompts, self.source.dataset.names)

    def evaluator(self, name: Any) -> Any:
        """Measures what one part holds out; the test's answers, too."""
        return self._loss(name) if name == "validation" else self.tasks(name)

    def _loss(self, name: str) -> AnswerLoss:
        config = self.config.evaluation
        return AnswerLoss(
            config,
            name,
            self.source.held_out(name, config.max_examples, config.seed),
            self.prompts,
            self._widths,
            self._read,
            parallel.batch_sharding(self.mesh),
        )

    def tasks(self, name: str) -> P5Evaluator:
        """See `ByBeams.tasks`."""
        answerer: Any = self.answerer  # what `TaskEvaluator` asks of an `Answerer`
        return P5Evaluator(
            self._loss(name), self.source, answerer, name, self.config.evaluation.seed
        )

    @property
    def lists(self) -> TitleLists | None:
        """The maker of recommendations, where there is a prompt for it; see `recommend`."""
        id = recommending(self.config.text.tasks)
        answerer: Any = self.answerer
        return None if id is None else TitleLists(self.source, answerer, id)

    def describe(self) -> str:
        """One line: model, parameters, data."""
        text = self.config.text
        return (
            f"{self._family.name}: {self.model.size():,} parameters, {self.tokenizer.size:,} "
            f"tokens; {len(self.source.stream):,} prompts and {self.batches.steps_per_epoch:,} "
            f"steps an epoch; ids {text.ids}, reviews {text.reviews}"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the model and the data."""
        return {"model": to_plain(self.model_config), "data": self.source.dataset.fingerprint}

    def finish(self, params: Params) -> dict[str, Any]:
        """Writes the best parameters as WORKDIR/hf."""
        assert self.workdir is not None
        folder = self.workdir / "hf"
        own = self.workdir / "tokenizer" if self._base is None else Path(self.config.llm)
        model = language_model(self.model_config, params, own)
        write_of_all(folder, model, overwrite=True, known=signed)
        return {"folder": str(folder)}


SYSTEM = System(
    P5Config, P5Run, complete, settled=_settled,
    may_change=("llm", "data.path", "data.store", *FILES),
)  # fmt: skip
