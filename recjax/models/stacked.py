"""Language models whose layers are one stack: every parameter has a leading layer axis."""

from collections.abc import Callable
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.language import LanguageModule
from recjax.nn import backend
from recjax.nn.cache import KVCache
from recjax.nn.places import rows_at
from recjax.typing import Array

Pair = tuple[Array, Array]  # keys and values
# (one layer, states, its prefix, its cache, places) -> (states, its cache with these tokens in it)
CachedLayer = Callable[[Any, Array, Any, Pair, Array | None], tuple[Array, Pair]]


class StackedLayers(nnx.Module):
    """All layers. A slice of it is one layer."""

    def at(self, n: int | slice) -> Self:
        """Layer n alone; of a slice, those layers."""
        graph, stacked = nnx.split(self)
        return nnx.merge(graph, jax.tree.map(lambda a: a[n], stacked))


class StackedModel(LanguageModule):
    """A language model over `StackedLayers`.

    Attributes:
        layers: the stack.
    """

    layers: Any
    _apart: Any = ()  # of `for_decoding`

    def for_decoding(self) -> Self:
        """This model with its layers taken apart once: for cached calls inside a loop.

        A step of the loop would copy each layer out of the stack otherwise. The copies need as much
        memory as the layers, as long as the program runs.
        """
        self._apart = nnx.data(self.one_by_one())
        return self

    def one_by_one(self) -> list[Any]:
        """The layers, each alone."""
        return [self.layers.at(n) for n in range(self.config.layers)]

    def cached_layers(
        self, layer: CachedLayer, x: Array, cache: KVCache, places: Array | None = None
    ) -> tuple[Array, KVCache]:
        """All layers of a cached call.

        Calls of one token, and all calls on a CPU, go layer by layer, so that each cache is written
        in place. On other devices calls of many tokens scan the layers: unrolled, a large model
        takes minutes to compile.

        Args:
            layer: a layer's part of the call.
            x: [B T E].
            cache: before the call.
            places: [B Q], where states are wanted; by default everywhere.

        Returns:
            [B T E] or [B Q E], and `cache` with the layers' new keys and values.
        """
        remat = self.config.remat  # a policy's gradient goes through cached calls

        def run(module: Any, *rest: Any) -> tuple[Array, Pair]:
            if remat == "none":
                return layer(module, *rest)
            graph, params = nnx.split(module)
            return recomputed(lambda params, *rest: layer(nnx.merge(graph, params), *rest), remat)(
                params, *rest
            )

        caches: list[Any] = list(zip(cache.keys, cache.values, strict=True))
        prefixes: list[Any] = cache.prefixes()
        if x.shape[1] > 1 and backend.platform(self.embedding[...]) != "cpu":
            graph, stacked = nnx.split(self.layers)
            stacked_inputs = (
                jax.tree.map(lambda *a: jnp.stack(a), *layers_inputs)
                for layers_inputs in (prefixes, caches)
            )

            def scanned(x: Array, inputs: tuple) -> tuple[Array, Pair]:
                return run(nnx.merge(graph, inputs[0]), x, inputs[1], inputs[2], None)

            x, (all_keys, all_values) = jax.lax.scan(scanned, x, (stacked, *stacked_inputs))
            x, keys, values = rows_at(x, places), tuple(all_keys), tuple(all_values)
        else:
            last = len(caches) - 1
            for n, layer_n in enumerate(self._apart or self.one_by_one()):
                x, caches[n] = run(
                    layer_n, x, prefixes[n], caches[n], places if n == last else None
                )
            keys, values = zip(*caches, strict=True)
        return x, cache.with_layers(keys, values)


def recomputed(layer: Callable[..., Any], remat: Literal["none", "dots", "full"]) -> Any:
    """A layer whose backward pass recomputes what `LanguageConfig.remat` says."""
    if remat == "none":
        return layer
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(layer, policy=policy if remat == "dots" else None)
