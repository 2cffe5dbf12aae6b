"""A language model as one object: weights, tokenizer, forward pass, generation.

lm = recjax.load_llm("Llama-3.2-1B", dtype="bfloat16")     # a Hugging Face folder, or recjax's own
logits = lm(tokens)                                        # [B T] -> [B T V]
lm.generate(["The film is"], max_new_tokens=20).texts

What all prompts of a call begin with is read once, and kept for the next call. Prompts are padded
on the left to a few lengths, so that few programs are compiled.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.data.tokenizers import Tokenizer, pad_left
from recjax.errors import InputError
from recjax.generate.beam import beam_search
from recjax.generate.buckets import bucket
from recjax.generate.loop import Generated, decode
from recjax.generate.processors import Processor
from recjax.generate.sampling import Sampler, row_keys
from recjax.models.definition import ModelDef
from recjax.nn.cache import KVCache
from recjax.nn.soft import place_soft
from recjax.training.parallel import RULES, data_size, replicated
from recjax.typing import Array, Params

_SHARED = 16  # a shared beginning counts from this many tokens on, in steps of as many
_KEPT = 4  # shared beginnings whose caches are kept


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated for B prompts.

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


class LanguageModel:
    """A model's definition over its parameters.

    Args:
        definition: of the model, of `recjax.models.definition`.
        params: by path, on `mesh` where there is one.
        config: the model's own.
        tokenizer: for prompts as text.
        stop: ids that end a generation.
        mesh: devices that the parameters are split over.

    Attributes:
        config, tokenizer, params, definition: as given.
    """

    def __init__(
        self,
        definition: ModelDef,
        params: Params,
        config: Any,
        *,
        tokenizer: Tokenizer | None = None,
        stop: Sequence[int] = (),
        mesh: Mesh | None = None,
    ):
        self.definition, self.params, self.config = definition, params, config
        self.tokenizer, self.stop, self.mesh = tokenizer, tuple(stop), mesh
        self._prefixes: dict[tuple[int, ...], KVCache] = {}
        self._forward = jax.jit(
            lambda params, *inputs: definition.merge(params)(
                inputs[0], positions=inputs[1], mask=inputs[2]
            )[0]
        )
        self._read = jax.jit(functools.partial(_read, definition))
        static = ("max_new_tokens", "beams", "early_stopping")
        self._write = jax.jit(functools.partial(_write, definition), static_argnames=static)

    def __call__(self, tokens: Any, positions: Any | None = None, mask: Any | None = None) -> Array:
        """Logits [B T V] of the token after each place.

        Args:
            tokens: [B T] ids, or embeddings [B T E].
            positions: [B T]; by default the number of real tokens before each.
            mask: [B T], True (or 1) = real, attention is causal; or [B T T], query by key, True =
                may attend. By default all tokens are real.

        Raises:
            InputError: shapes that do not fit, or ids outside the vocabulary.
        """
        tokens = self._checked(tokens)
        if positions is not None and np.shape(positions) != tokens.shape[:2]:
            expected = tokens.shape[:2]
            raise InputError(f"positions have shape {np.shape(positions)}, expected {expected}")
        if mask is not None:
            mask = np.asarray(mask).astype(bool)
            square = (*tokens.shape[:2], tokens.shape[1])
            if mask.shape not in (tokens.shape[:2], square):
                raise InputError(
                    f"the mask has shape {mask.shape}, expected {tokens.shape[:2]} or {square}"
                )
        return self._forward(self.params, *self._placed(tokens, positions, mask))

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
        seed: int = 0,
    ) -> Generation:
        """Goes on from prompts.

        Args:
            prompts: B texts (each begins with the token for that, where the tokenizer has one), B
                lists of ids, or ids [B T].
            mask: [B T], with ids [B T]: True = real; padding stands on the left.
            soft: `(is_soft [B T] bool, vectors [B S E])`, with ids [B T]: the s-th place that is
                soft in a row holds vector s instead of a token (design.md, section 4).
            max_new_tokens: at most so many.
            temperature: 0 takes the most likely token; above, tokens are drawn.
            top_k, top_p: draw among the k most likely, or the most likely that make up p.
            beams: above 1, beam search with so many (`temperature` must be 0).
            length_penalty, early_stopping: of beam search, as Transformers defines them; see
                `recjax.generate.beam`.
            stop: ids that end a row; by default the model's own.
            processors: of `recjax.generate.processors` or `.constrained`.
            seed: of the draws; row b draws alike in every batch where it is row b.

        Raises:
            InputError: texts for a model without a tokenizer, an empty prompt, ids outside the
                vocabulary, padding that is not on the left.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens}: expected at least 1")
        if beams > 1 and temperature:
            raise InputError("beam search draws nothing: temperature must be 0")
        prompts, soft_rows = self._rows(prompts, mask, soft)
        stop = self.stop if stop is None else tuple(stop)
        start = _shared(prompts, soft_rows)
        prefix = self.prefix_cache(prompts[0][:start]) if start else None
        pad_id = 0 if self.tokenizer is None else self.tokenizer.pad_id
        rest = [row[start:] for row in prompts]
        sizes = _lengths(max(map(len, rest)))
        tokens, real = pad_left(rest, pad_id=pad_id, sizes=sizes)
        is_soft = None
        if soft_rows is not None:
            is_soft = pad_left([row[start:] for row in soft_rows], pad_id=0, sizes=sizes)[0] > 0
        sampler = None
        if temperature:
            top_p = None if top_p is None else jnp.float32(top_p)
            sampler = Sampler(jnp.float32(temperature), top_p, top_k)
        inputs = self._placed(tokens, real, is_soft, None if soft is None else soft[1])
        new = bucket(max_new_tokens, _lengths(max_new_tokens))
        written = self._write(
            self.params,
            prefix,
            *inputs,
            limit=max_new_tokens,
            stop=np.array(stop or (-1,), np.int32),
            pad_id=pad_id,
            sampler=sampler,
            keys=row_keys(jax.random.key(seed), jnp.arange(len(tokens))),
            processors=tuple(processors),
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_new_tokens=new,
            beams=beams,
        )
        return self._generation(written, max_new_tokens)

    def prefix_cache(self, tokens: Sequence[int]) -> KVCache:
        """What the model keeps of a beginning that rows share (`KVCache.start` makes the rows)."""
        name = tuple(int(token) for token in tokens)
        cache = self._prefixes.pop(name, None)
        if cache is None:
            cache = self._read(self.params, np.array([name], np.int32))
        self._prefixes[name] = cache  # the newest last
        while len(self._prefixes) > _KEPT:
            del self._prefixes[next(iter(self._prefixes))]
        return cache

    def _generation(self, written: Any, limit: int) -> Generation:
        tokens, lengths = np.asarray(written.tokens), np.asarray(written.lengths)
        scores = np.asarray(written.log_probs if isinstance(written, Generated) else written.scores)
        if isinstance(written, Generated):
            scores = scores[:, :limit]
        texts = None
        if self.tokenizer is not None:
            best = (tokens, lengths) if tokens.ndim == 2 else (tokens[:, 0], lengths[:, 0])
            texts = [self.tokenizer.decode(row[:n]) for row, n in zip(*best, strict=True)]
        return Generation(tokens[..., :limit], lengths, scores, texts)

    def _rows(
        self, prompts: Any, mask: Any, soft: tuple[Any, Any] | None
    ) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """Each prompt's ids, and which of them are soft, without padding."""
        if isinstance(prompts, str) or not len(prompts):
            raise InputError("prompts: expected a list of texts or of ids, at least one")
        if isinstance(prompts[0], str):
            if self.tokenizer is None:
                raise InputError("prompts as text need a tokenizer; this model came without one")
            prompts = self.tokenizer.encode_batch(prompts, bos=self.tokenizer.bos_id is not None)
        if mask is not None or soft is not None:
            prompts = self._checked(prompts)
        real = [np.ones(len(row), bool) for row in prompts]
        if mask is not None:
            real = list(np.asarray(mask).astype(bool))
            if np.shape(real) != prompts.shape:
                raise InputError(f"mask of shape {np.shape(mask)}, expected {prompts.shape}")
        for number, row in enumerate(real):
            if not row.any():
                raise InputError(f"prompt {number} is empty")
            if (np.diff(row.astype(np.int8)) < 0).any():
                raise InputError(
                    f"prompt {number} has padding after a token; it stands on the left"
                )
        rows = [
            self._checked(np.asarray(row)[None])[0][r] for row, r in zip(prompts, real, strict=True)
        ]
        if soft is None:
            return rows, None
        is_soft, vectors = (np.asarray(part) for part in soft)
        if is_soft.shape != prompts.shape or vectors.shape[::2] != (len(rows), self.config.dim):
            raise InputError(
                f"soft: shapes {is_soft.shape} and {vectors.shape}, expected {prompts.shape} and "
                f"[{len(rows)} S {self.config.dim}]"
            )
        marks = [row[r].astype(np.int32) for row, r in zip(is_soft.astype(bool), real, strict=True)]
        most = max(int(row.sum()) for row in marks)
        if most > vectors.shape[1]:
            raise InputError(f"soft: {most} places in a row, but {vectors.shape[1]} vectors")
        return rows, marks

    def _checked(self, tokens: Any) -> Any:
        """Ids as a host array [B T], all of them in the vocabulary; embeddings as they are."""
        if np.ndim(tokens) == 3:
            return tokens
        ids = np.asarray(tokens)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.size:
            raise InputError(
                f"tokens of type {ids.dtype} and shape {ids.shape}; expected integers [B T] or "
                "embeddings [B T E]"
            )
        low, high, size = ids.min(), ids.max(), self.config.vocab_size
        if low < 0 or high >= size:
            raise InputError(f"token {low if low < 0 else high}: expected ids from 0 to {size - 1}")
        return ids.astype(np.int32)

    def _placed(self, *arrays: Any) -> list[Any]:
        """Arrays [B ...] on the mesh, split over rows where they divide."""
        if self.mesh is None:
            return list(arrays)
        sharding = NamedSharding(self.mesh, PartitionSpec(RULES["batch"]))

        def put(array: Any) -> Any:
            if array is None:
                return None
            divides = array.shape[0] % data_size(self.mesh) == 0
            return jax.device_put(array, sharding if divides else replicated(self.mesh))

        return [put(array) for array in arrays]


def _shared(prompts: list[np.ndarray], soft: list[np.ndarray] | None) -> int:
    """How many tokens all prompts begin with: the length of a prefix worth keeping, or 0."""
    if len(prompts) < 2:
        return 0
    length = min(map(len, prompts)) - 1  # something must be left to read
    same = (np.stack([row[:length] for row in prompts]) == prompts[0][:length]).all(axis=0)
    if soft is not None:
        same &= ~np.stack([row[:length] for row in soft]).any(axis=0)
    count = length if same.all() else int(np.argmin(same))
    return count // _SHARED * _SHARED


def _lengths(longest: int) -> list[int]:
    """Powers of two and halves between, from 16 on: 16 24 32 48 64 ..."""
    top = max(4, math.ceil(math.log2(longest)))
    return sorted(size for k in range(4, top + 1) for size in (2**k, 3 * 2 ** (k - 1)))


def _read(definition: ModelDef, params: Params, tokens: Array) -> KVCache:
    """The prefix cache of tokens [1 P]."""
    model = definition.merge(params)
    return model.hidden(tokens, cache=model.empty_cache(1, tokens.shape[1]))[1].as_prefix()


def _write(
    definition: ModelDef,
    params: Params,
    prefix: KVCache | None,
    tokens: Array,
    real: Array,
    is_soft: Array | None,
    vectors: Array | None,
    *,
    limit: Array,
    stop: Array,
    pad_id: Array,
    sampler: Sampler | None,
    keys: Array,
    processors: tuple[Processor, ...],
    length_penalty: Array,
    early_stopping: bool | Literal["never"],
    max_new_tokens: int,
    beams: int,
) -> Any:
    """Prefill and decoding, one program."""
    model = definition.merge(params)
    rows, length = tokens.shape
    slots = length + max_new_tokens
    cache = model.empty_cache(rows, slots) if prefix is None else prefix.start(rows, slots)
    inputs = tokens
    if is_soft is not None:
        inputs = place_soft(model.embed(tokens), is_soft, vectors)
    h, cache = model.hidden(inputs, mask=real, cache=cache)
    logits = model.logits(h[:, -1])

    def step(tokens: Array, cache: KVCache) -> tuple[Array, KVCache]:
        logits, cache = model(tokens[:, None], cache=cache)
        return logits[:, 0], cache

    options: dict[str, Any] = {"limit": limit, "stop": stop, "pad_id": pad_id, "processors": processors}
    if beams == 1:
        return decode(
            step, logits, cache, max_new_tokens=max_new_tokens, sampler=sampler, keys=keys,
            **options,
        )  # fmt: skip
    return beam_search(
        step, logits, cache, KVCache.take, max_new_tokens=max_new_tokens, beams=beams,
        length_penalty=length_penalty, early_stopping=early_stopping, **options,
    )  # fmt: skip
