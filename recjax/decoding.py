"""The programs of a language model: logits, a beginning that is read, and the writing after it."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from recjax.evaluation.shards import by_rows
from recjax.generate.beam import beam_search
from recjax.generate.loop import decode
from recjax.generate.processors import Processor
from recjax.generate.sampling import Sampler
from recjax.models.definition import ModelDef
from recjax.nn.backend import platform
from recjax.nn.cache import KVCache
from recjax.nn.soft import place_soft
from recjax.typing import Array, Params


class Programs(NamedTuple):
    """Jitted functions.

    Attributes:
        forward: `(params, tokens, positions, mask, **encoder) -> logits [B T V]`.
        read: `read_prefix`, of (params, tokens).
        write: `write_tokens`, of (whole, rows): its arguments by name, those of all rows and those
            of each, which are split by `sharding` (`recjax.evaluation.shards.by_rows`).
    """

    forward: Callable[..., Array]
    read: Callable[..., KVCache]
    write: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def programs(definition: ModelDef) -> Programs:
    """The programs of a model, which all language models over its definition share.

    So nothing is compiled again where a run writes with other parameters.
    """

    def forward(params: Params, tokens: Array, positions: Any, mask: Any, **encoder: Any) -> Array:
        return definition.merge(params)(tokens, positions=positions, mask=mask, **encoder)[0]

    def write(whole: Any, rows: Any, sharding: NamedSharding | None, **static: Any) -> Any:
        function = functools.partial(write_tokens, definition, **static)
        return by_rows(function, sharding, whole, rows)

    static = ("sharding", "max_new_tokens", "beams", "early_stopping")
    return Programs(
        jax.jit(forward),
        jax.jit(functools.partial(read_prefix, definition)),
        jax.jit(write, static_argnames=static),
    )


def read_prefix(definition: ModelDef, params: Params, tokens: Array) -> KVCache:
    """The prefix cache of tokens [1 P]."""
    model = definition.merge(params)
    return model.hidden(tokens, cache=model.empty_cache(1, tokens.shape[1]))[1].as_prefix()


def write_tokens(
    definition: ModelDef,
    *,
    params: Params,
    prefix: KVCache | None,
    tokens: Array,
    real: Array,
    is_soft: Array | None,
    vectors: Array | None,
    keys: Array,
    encoder: dict[str, Array],
    limit: Array,
    stop: Array,
    pad_id: Array,
    sampler: Sampler | None,
    processors: tuple[Processor, ...],
    length_penalty: Array,
    early_stopping: bool | Literal["never"],
    max_new_tokens: int,
    beams: int,
) -> Any:
    """Prefill and decoding, one program.

    Args:
        definition: of the model; static.
        params: its parameters.
        prefix: of all rows, or None.
        tokens, real: [B S].
        is_soft, vectors: [B S] and [B S E], or None: see `LanguageModel.generate`.
        keys: [B].
        encoder: the encoder's inputs, in a family that has one.
        limit, stop, pad_id, sampler, processors, length_penalty, early_stopping, max_new_tokens,
            beams: of `decode` and `beam_search`; the last three are static.

    Returns:
        `Generated` of one beam, else `Beams`.
    """
    model = definition.merge(params).for_decoding()
    rows, length = tokens.shape
    cache = model.empty_cache(rows, length) if prefix is None else prefix.start(rows, length)
    inputs = tokens
    if is_soft is not None and vectors is not None:
        inputs = place_soft(model.embed(tokens), is_soft, vectors)
    newest = jnp.full((rows, 1), length - 1)
    h, cache = model.hidden(inputs, mask=real, cache=cache, places=newest, **encoder)
    logits = model.logits(h[:, 0])

    def step(tokens: Array, cache: KVCache) -> tuple[Array, KVCache]:
        logits, cache = model(tokens[:, None], cache=cache)
        return logits[:, 0], cache

    options: dict[str, Any] = {
        "limit": limit,
        "stop": stop,
        "pad_id": pad_id,
        "processors": processors,
    }

    def fit(cache: KVCache, rows: Array | None, new: int) -> KVCache:
        return (cache if rows is None else cache.take(rows)).grow(length + new)

    in_stages = beams == 1 and platform() == "cpu"
    if not in_stages:
        cache = fit(cache, None, max_new_tokens)
    if beams == 1:
        return decode(
            step, logits, cache, max_new_tokens=max_new_tokens, sampler=sampler, keys=keys,
            fit=fit if in_stages else None, **options,
        )  # fmt: skip
    return beam_search(
        step, logits, cache, lambda kept, rows: kept.take(rows),
        max_new_tokens=max_new_tokens, beams=beams, length_penalty=length_penalty,
        early_stopping=early_stopping, **options,
    )  # fmt: skip
