"""A language model's run: pre-trained on the text of a catalogue, written in Hugging Face's form.

    recjax train --config=configs/llm/catalogue.py --workdir=runs/catalogue

The text is that of `recjax.text.corpus`: what is known of the items, and histories of the
split's training part alone. The best checkpoint ends as WORKDIR/hf (config.json,
model.safetensors, tokenizer files), which goes through the same loader as a published model.

Soft tokens are blends of vectors, one an item, that are trained beside the model (`_Reader`) and
are no part of the model; they are written beside it (`recjax.training.item_vectors`).

Letters: T row length in tokens, R packed rows, S soft tokens a row, W items a blend.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.config import build, to_plain
from recjax.convert.fetch import on_host
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_of_all
from recjax.data import splits
from recjax.data.prepare import DataConfig, read_options
from recjax.data.splits import Spans
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.documents import DocumentEvaluator
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.models.language import LanguageConfig
from recjax.nn.soft import place_soft
from recjax.ranges import Checked, Epochs, Seed, Size
from recjax.replace import signed
from recjax.text.bpe import train_bpe
from recjax.text.corpus import Documents, TextConfig
from recjax.text.prompts import read_prompts
from recjax.text.tasks import PROMPTS
from recjax.text.textualize import check_titles
from recjax.text.token_batches import TokenBatches
from recjax.text.tokenizers import Tokenizer, load_tokenizer
from recjax.training import parallel
from recjax.training.item_vectors import FILE as ITEM_VECTORS
from recjax.training.item_vectors import write_item_vectors
from recjax.training.new_model import (
    TokenizerConfig,
    keep_tokenizer,
    model_family,
    plain_model,
    read_model,
)
from recjax.training.optim import OptimConfig
from recjax.training.ranking_run import SplitConfig, make_split
from recjax.training.run import Run
from recjax.training.system import System, filled_in
from recjax.training.token_loss import label_budget, token_likelihood, token_loss
from recjax.training.train_config import TrainConfig
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class LanguageTrainConfig(TrainConfig):
    """Section `train` of language models."""

    batch_size: Size = 128  # documents a step, over all devices
    epochs: Epochs = 10.0
    metric: str = "validation/text/loss"


@dataclasses.dataclass(frozen=True)
class LanguageRunConfig(Checked):
    """A language model's config."""

    data: DataConfig
    model: dict  # `name` of a family, a `preset`, and fields of its `Config` but vocab_size
    seed: Seed = 0  # of weights and documents
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: LanguageTrainConfig = dataclasses.field(default_factory=LanguageTrainConfig)
    evaluation: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)

    def __post_init__(self):
        super().__post_init__()
        read_model(self.model, self.tokenizer.vocab_size)
        read_options(self.data)

    system = "language_model"  # its name in `recjax.systems.SYSTEMS`; no field


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in: the model's and the reader's too.

    Raises:
        InputError: naming the key that is unknown, missing or of the wrong type, or what is wrong
            with the file of prompts.
    """
    config = build(LanguageRunConfig, section, "config")
    read_prompts(config.text.prompts, PROMPTS).of(config.text.domain, "config.text.prompts")
    return filled_in(config, model=plain_model(config.model, config.tokenizer.vocab_size))


def _model_files(folder: Path) -> Collection[str]:
    """The files that WORKDIR/hf may hold; earlier versions did not sign it."""
    return signed(folder) or (
        "config.json", "generation_config.json", "model*.safetensors", "model*.index.json",
        "tokenizer*", "special_tokens_map.json", ITEM_VECTORS,
    )  # fmt: skip


class _Reader(nnx.Module):
    """A language model, and the vectors [I E] that its soft tokens are blends of.

    Args:
        model: the language model.
        n_items: I; 0 where no text has soft tokens.
        config: the model's.
        rngs: initialiser keys.
    """

    def __init__(self, model: Any, n_items: int, config: LanguageConfig, *, rngs: nnx.Rngs):
        self.model = model
        init = nnx.initializers.normal(config.init_std)
        shape = (n_items, config.dim)
        self.items = nnx.Param(init(rngs.params(), shape, jnp.float32)) if n_items else None

    def embed(self, batch: Mapping[str, Array], noise: float, key: Array | None) -> Array:
        """Embeddings [R T E] of a batch of `recjax.text.token_batches`.

        Each soft token gets noise of its own strength, evenly drawn up to `noise` times the root
        mean square of the items' vectors, and the largest weight of its blend. A linear map of D
        features to the vectors of I items is good to sqrt(D / I) of their length only, where they
        are many: what it hits is mostly noise, and the model has to tell items apart in it.
        """
        x = self.model.embed(batch["tokens"])
        if self.items is None or "is_soft" not in batch:
            return x
        table = self.items[...]
        soft = jnp.einsum("RSW,RSWE->RSE", batch["blend_weights"], table[batch["blend_items"]])
        if key is not None and noise:
            scale_key, noise_key = jax.random.split(key)
            size = jnp.sqrt(jnp.mean(jnp.square(jax.lax.stop_gradient(table))))
            strength = jax.random.uniform(scale_key, (*soft.shape[:2], 1), soft.dtype, maxval=noise)
            strength *= batch["blend_weights"].max(axis=-1, keepdims=True)
            soft += size * strength * jax.random.normal(noise_key, soft.shape, soft.dtype)
        return place_soft(x, batch["is_soft"], soft)


class LanguageRun(Run):
    """Everything that a language model's run consists of, built from its config.

    Args:
        config: the run's config.
        store: the prepared data.
        workdir: the run's folder, or None for a run that keeps nothing.
    """

    unit = "documents"
    config: LanguageRunConfig

    def __init__(self, config: LanguageRunConfig, store: Store, workdir: Path | None = None):
        super().__init__(config, store, workdir)
        check_titles(store.catalog, store.path)
        self._family = model_family(config.model)

    @functools.cached_property
    def split(self) -> splits.Split:
        """Training runs, validation and test examples."""
        return make_split(self.store, self.config.split)

    def documents_of(self, spans: Spans) -> Documents:
        """The text of the catalogue and of these runs."""
        return Documents(
            self.config.text, self.store.catalog, self.store.items, spans, self.config.seed
        )

    @functools.cached_property
    def documents(self) -> Documents:
        """The training documents: the split's training part alone."""
        return self.documents_of(self.split.train)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The workdir's tokenizer, or one that is trained on the catalogue's text."""
        folder = None if self.workdir is None else self.workdir / "tokenizer"
        if folder is not None and folder.is_dir():
            return load_tokenizer(folder)
        return train_bpe(self.documents.corpus(), self.config.tokenizer.vocab_size)

    def train(self) -> dict[str, Any]:
        """See `Run.train`."""
        assert self.workdir is not None
        keep_tokenizer(self.workdir, self.tokenizer, self.tokenizer.eos_id)
        return super().train()

    @functools.cached_property
    def model_config(self) -> LanguageConfig:
        """The model's own config."""
        return read_model(self.config.model, self.tokenizer.size)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        model = self._family.build(self.model_config, rngs=rngs)
        items = self.store.n_items if self.config.text.soft else 0
        return _Reader(model, items, self.model_config, rngs=rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        own = ((r"items", ("vocab", "embed")),)
        return (*((f"model/{pattern}", names) for pattern, names in self._family.axes), *own)

    @functools.cached_property
    def batches(self) -> TokenBatches:
        """The training batches."""
        return TokenBatches(
            self.documents,
            self.tokenizer,
            self.model_config.max_length,
            self.config.train.batch_size,
            **parallel.rows_of_process(self.mesh, self.parts_of_batch),
            agree=parallel.most_of_all,
        )

    def _hidden(self, module: Any, batch: Mapping[str, Array], key: Array | None = None) -> Array:
        """Final hidden states [R T E] of packed rows; with noise on soft tokens where `key` is."""
        segments = batch["segments"]
        reading = module.model.reading(segments, segments > 0, batch["positions"])
        embedded = module.embed(batch, self.config.text.noise, key)
        return module.model.hidden(embedded, **reading)[0]

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) of the labelled tokens' loss."""
        del data
        module = self.model.merge(params)
        labels = batch["labels"]
        budget = label_budget(self.batches.label_share, labels, self.parts_of_batch)
        h = self._hidden(module, batch, key)
        return token_loss(h, module.model.head_table(), labels, budget=budget, mesh=self.mesh)

    def needed_bytes(self) -> dict[str, int]:
        """See `Run.needed_bytes`; of two calls' batches, and of pairs of tokens, too."""
        length, calls = self.model_config.max_length, self.config.train.steps_per_call
        places = self.batches.rows / parallel.data_size(self.mesh) * length
        out = super().needed_bytes()
        for key, size in (
            ("config.train.steps_per_call", 2 * 5 * 4 * places * calls),
            ("config.model.max_length", places * length),
        ):
            out[key] = out.get(key, 0) + int(size)
        return out

    def evaluator(self, name: Literal["validation", "test"]) -> DocumentEvaluator:
        """Measures on one part of the split: histories with their targets, and all items."""
        part = getattr(self.split, name)
        try:
            documents = self.documents_of(dataclasses.replace(part, stops=part.stops + 1))
        except InputError as error:
            raise InputError(f"the {name} split: {error}") from None
        return DocumentEvaluator(
            self.config.evaluation,
            name,
            documents,
            self.tokenizer,
            self.model_config.max_length,
            self.predict,
            sharding=parallel.batch_sharding(self.mesh),
        )

    def predict(self, params: Params, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """See `recjax.evaluation.likelihood.PredictFn`."""
        module = self.model.merge(params)
        return token_likelihood(self._hidden(module, batch), batch, module.model.logits)

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        model = self.model.size()
        items = self.model.size(["items"]) if "items" in self.model.shapes else 0
        return (
            f"{self._family.name}: {model - items:,} parameters and {items:,} of the items' "
            f"vectors, {self.tokenizer.size:,} tokens; "
            f"{len(self.documents):,} documents and {self.batches.steps_per_epoch:,} steps an "
            f"epoch; {self.devices}"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the model and the data."""
        model = {**to_plain(self.config.model), "vocab_size": self.tokenizer.size}
        return {"model": model, "data": self.store.fingerprint}

    def finish(self, params: Params) -> dict[str, Any]:
        """Writes the best parameters as WORKDIR/hf."""
        assert self.workdir is not None
        folder = self.workdir / "hf"
        own = "model/"
        items = params.get("items")
        parts = {path.removeprefix(own): a for path, a in params.items() if path != "items"}
        model = language_model(self.model_config, parts, self.workdir / "tokenizer")
        origin = {
            "data": self.store.fingerprint,
            "split": to_plain(self.config.split),
            "words": to_plain(self.documents.words),
        }
        vectors = None if items is None else on_host(items)[1:]

        def write_items(place: Path) -> None:
            if vectors is not None:
                write_item_vectors(place, self.documents.titles[1:], vectors, origin)

        write_of_all(folder, model, overwrite=True, known=_model_files, more=write_items)
        return {"folder": str(folder)}


SYSTEM = System(LanguageRunConfig, LanguageRun, complete)
