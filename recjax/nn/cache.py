"""The cache of a language model: keys and values of the tokens that it has read."""

import dataclasses

import jax
import jax.numpy as jnp

from recjax.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """M slots a row, filled from the left; the layers apart, so that each is updated in place.

    All rows write the same slot at the same time: rows of different lengths are padded on the left
    and `valid` says which slots hold a token. A prompt that all rows begin with is kept once, as
    `prefix_keys` and `prefix_values`, and is read by all of them as one matrix. So is the prompt of
    a group of rows, such as the beams of one text; groups are of equal size, one after the other.

    Attributes:
        keys, values: a [B K M H] each layer.
        valid: [B M] bool, slots that may be attended to.
        position: [B] int32, position of the next token; [B 2] in models with two rows of positions.
        length: [] int32, slots in use.
        prefix_keys, prefix_values: a [K P H] each layer, or [G K P H] for groups of rows, or none.
        prefix_valid: [G P] bool, which slots of the groups' prefixes hold a token; else None.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    valid: Array
    position: Array
    length: Array
    prefix_keys: tuple[Array, ...] = ()
    prefix_values: tuple[Array, ...] = ()
    prefix_valid: Array | None = None

    @property
    def prefix_length(self) -> int:
        """P."""
        return self.prefix_keys[0].shape[-2] if self.prefix_keys else 0

    def take(self, rows: Array) -> "KVCache":
        """The cache of other rows, e.g. of a beam's survivors: row b is the old row `rows[b]`.

        Where groups of rows have prefixes, it must be of the same group.
        """
        keys, values = (tuple(a[rows] for a in arrays) for arrays in (self.keys, self.values))
        valid, position = self.valid[rows], self.position[rows]
        return dataclasses.replace(self, keys=keys, values=values, valid=valid, position=position)

    def grow(self, slots: int) -> "KVCache":
        """The cache with room for `slots` tokens a row, M or more."""
        new = slots - self.valid.shape[1]

        def widen(a: Array) -> Array:
            return jnp.pad(a, ((0, 0), (0, 0), (0, new), (0, 0)))

        keys, values = (tuple(widen(a) for a in arrays) for arrays in (self.keys, self.values))
        valid = jnp.pad(self.valid, ((0, 0), (0, new)))
        return dataclasses.replace(self, keys=keys, values=values, valid=valid)

    def as_prefix(self) -> "KVCache":
        """Row 0, all of its slots full, as a prefix; `start` makes the rows."""
        if self.prefix_keys:
            raise ValueError("the cache has a prefix already")
        keys, values = (tuple(a[0] for a in arrays) for arrays in (self.keys, self.values))
        return dataclasses.replace(self, prefix_keys=keys, prefix_values=values).start(1, 0)

    def spread(self, each: int, slots: int) -> "KVCache":
        """Empty rows, `each` for every row here, with what that row holds as their prefix.

        Args:
            each: rows a group.
            slots: M, how many tokens may follow.
        """
        if self.prefix_keys:
            raise ValueError("the cache has a prefix already")
        rows, kv_heads, _, head_dim = self.keys[0].shape
        layers, dtype = len(self.keys), self.keys[0].dtype
        return dataclasses.replace(
            empty_cache(layers, rows * each, slots, kv_heads, head_dim, dtype),
            position=jnp.repeat(self.position, each, axis=0),
            prefix_keys=self.keys,
            prefix_values=self.values,
            prefix_valid=self.valid,
        )

    def prefixes(self) -> list[tuple[Array, ...] | None]:
        """Keys and values that `attend` reads first, layer by layer."""
        if not self.prefix_keys:
            return [None] * len(self.keys)
        pairs = zip(self.prefix_keys, self.prefix_values, strict=True)
        if self.prefix_valid is None:
            return list(pairs)
        return [(*pair, self.prefix_valid) for pair in pairs]

    def start(self, rows: int, slots: int) -> "KVCache":
        """An empty cache of this prefix.

        Args:
            rows: B.
            slots: M, how many tokens may follow the prefix.
        """
        kv_heads, _, head_dim = self.prefix_keys[0].shape
        layers, dtype = len(self.prefix_keys), self.prefix_keys[0].dtype
        empty = empty_cache(layers, rows, slots, kv_heads, head_dim, dtype)
        return dataclasses.replace(
            empty,
            position=empty.position + self.prefix_length,
            prefix_keys=self.prefix_keys,
            prefix_values=self.prefix_values,
        )

    def advance(self, real: Array, position: Array | None = None) -> "KVCache":
        """Takes the next T slots of every row for tokens of which `real` [B T] are no padding.

        Args:
            real: [B T] bool.
            position: of the next token; by default one more for every real token.

        Raises:
            ValueError: fewer than T slots are left, where `length` is known outside of `jit`; under
                it the last slots are written over.
        """
        slots = self.valid.shape[1]
        if not isinstance(self.length, jax.core.Tracer) and self.length + real.shape[1] > slots:
            raise ValueError(
                f"cache: {int(self.length)} of {slots} slots are taken; expected room for "
                f"{real.shape[1]} more"
            )
        if position is None:
            position = self.position + real.sum(axis=-1, dtype=jnp.int32)
        valid = jax.lax.dynamic_update_slice_in_dim(self.valid, real, self.length, axis=1)
        return dataclasses.replace(
            self,
            valid=valid,
            position=position,
            length=self.length + real.shape[1],
        )

    def with_layers(self, keys: tuple[Array, ...], values: tuple[Array, ...]) -> "KVCache":
        """This cache with other keys and values, a [B K M H] each layer."""
        return dataclasses.replace(self, keys=keys, values=values)


def written(cached: tuple[Array, Array], new: tuple[Array, Array], slot: Array | int) -> tuple:
    """A layer's keys and values [B K M H] with those of T tokens, [B K T H], from `slot` on."""
    put = jax.lax.dynamic_update_slice_in_dim
    return tuple(put(a, b, slot, axis=2) for a, b in zip(cached, new, strict=True))


def empty_cache(layers: int, rows: int, slots: int, kv_heads: int, head_dim: int, dtype) -> KVCache:
    """A cache of [layers] x [rows kv_heads slots head_dim] without a prefix."""
    empty = tuple(jnp.zeros((rows, kv_heads, slots, head_dim), dtype) for _ in range(layers))
    return KVCache(
        keys=empty,
        values=empty,
        valid=jnp.zeros((rows, slots), bool),
        position=jnp.zeros((rows,), jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )


def behind(
    prefix: tuple[Array, ...], k: Array, v: Array, mask: Array | None
) -> tuple[Array, Array, Array | None]:
    """Keys and values [B K P+M H] and mask [B T P+M]: a prefix (see `attention.attend`), then k and
    v [B K M H], of which `mask` [B T M] says what is seen."""

    def joined(first: Array, a: Array) -> Array:
        if first.ndim == 4:
            copies = jnp.repeat(first, len(a) // len(first), axis=0)
        else:
            copies = jnp.broadcast_to(first, (len(a), *first.shape))
        return jnp.concatenate([copies.astype(a.dtype), a], axis=2)

    k, v = joined(prefix[0], k), joined(prefix[1], v)
    if mask is not None and len(prefix) == 3:
        seen = jnp.repeat(prefix[2], len(mask) // len(prefix[2]), axis=0)[:, None]
        seen = jnp.broadcast_to(seen, (*mask.shape[:2], seen.shape[-1]))
        mask = jnp.concatenate([seen, mask], axis=-1)
    elif mask is not None:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (prefix[0].shape[1], 0)), constant_values=True)
    return k, v, mask
