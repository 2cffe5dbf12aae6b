"""A second family of language models, for tests: small, and unlike the shipped one.

After GLM (Du et al. 2022). A prompt is read both ways, and the tokens after it are causal.
Positions are [B 2 T]: row 0 counts the prompt and stays at its last token, row 1 counts the tokens
that were written. Half of each head is rotated by either. Its cache is its own, and no beginning
can be shared.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.config import build, to_plain
from recjax.convert.mapping import TRANSPOSE, Rule
from recjax.models.language import Family, LanguageConfig, LanguageModule
from recjax.nn.attention import attend
from recjax.nn.cache import written
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.masks import make_mask
from recjax.nn.norms import RMSNorm
from recjax.nn.positions import rope_angles, rope_frequencies, rotate
from recjax.typing import Array

FAMILY = Family(
    "two_way",
    "recjax.testing.two_way:TwoWay",
    "recjax.testing.two_way",
    model_types=("two_way",),
    lora_targets=("layers/(query|value)",),
)
MAPS = ("query", "key", "value", "out", "up", "down")


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
    """The sizes; a head has parts for both rows of positions."""


PRESETS = {"two-way-tiny": Config(vocab_size=300, dim=16, mlp_dim=24, layers=2, head_dim=8)}
PARAM_AXES = lora_axes(
    (
        (r"embedding", ("vocab", "embed")),
        (r"layers/(query|key|value|up)/kernel", (None, "embed", None)),
        (r"layers/(out|down)/kernel", (None, None, "embed")),
        (r"head/kernel", ("embed", "vocab")),
        (r".*/scale", (None,)),
    )
)
RULES = (
    Rule("embedding", "embedding"),
    *(Rule(f"{{layer}}.{name}.weight", f"layers/{name}/kernel", TRANSPOSE) for name in MAPS),
    *(Rule(f"{{layer}}.{name}.weight", f"layers/{name}/scale") for name in ("norm", "mlp_norm")),
    Rule("norm.weight", "final_norm/scale"),
    Rule("head.weight", "head/kernel", TRANSPOSE),
)  # fmt: skip


def read_config(attributes: Mapping[str, Any], where: str) -> Config:
    """The config of a `config.json`."""
    fields = {field.name for field in dataclasses.fields(Config)}
    return build(Config, {k: v for k, v in attributes.items() if k in fields}, where)


def write_config(config: Config, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
    """The attributes of a `config.json`."""
    return {**(base or {}), "model_type": FAMILY.name, "dtype": dtype, **to_plain(config)}


def tidy(state: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """All tensors."""
    del config
    return dict(state)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """`keys` and `values` [layers B K M H], `valid` [B M], `position` [B 2], `length` []."""

    keys: Array
    values: Array
    valid: Array
    position: Array
    length: Array

    def take(self, rows: Array) -> "Cache":
        """The cache of other rows."""
        keys, values = self.keys[:, rows], self.values[:, rows]
        return Cache(keys, values, self.valid[rows], self.position[rows], self.length)

    def grow(self, slots: int) -> "Cache":
        """The cache with room for `slots` tokens a row."""
        new = (0, slots - self.valid.shape[1])
        pads = ((0, 0), (0, 0), (0, 0), new, (0, 0))
        keys, values = jnp.pad(self.keys, pads), jnp.pad(self.values, pads)
        return Cache(keys, values, jnp.pad(self.valid, ((0, 0), new)), self.position, self.length)


class Layer(nnx.Module):
    """Attention and a feed-forward network, with parameters stacked over layers."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any):
        init, stack = nnx.initializers.normal(config.init_std), (config.layers,)
        options = {"init": init, "rngs": rngs, "dtype": dtype, "stack": stack}
        self.heads, self.kv_heads = config.heads, config.kv_heads
        width, narrow = (n * config.head_dim for n in (config.heads, config.kv_heads))
        self.query = Linear(config.dim, width, **options)
        self.key = Linear(config.dim, narrow, **options)
        self.value = Linear(config.dim, narrow, **options)
        self.up = Linear(config.dim, config.mlp_dim, **options)
        self.out = Linear(width, config.dim, **options)
        self.down = Linear(config.mlp_dim, config.dim, **options)
        self.norm, self.mlp_norm = (
            RMSNorm(config.dim, 1e-5, dtype=dtype, stack=stack) for _ in range(2)
        )

    def __call__(self, x: Array, angles: list, mask: Array, before: Any, slot: Any) -> Any:
        """x [B T E] after the layer, and its keys and values with those of `before` the slot."""

        def split(y: Array, heads: int) -> Array:
            return jnp.moveaxis(y.reshape(*y.shape[:2], heads, -1), 1, 2)

        def turned(y: Array) -> Array:
            halves = zip(jnp.split(y, 2, axis=-1), angles, strict=True)
            return jnp.concatenate([rotate(half, angle) for half, angle in halves], axis=-1)

        h = self.norm(x)
        q = turned(split(self.query(h), self.heads))
        k, v = turned(split(self.key(h), self.kv_heads)), split(self.value(h), self.kv_heads)
        if before is not None:
            k, v = written(before, (k, v), slot)
        mixed = jnp.moveaxis(attend(q, k, v, mask), 1, 2)
        x = x + self.out(mixed.reshape(*x.shape[:2], -1))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x)))), (k, v)


class TwoWay(LanguageModule):
    """See the module."""

    position_rows = 2

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.dim), dtype))
        self.layers = Layer(config, rngs=rngs, dtype=dtype)
        self.final_norm = RMSNorm(config.dim, 1e-5, dtype=dtype)
        head = {"init": init, "rngs": rngs, "dtype": dtype}
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, **head)

    def empty_cache(self, rows: int, slots: int) -> Cache:
        config = self.config
        shape = (config.layers, rows, config.kv_heads, slots, config.head_dim)
        empty = jnp.zeros(shape, self.embedding.dtype)
        valid, position = jnp.zeros((rows, slots), bool), jnp.zeros((rows, 2), jnp.int32)
        return Cache(empty, empty, valid, position, jnp.zeros((), jnp.int32))

    def reading(
        self, segments: Array, written: Array | None = None, within: Array | None = None
    ) -> dict[str, Array]:
        plain = super().reading(segments, within=within)["positions"]
        written = jnp.zeros(segments.shape, bool) if written is None else written.astype(bool)
        count = jnp.cumsum(written, axis=-1)
        before = jax.lax.cummax(jnp.where(plain == 0, count - written, 0), axis=1)
        count = jnp.where(written, count - before, 0)
        mask = make_mask(segments > 0, written, segments)
        return {"positions": jnp.stack([plain - count, count], axis=1), "mask": mask}

    def hidden(
        self, inputs, *, positions=None, mask=None, cache=None, prefix=None, key=None, places=None
    ) -> tuple[Array, Cache | None]:
        if prefix is not None or key is not None:
            raise ValueError("no shared prefix and no dropout in this family")
        x = self.embed(inputs) if inputs.ndim == 2 else inputs
        real = jnp.ones(x.shape[:2], bool) if mask is None or mask.ndim == 3 else mask.astype(bool)
        after, slot = None, None
        befores: list[Any] = [None] * self.config.layers
        if cache is not None:
            positions, after, mask = self._goes_on(cache, real, positions)
            slot, befores = cache.length, list(zip(cache.keys, cache.values, strict=True))
        elif positions is None:
            positions = self.reading(real)["positions"]
        if positions.ndim != 3:
            raise ValueError(f"positions of shape {positions.shape}; expected [B 2 T]")
        if mask is None or mask.ndim == 2:
            mask = make_mask(real, positions[:, 1] > 0)
        frequencies = rope_frequencies(self.config.head_dim // 2, 10000.0)
        angles = [rope_angles(positions[:, row], frequencies) for row in range(2)]
        graph, stacked = nnx.split(self.layers)
        kept = []
        for n, before in enumerate(befores):
            layer = nnx.merge(graph, jax.tree.map(lambda a, n=n: a[n], stacked))
            x, kv = layer(x, angles, mask, before, slot)
            kept.append(kv)
        if after is not None:
            keys, values = (jnp.stack(some) for some in zip(*kept, strict=True))
            after = dataclasses.replace(after, keys=keys, values=values)
        h = self.final_norm(x)
        return h if places is None else jnp.take_along_axis(h, places[..., None], axis=1), after

    def _goes_on(self, cache: Cache, real: Array, positions: Array | None) -> Any:
        """Positions, the cache after these tokens (but keys and values), and the mask."""
        length, first, count = real.shape[1], cache.length == 0, jnp.cumsum(real, axis=-1)
        within = jnp.maximum(count - 1, 0)
        prompt = jnp.stack([within, jnp.zeros_like(within)], axis=1)
        step = jnp.stack([jnp.zeros_like(within), within], axis=1)
        if positions is None:
            positions = jnp.where(first, prompt, cache.position[..., None] + step)
        total = count[:, -1]
        end = jnp.stack([total - 1, jnp.ones_like(total)], axis=-1)
        later = cache.position + jnp.stack([0 * total, total], axis=-1)
        position = jnp.where(first, end, later).astype(jnp.int32)
        valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, real, cache.length, axis=1)
        after = Cache(cache.keys, cache.values, valid, position, cache.length + length)
        slots = jnp.arange(valid.shape[1])[None, :]
        places = cache.length + jnp.arange(length)[:, None]
        seen = jnp.where(first, slots < length, slots <= places)
        return positions, after, valid[:, None] & seen[None]
