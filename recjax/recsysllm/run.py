"""A run of RecSysLLM: a language model learns to fill blanks (Chu et al. 2023, equation 1).

    recjax train --config=configs/recsysllm/sample_glm.py --workdir=runs/glm

The model is new (`config.model`: GLM, ChatGLM or a causal family), or that of a folder
(`config.llm`), of which all is trained or low-rank adapters. Texts come from `config.text`
(`recjax.recsysllm.sources`), blanks are drawn by `config.blanks` (`recjax.recsysllm.spans`). The
loss of blanks in texts that are held out is measured.

A family with two rows of positions reads a text both ways, and its blanks from left to right. A
causal family gets the same data: the text with its masks, then its blanks, at places 0, 1, 2, ...;
with `prefix` it reads the text both ways, too, in training, likelihoods and written answers.

Deviations from the paper: prompts in our own words; numbers of users and items tell no order
(`recjax.recsysllm.tasks`); 20 candidates and the newest 20 items of a history by default, where P5
has 100 and all; explanations are sentences by a rule (`recjax.text.reasons`); blanks are drawn over
units (`recjax.recsysllm.pretrain`); answers that are items are written by beams that a trie holds
to the catalogue, and given ones are ranked by likelihood, of which the paper says nothing; BLEU,
ROUGE and answers without a number are not counted as P5's notebooks do, and answers of yes and no
are not measured (`recjax.recsysllm.scores`).
The paper does not tell the days of its windows, the shares of the three levels of blanks (the
configs have GLM-10B's) and alpha of its adapters.

The best checkpoint ends as WORKDIR/hf (or WORKDIR/adapter), which `recjax.load_llm(WORKDIR)` reads.
These files have no place for `prefix`: `Infiller(lm, prefix=True)` reads as such a run, while
`lm.generate` reads from left to right.

Letters: T row length in tokens, R packed rows, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax

from recjax.config import to_plain
from recjax.convert.language_model import Loaded, language_model
from recjax.convert.writing import write_of_all
from recjax.errors import InputError
from recjax.models.definition import define
from recjax.models.language import family_for
from recjax.nn.masks import make_mask
from recjax.nn.places import text_positions
from recjax.paths import home
from recjax.recsysllm.answering import Answers
from recjax.recsysllm.answers import ByBeams, TitleLists
from recjax.recsysllm.blanks import BlankBatches, sentence_ends
from recjax.recsysllm.item_tokens import embeddings
from recjax.recsysllm.measure import BlankEvaluator
from recjax.recsysllm.mixed import FILES, Mixed
from recjax.recsysllm.pretrain import PassageBatches
from recjax.recsysllm.scores import TaskEvaluator
from recjax.recsysllm.settings import BlankRunConfig, complete
from recjax.recsysllm.sources import Source, source_of
from recjax.recsysllm.spans import COMMANDS, Marks
from recjax.replace import signed
from recjax.text.bpe import train_bpe
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.adapting import AdaptingRun
from recjax.training.new_model import keep_tokenizer, read_model
from recjax.training.saved_run import Evaluation
from recjax.training.state import init_params
from recjax.training.system import System, own_settled
from recjax.training.token_loss import label_budget, label_likelihood, label_loss
from recjax.typing import Array, Params


def _store(config: BlankRunConfig, may_prepare: bool) -> Any:
    source, options = source_of(config.text)
    return source.open(options, config, may_prepare)


def _settled(config: BlankRunConfig, store: Any) -> BlankRunConfig:
    if config.data is not None:
        config = own_settled(config, store)

    def absolute(path: str) -> str:
        return str(home(path).absolute()) if path else ""

    tokenizer = dataclasses.replace(config.tokenizer, path=absolute(config.tokenizer.path))
    text = source_of(config.text)[0].settled(config.text)
    return dataclasses.replace(config, llm=absolute(config.llm), tokenizer=tokenizer, text=text)


class BlankRun(ByBeams, AdaptingRun):
    """Everything that such a run consists of, built from its config.

    Args:
        config: the run's config.
        store: of the source.
        workdir: the run's folder, or None for a run that keeps nothing.
    """

    unit = "documents"
    config: BlankRunConfig

    @functools.cached_property
    def source(self) -> Source:
        """The source of the texts."""
        kind, options = source_of(self.config.text)
        return kind(options, self.store, self.config.split, self.seed)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's; of a new one, that of the workdir, a folder, or one that is trained."""
        if self.config.llm:
            return load_tokenizer(self.folder, size=self.base.config.vocab_size)
        own = None if self.workdir is None else self.workdir / "tokenizer"
        if own is not None and own.is_dir():
            return load_tokenizer(own)
        if self.config.tokenizer.path:
            return self.source.completed(load_tokenizer(self.config.tokenizer.path))
        two = read_model(self.config.model, 1 << 20)
        ends = family_for(two).build.position_rows == 2
        size = self.config.tokenizer.vocab_size
        tokenizer = train_bpe(self.source.corpus(), size, commands=COMMANDS, ends=ends)
        return self.source.completed(tokenizer)

    @functools.cached_property
    def marks(self) -> Marks:
        """The command tokens."""
        where = self.config.llm or self.config.tokenizer.path
        return Marks.of(self.tokenizer, self.config.tokenizer.marks, where)

    @functools.cached_property
    def base(self) -> Loaded:  # type: ignore[override]
        """The language model; of its parameters the shapes alone."""
        if self.config.llm:
            return self.read_outline()
        config = read_model(self.config.model, self.tokenizer.size)
        if hasattr(config, "with_ids"):
            m = self.marks
            config = config.with_ids(m.sop, m.mask, m.document, m.sentence)
        family = family_for(config)
        shapes: Any = define(lambda rngs: family.build(config, rngs=rngs)).shapes
        return Loaded(family, config, dict(shapes))

    @property
    def given(self) -> Params:
        """The folder's parameters, where all are trained; of a new model, what has vectors."""
        if self.config.llm:
            return super().given
        found = self.source.vectors(self.tokenizer)
        if found is None:
            return {}
        ids, vectors = found
        rows = embeddings(vectors, self.base.config.dim, self.seed)
        paths = {"embedding": lambda table: table.at[ids].set(rows)}
        if "head/kernel" in self.model.shapes:  # a head of its own [E V]
            paths["head/kernel"] = lambda table: table.at[:, ids].set(rows.T)
        but = self.model.shapes.keys() - paths.keys()
        drawn = init_params(self.build, self.seed, self.placed_axes, self.mesh, but=but)
        return {
            path: jax.jit(place, out_shardings=drawn[path].sharding)(drawn[path])
            for path, place in paths.items()
        }

    def check(self) -> None:
        """See `Run.check`; of a fresh run, that there are the vectors it starts from."""
        if self.config.prefix and self.two:
            raise InputError(
                f"config.prefix: True; {self.base.family.name} reads texts both ways without it; "
                "expected False"
            )
        if self.workdir is None or not (self.workdir / "checkpoints").is_dir():
            self.source.vectors(self.tokenizer)
        super().check()

    @property
    def two(self) -> bool:
        """Whether the model has two rows of positions."""
        return self.base.family.build.position_rows == 2

    @property
    def length(self) -> int:
        """T.

        Raises:
            InputError: more than the model has positions for.
        """
        known = self.base.config.max_length
        if self.config.length > known:
            raise InputError(
                f"config.length: {self.config.length:,}; the model was trained on {known:,}"
            )
        return self.config.length or known

    @functools.cached_property
    def batches(self) -> BlankBatches[Any]:
        """The training batches."""
        tokenizer, blanks = self.tokenizer, self.config.blanks
        return self.source.batches(
            tokenizer,
            length=self.length,
            batch_size=self.config.train.batch_size,
            **parallel.rows_of_process(self.mesh, self.parts_of_batch),
            agree=parallel.most_of_all,
            config=blanks,
            marks=self.marks,
            seed=self.seed,
            ends=sentence_ends(tokenizer, tokenizer.size) if blanks.sentence else None,
        )

    def _hidden(self, module: Any, batch: Mapping[str, Array], key: Array | None = None) -> Array:
        """Final hidden states [R T E] of packed rows."""
        segments = batch["segments"]
        real = segments > 0
        if self.two:
            positions = batch["positions"]
        else:
            positions = text_positions(segments, batch.get("options"))
        ar = batch["ar"] if self.two or self.config.prefix else 1
        mask = make_mask(real, ar, segments, batch.get("options"))
        return module.hidden(batch["tokens"], positions=positions, mask=mask, key=key)[0]

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) of the loss of the blanks' tokens."""
        del data
        module = self.model.merge(params)
        labels = batch["targets"]
        budget = label_budget(self.batches.label_share, labels, self.parts_of_batch)
        h = self._hidden(module, batch, key if self.drops else None)
        return label_loss(h, module.head_table(), labels, budget=budget, mesh=self.mesh)

    def predict(self, params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """See `recjax.evaluation.likelihood.PredictFn`; of `targets`."""
        module = self.model.merge(params)
        return label_likelihood(self._hidden(module, batch), batch, module.logits)

    def evaluator(self, name: Literal["validation", "test"]) -> Evaluation:
        """Measures blanks of what one part holds out; where tasks are, the test's answers too."""
        tasks = None if name == "validation" else self.tasks(name)
        return self._blanks(name) if tasks is None else tasks

    def _blanks(self, name: str) -> BlankEvaluator:
        evaluation = self.config.evaluation
        return BlankEvaluator(
            evaluation,
            name,
            self.source.held_out(name, evaluation.max_examples, evaluation.seed),
            self.batches,
            self.predict,
            sharding=parallel.batch_sharding(self.mesh),
        )

    def tasks(self, name: str) -> TaskEvaluator | None:
        """See `ByBeams.tasks`."""
        if self.answers is None:
            return None
        blanks, seed = self._blanks(name), self.config.evaluation.seed
        most = self.base.config.max_length if self.two else None
        return TaskEvaluator(blanks, self.source, self.answers.answerer, name, seed, most)

    @functools.cached_property
    def answers(self) -> Answers | None:
        """The writer of answers, where the source has tasks."""
        source = self.source
        return Answers(self, source) if isinstance(source, Mixed) else None

    @property
    def lists(self) -> TitleLists | None:
        """The maker of recommendations, where there is a prompt for it; see `recommend`."""
        return None if self.answers is None else self.answers.lists

    @property
    def parts(self) -> tuple[str, ...]:
        """Validation, and the test where there are texts for one."""
        return ("validation", "test") if self.source.held_out("test", 1, 0) else ("validation",)

    def needed_bytes(self) -> dict[str, int]:
        """See `Run.needed_bytes`; of two calls' batches, and of pairs of tokens, too."""
        places = self.batches.rows / parallel.data_size(self.mesh) * self.length
        out = super().needed_bytes()
        out["config.train.steps_per_call"] = int(
            2 * 7 * 4 * places * self.config.train.steps_per_call
        )
        out["config.length"] = int(places * self.length)
        return out

    def _largest_size(self) -> str:
        return super()._largest_size() if self.config.model else "config.llm"

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        trained = self.model.size(self.trained)
        stream, cut = self.source.stream, 0.0
        if isinstance(self.batches, PassageBatches):
            some = range(min(len(stream), 300))
            cut = self.batches.blanking.share_cut([stream(place) for place in some])
        return (
            f"{self.base.family.name}: {self.model.size():,} parameters, {trained:,} of them "
            f"trained, {self.tokenizer.size:,} tokens; {len(stream):,} documents and "
            f"{self.batches.steps_per_epoch:,} steps an epoch, rows of {self.length:,} tokens; "
            f"{self.devices}"
            + (f"\n{cut:.0%} of the prompts are cut, as too long with their answers" if cut else "")
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        """The identity of a checkpoint: the model and the data."""
        if self.config.llm:
            return {**self.model_identity, "data": self.source.fingerprint}
        model = {**to_plain(self.config.model), "vocab_size": self.tokenizer.size}
        return {"model": model, "data": self.source.fingerprint}

    def train(self) -> dict[str, Any]:
        """See `Run.train`."""
        if self.config.model:
            assert self.workdir is not None
            keep_tokenizer(self.workdir, self.tokenizer, (self.marks.eop, self.marks.eos))
        return super().train()

    def finish(self, params: Params) -> dict[str, Any]:
        """Writes the best parameters: a new model as WORKDIR/hf; see `AdaptingRun.finish`."""
        if self.config.llm:
            return super().finish(params)
        assert self.workdir is not None
        folder = self.workdir / "hf"
        model = language_model(self.base.config, params, self.workdir / "tokenizer")
        write_of_all(folder, model, overwrite=True, known=signed)
        return {"folder": str(folder)}


def planned(config: BlankRunConfig, rows: int) -> dict[str, Any]:
    """See `System.plan`: as if every text filled a row of its own; no data are read."""
    if config.llm:
        run = BlankRun(_on_one(config), None)
        arguments, known = run.plan_settings, run.base.config.max_length
    else:
        arguments = {
            "config": read_model(config.model, config.tokenizer.vocab_size),
            "train": "full",
            "dtype": config.train.dtype,
            "optim": config.optim,
            "accumulate": config.train.accumulate,
        }
        known = arguments["config"].max_length
    batch = -(-config.train.batch_size // rows) * rows
    return arguments | {"batch": batch, "length": config.length or known}


def _on_one(config: BlankRunConfig) -> BlankRunConfig:
    """The config for the devices that are here."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, mesh=(-1, 1, 1)))


SYSTEM = System(
    BlankRunConfig, BlankRun, complete, _store, _settled, plan=planned,
    may_change=(
        "llm", "data.path", "data.store", "text.path", "text.naming.run", "tokenizer.path", *FILES
    ),
)  # fmt: skip
