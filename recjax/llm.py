"""A language model as one object: weights, tokenizer, forward pass, generation.

lm = recjax.load_llm("FOLDER", dtype="bfloat16")     # a Hugging Face folder, or recjax's own
logits = lm(tokens)                                        # [B T] -> [B T V]
lm.generate(["The film is"], max_new_tokens=20).texts
lm.generate(["Which film is like Alien?"], chat=True).texts     # a chat model, by its template

The prompts' common prefix is encoded once and cached for the next call, where the model allows it
(`LanguageModule.shares_prefix`). Prompts are padded on the left to a few lengths, so that few
programs are compiled (`Prompts.lengths`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.decoding import programs
from recjax.errors import InputError
from recjax.evaluation.shards import fetch
from recjax.generate.loop import Generated
from recjax.generate.processors import KnownTokens, Processor
from recjax.generate.prompts import (
    bucket,
    check_ids,
    lengths,
    pad_rows,
)
from recjax.generate.sampling import Sampler, row_keys
from recjax.llm_inputs import (
    are_texts,
    check_drawing,
    check_length,
    encoder_inputs,
    encoder_texts,
    given_prompts,
    reading_inputs,
)
from recjax.models.definition import ModelDef
from recjax.models.language import LanguageConfig, family_for
from recjax.nn.cache import KVCache
from recjax.nn.narrow import Form
from recjax.sharded import BATCH
from recjax.text.tokenizers import Tokenizer
from recjax.training.parallel import batch_sharding, data_size, replicated
from recjax.typing import Array, Params

_KEPT = 4  # shared beginnings whose caches are kept


@dataclasses.dataclass(frozen=True)
class Generation:
    """Generated tokens and texts of B prompts.

    Attributes:
        tokens: [B n] int32 new tokens; beam search: [B beams n], best first.
        lengths: [B] or [B beams] how many of them count, a stop token among them.
        scores: [B n] log-probability of each token; beam search: [B beams] of each sequence.
        texts: the tokens as text without special ones (beam search: of the best), or None for a
            model without a tokenizer.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray
    texts: list[str] | None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The tokens as an array."""
        return np.array(self.tokens, dtype, copy=copy)


class LanguageModel:
    """A model's definition over its parameters.

    Args:
        definition: of the model, of `recjax.models.definition`.
        params: by path, on `mesh` where there is one.
        config: the model's own.
        tokenizer: for prompts as text.
        stop: ids that end a generation.
        mesh: devices that the parameters are split over.
        folder: where it was read: `save` takes the files of its tokenizer along.
        quant: see `load_llm`.

    Attributes:
        config, tokenizer, params, definition: as given.
        family: of the config.
    """

    def __init__(
        self,
        definition: ModelDef,
        params: Params,
        config: LanguageConfig,
        *,
        tokenizer: Tokenizer | None = None,
        stop: Sequence[int] = (),
        mesh: Mesh | None = None,
        folder: Path | None = None,
        quant: Form | None = None,
    ):
        self.folder, self.quant = folder, quant
        self.definition, self.params, self.config = definition, params, config
        self.tokenizer, self.stop, self.mesh = tokenizer, tuple(stop), mesh
        self.family = family_for(config)
        self.known: tuple[Processor, ...] = ()
        if tokenizer is not None and tokenizer.size < config.vocab_size:
            self.known = (KnownTokens(tokenizer.size),)
        self._prefixes: dict[tuple[int, ...], KVCache] = {}
        self._forward, self._read, self._write = programs(definition)

    def __call__(
        self,
        tokens: Any,
        positions: Any | None = None,
        mask: Any | None = None,
        *,
        encoder: Any | None = None,
        encoder_mask: Any | None = None,
        words: Any | None = None,
    ) -> Array:
        """Logits [B T V] of the token after each place.

        Args:
            tokens: [B T] ids, or embeddings [B T E].
            positions: [B T], or [B 2 T] of a family with two rows of them; by default those of
                prompts.
            mask: [B T], True (or 1) = real; or [B T T] or [B 1 T T], query by key, True = may
                attend. By default all tokens are real.
            encoder: [B S] ids that the encoder reads, in a family that has one (T5); `tokens` are
                then the decoder's.
            encoder_mask: [B S], True (or 1) = real; by default all are.
            words: [B S], the number of each token's word, for a model with `whole_words`.

        Raises:
            InputError: shapes that do not fit, ids outside the vocabulary, positions that are no
                integers from 0 on, a mask of other values, an encoder's ids for a family without
                one.
        """
        if np.ndim(tokens) != 3:
            tokens = check_ids(tokens, self.config.vocab_size)
        positions, mask = reading_inputs(self.config, tokens.shape[:2], positions, mask)
        given = self._encoder(encoder, encoder_mask, words, len(tokens))
        return self._forward(self.params, *self.placed(tokens, positions, mask), **given)

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]] | np.ndarray,
        *,
        mask: Any | None = None,
        soft: tuple[Any, Any] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        stop: Sequence[int] | None = None,
        processors: Sequence[Processor] = (),
        special: bool = False,
        chat: bool = False,
        seed: int = 0,
        first_row: int = 0,
        encoder: Any | None = None,
        encoder_mask: Any | None = None,
        words: Any | None = None,
    ) -> Generation:
        """Generates the tokens that follow prompts.

        Args:
            prompts: B texts (each begins and ends as the folder's own tokenizer has it), B lists
                of ids, or ids [B T]. A model of blank infilling fills the first blank of a text
                ("[MASK]", with `special`), or goes on at its end; ids are to have its <sop>. Texts
                for a model with an encoder (T5) are read there, and the decoder writes.
            mask: [B T], with ids [B T]: True = real; padding stands on the left.
            soft: `(is_soft [B T] bool, vectors [B S E])`, with ids [B T]: the s-th place that is
                soft in a row holds vector s instead of a token (design.md, section 4).
            max_new_tokens: at most so many.
            temperature: 0 takes the most likely token; above, tokens are drawn.
            top_k, top_p: draw among the k most likely, or the most likely that make up p, at a
                temperature above 0.
            beams: above 1, beam search with so many (`temperature` must be 0).
            length_penalty, early_stopping: of beam search, as Transformers defines them; see
                `recjax.generate.beam`.
            stop: ids that end a row; by default the model's own.
            processors: of `recjax.generate.processors` or `.constrained`.
            special: names of control tokens in texts ("<|user|>") stand for the tokens; by default
                they are text like any other, and a warning tells of them.
            chat: each text is a user's message, and the chat template of the model's folder writes
                what belongs around it.
            seed: of the draws; row b draws alike in every batch where it is row b.
            first_row: the number of the first row: a later part of many prompts draws as they
                would together.
            encoder, encoder_mask, words: see `__call__`; the prompts are then what the decoder
                begins with, of T5 a row [0].

        Raises:
            InputError: texts for a model without a tokenizer, an empty prompt, ids outside the
                vocabulary, padding that is not on the left, a chat without a template, more tokens
                than a table of positions has (GPT-2, GLM).
        """
        check_drawing(max_new_tokens, temperature, top_k, top_p, beams)
        if encoder is None and self.family.build.reads_encoder and are_texts(prompts):
            prompts, encoder, encoder_mask = encoder_texts(
                self.config, self.tokenizer, prompts, special=special, chat=chat
            )
            special = chat = False
        given = given_prompts(
            self.config, self.tokenizer, prompts, mask=mask, soft=soft, special=special, chat=chat
        )
        check_length(self.config, max(map(len, given.rows)), max_new_tokens)
        read = self._encoder(encoder, encoder_mask, words, len(given.rows))
        shares = self.family.build.shares_prefix and not read
        start = given.shared() if shares else 0
        prefix = self.prefix_cache(given.rows[0][:start].tolist()) if start else None
        rest, pad_id = given.after(start), 0 if self.tokenizer is None else self.tokenizer.pad_id
        sizes = rest.lengths()
        tokens, real = pad_rows(rest.rows, pad_id=pad_id, sizes=sizes)
        is_soft = None if rest.soft is None else pad_rows(rest.soft, pad_id=0, sizes=sizes)[0] > 0
        stop = self.stop if stop is None else tuple(stop)
        vectors = None if soft is None else soft[1]
        names = ("tokens", "real", "is_soft", "vectors", "keys")
        keys = row_keys(jax.random.key(seed), first_row + jnp.arange(len(tokens)))
        inputs = self.placed(tokens, real, is_soft, vectors, keys)
        new = bucket(max_new_tokens, lengths(max_new_tokens))
        whole = {
            "params": self.params,
            "prefix": prefix,
            "limit": max_new_tokens,
            "stop": np.array(stop or (-1,), np.int32),
            "pad_id": pad_id,
            "sampler": Sampler.of(temperature, top_k, top_p),
            "processors": (*self.known, *processors),
            "length_penalty": length_penalty,
        }
        written = self._write(
            whole,
            {**dict(zip(names, inputs, strict=True)), "encoder": read},
            sharding=self.rows_sharding(len(tokens)),
            early_stopping=early_stopping,
            max_new_tokens=new,
            beams=beams,
        )
        return self._generation(written, max_new_tokens)

    def prefix_cache(self, tokens: Sequence[int]) -> KVCache:
        """The cache of a beginning that rows share (`KVCache.start` makes the rows).

        Raises:
            InputError: a model that reads prompts both ways, whose beginnings cannot be shared.
        """
        if not self.family.build.shares_prefix:  # a decoder that stands alone will do
            self.check_causal("a reused beginning of prompts")
        ids = check_ids([tokens], self.config.vocab_size)
        name = tuple(ids[0].tolist())
        cache = self._prefixes.pop(name, None)
        if cache is None:
            cache = self._read(self.params, ids)
        self._prefixes[name] = cache  # the newest last
        while len(self._prefixes) > _KEPT:
            del self._prefixes[next(iter(self._prefixes))]
        return cache

    def outline_prefix(self, length: int) -> KVCache:
        """The shapes of a `prefix_cache` of so many tokens."""
        return jax.eval_shape(self._read, self.params, np.zeros((1, length), np.int32))

    def check_causal(self, user: str) -> None:
        """Refuses a model that reads prompts both ways or by an encoder.

        Args:
            user: the thing that needs a causal model, for the error.

        Raises:
            InputError: such a model.
        """
        if reason := self.family.not_causal:
            raise InputError(
                f"{user} needs a causal language model; the family {self.family.name} {reason}"
            )

    def save(
        self, path: str | Path, *, form: str = "hf", dtype: Any = None, overwrite: bool = False
    ) -> Path:
        """Writes the model and its tokenizer; see `recjax.convert.language_model`.

        Args:
            path: a new folder.
            form: "hf", "recjax", "meta" or "flax".
            dtype: of the numbers in the files; by default that of the parameters.
            overwrite: replace a folder that recjax has written.
        """
        model = language_model(self.config, self.params, self.folder)
        model = dataclasses.replace(model, quant=self.quant)  # such a one is refused
        return write_language_model(path, model, form=form, dtype=dtype, overwrite=overwrite)

    def _encoder(self, tokens: Any, mask: Any, words: Any, rows: int) -> dict[str, Array]:
        given = encoder_inputs(self.config, tokens, mask, words, rows)
        return dict(zip(given, self.placed(*given.values()), strict=True))

    def _generation(self, written: Any, limit: int) -> Generation:
        tokens, lengths, scores = fetch(
            (written.tokens, written.lengths,
             written.log_probs if isinstance(written, Generated) else written.scores)
        )  # fmt: skip
        if isinstance(written, Generated):
            scores = scores[:, :limit]
        texts = None
        if self.tokenizer is not None:
            best = (tokens, lengths) if tokens.ndim == 2 else (tokens[:, 0], lengths[:, 0])
            texts = [self.tokenizer.decode(row[:n]) for row, n in zip(*best, strict=True)]
        return Generation(tokens[..., :limit], lengths, scores, texts)

    def divisible(self, rows: int) -> int:
        """`rows`, rounded up to a number that the devices divide."""
        parts = 1 if self.mesh is None else data_size(self.mesh)
        return -(-rows // parts) * parts

    def rows_sharding(self, rows: int) -> NamedSharding | None:
        """The sharding of `rows` rows when every device has all parameters and writes its own rows.

        None on one device, where the rows do not divide, and where parameters are split, too.
        """
        mesh = self.mesh
        if mesh is None or rows % data_size(mesh):
            return None
        whole = all(a.is_fully_replicated for a in jax.tree.leaves(self.params))
        return batch_sharding(mesh) if whole else None

    def placed(self, *arrays: Any) -> list[Any]:
        """Arrays [B ...] on the mesh, split over rows where they divide."""
        mesh = self.mesh
        if mesh is None:
            return list(arrays)
        split = NamedSharding(mesh, PartitionSpec(BATCH))

        def put(array: Any) -> Any:
            if array is None:
                return None
            divides = np.shape(array)[0] % data_size(mesh) == 0
            return jax.device_put(array, split if divides else replicated(mesh))

        return [put(array) for array in arrays]
