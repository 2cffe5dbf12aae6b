"""The programs that fill a form: options as a tree over tokens, place by place or all at once.

Letters: B rows, T tokens, A places, R options, P inner nodes (tokens that some option goes on
from), K children of a node.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.models.definition import ModelDef
from recjax.nn.backend import platform
from recjax.nn.cache import KVCache
from recjax.nn.masks import make_mask
from recjax.scoring.form_tokens import FormTokens
from recjax.typing import Array, Params

# Layers times places up to which a CPU's program spells out the places, each as long as its words:
# there the padding of a loop costs time. Larger ones take too long to compile.
_UNROLLED = 40
_OUT = -1e30  # a logit of what is not allowed; finite, so that 0 * it is 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tree:
    """The options as a tree over tokens; node 0 is the root, the P others are `inner`.

    Attributes:
        children: [1+P K] tokens, 0 where there are fewer.
        real: [1+P K+1] bool, children there are; the last column: the node is itself an option.
        target: [1+P K+1], the option there, or -1 - n for node n.
        path: [R 1+P K+1] bool, the edges of each option.
        after: [A C] tokens that may follow the choice at each place, -1 = none.
        depth: most edges of a path.
    """

    children: Array
    real: Array
    target: Array
    path: Array
    after: Array
    depth: int = dataclasses.field(metadata={"static": True})


def tree_of(form: FormTokens, after: list[list[int]]) -> Tree:
    """A form's options as a tree, and the tokens that may follow the choice at each place."""
    options = form.options
    place = {tuple(option): r for r, option in enumerate(options)}
    nodes: list[tuple[int, ...]] = [(), *form.inner]
    number = {node: n for n, node in enumerate(nodes)}
    children = [form.following(node) for node in nodes]
    width = max(map(len, children))
    tokens = np.zeros((len(nodes), width), np.int32)
    real = np.zeros((len(nodes), width + 1), bool)
    target = np.zeros((len(nodes), width + 1), np.int32)
    path = np.zeros((len(options), len(nodes), width + 1), bool)
    for n, node in enumerate(nodes):
        for k, token in enumerate(children[n]):
            tokens[n, k], real[n, k] = token, True
            below = (*node, token)
            target[n, k] = -1 - number[below] if below in number else place[below]
        if node in place:
            real[n, width], target[n, width] = True, place[node]
    for r, option in enumerate(options):
        for depth, token in enumerate(option):
            n = number[tuple(option[:depth])]
            path[r, n, children[n].index(token)] = True
        if tuple(option) in number:
            path[r, number[tuple(option)], width] = True
    ends = np.full((len(after), max(map(len, after))), -1, np.int32)
    for a, some in enumerate(after):
        ends[a, : len(some)] = some
    depth = max(map(len, options)) + 1
    return Tree(tokens, real, target, path, ends, depth)  # type: ignore[arg-type]


def _options(tree: Tree, logits: Array, after: Array, temperature: Array) -> tuple[Array, Array]:
    """Log-probabilities [B R] of the options, and the greedy one [B], from logits [B 1+P V] at the
    nodes and the tokens [C] that may follow."""
    logits = logits.astype(jnp.float32) / jnp.where(temperature > 0, temperature, 1.0)
    nodes = jnp.arange(tree.children.shape[0])[:, None]
    scores = logits[:, nodes, tree.children]  # [B 1+P K]
    ends = jnp.where(after >= 0, logits[..., jnp.maximum(after, 0)], _OUT)  # [B 1+P C]

    def joined(end: Array) -> Array:
        all_of_them = jnp.concatenate([scores, end[..., None]], axis=-1)
        return jnp.where(tree.real, all_of_them, _OUT)

    local = jax.nn.log_softmax(joined(jax.nn.logsumexp(ends, axis=-1)), axis=-1)
    log_probs = jnp.where(tree.path, local[:, None], 0.0).sum((-2, -1))
    best = jnp.take_along_axis(
        jnp.broadcast_to(tree.target, (len(logits), *tree.target.shape)),
        joined(ends.max(-1)).argmax(-1)[..., None],
        axis=-1,
    )[..., 0]  # [B 1+P], where each node leads
    at = best[:, 0]
    for _ in range(tree.depth - 1):
        further = jnp.take_along_axis(best, jnp.maximum(-1 - at, 0)[:, None], axis=1)[:, 0]
        at = jnp.where(at < 0, further, at)
    return log_probs, at


def _choose(
    tree: Tree, logits: Array, after: Array, temperature: Array, keys: Array, place: Array | int
) -> tuple[Array, Array]:
    """The choices [B] at a place, and the log-probabilities [B R]."""
    log_probs, best = _options(tree, logits, after, temperature)

    def draw() -> Array:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        return jax.vmap(jax.random.categorical)(own, log_probs).astype(jnp.int32)

    return jax.lax.cond(temperature > 0, draw, lambda: best.astype(jnp.int32)), log_probs


def chain(
    definition: ModelDef,
    form: FormTokens,
    params: Params,
    tree: Tree,
    prefix: KVCache | None,
    tokens: Array,
    real: Array,
    keys: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """Place by place behind the prompts."""
    model = definition.merge(params).for_decoding()
    rows, length = tokens.shape
    room = length + form.slots
    cache = model.empty_cache(rows, room) if prefix is None else prefix.start(rows, room)
    first = jnp.broadcast_to(jnp.array(form.words[0], jnp.int32), (rows, len(form.words[0])))
    begun = jnp.concatenate([tokens, first], axis=1)
    real = jnp.concatenate([real, jnp.ones_like(first, bool)], axis=1)
    return fill(model, form, tree, cache, begun, real, keys, temperature)


def next_words(form: FormTokens) -> tuple[np.ndarray, np.ndarray]:
    """The tokens after a choice, by its place and the option: [A-1 R width], padded on the
    left, and which of them are real."""
    table = np.zeros((len(form.words) - 1, len(form.options), form.width), np.int32)
    used = np.zeros(table.shape, bool)
    for a, word in enumerate(form.words[1:]):
        for r, option in enumerate(form.options):
            first = form.width - len(option) - len(word)
            table[a, r, first:], used[a, r, first:] = [*option, *word], True
    return table, used


def fill(
    model: Any,
    form: FormTokens,
    tree: Tree,
    cache: KVCache,
    begun: Array,
    real: Array,
    keys: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """Place by place: what was chosen and the next words are read in one call.

    Args:
        model: prepared for decoding.
        form, tree: what is filled.
        cache: with room for `form.slots` tokens a row; it may hold prompts already.
        begun: [B n] tokens that end with the first words.
        real: [B n] bool.
        keys: [B] of the draws.
        temperature: [] float; 0 draws nothing.

    Returns:
        What was chosen [B A], and the log-probabilities [B A R].
    """
    rows, words, inner = len(begun), form.words, form.inner
    probe = inner[0] if inner else ()

    def read(cache: KVCache, inputs: Array, real: Array) -> tuple[KVCache, Array]:
        """The cache after inputs [B n], and logits [B 1+P V] after them and at the inner nodes."""

        def call(cache: KVCache, inputs: Array, real: Array, places: Any) -> tuple[Array, KVCache]:
            at = jnp.broadcast_to(jnp.array(places), (rows, len(places)))
            h, cache = model.hidden(inputs, mask=real, cache=cache, places=at)
            return model.logits(h), cache

        def back(after: KVCache, to: Array, tokens: int) -> KVCache:
            """Without the last tokens: the next call writes over them."""
            return dataclasses.replace(after, length=after.length - tokens, position=to)

        count, position = inputs.shape[1], cache.position + real.sum(-1, dtype=jnp.int32)
        more = jnp.broadcast_to(jnp.array(probe, jnp.int32), (rows, len(probe)))
        places = [count - 1, count + len(probe) - 1] if probe else [count - 1]
        both = jnp.concatenate([real, jnp.ones_like(more, bool)], axis=1)
        logits, cache = call(cache, jnp.concatenate([inputs, more], axis=1), both, places)
        cache, found = back(cache, position, len(probe)), [logits]
        for node in inner[1:]:
            more = jnp.broadcast_to(jnp.array(node, jnp.int32), (rows, len(node)))
            logits, cache = call(cache, more, jnp.ones_like(more, bool), [len(node) - 1])
            cache = back(cache, position, len(node))
            found.append(logits)
        return cache, jnp.concatenate(found, axis=1)

    cache, logits = read(cache, begun, real)
    chosen, log_probs = _choose(tree, logits, tree.after[0], temperature, keys, 0)
    if len(words) == 1:
        return chosen[:, None], log_probs[:, None]
    table, used = next_words(form)

    def step(carry: tuple[KVCache, Array], at: tuple) -> tuple[Any, Any]:
        (cache, chosen), (table, used, after, place) = carry, at
        cache, logits = read(cache, table[chosen], used[chosen])
        chosen, log_probs = _choose(tree, logits, after, temperature, keys, place)
        return (cache, chosen), (chosen, log_probs)

    inputs = (jnp.array(table), jnp.array(used), tree.after[1:], jnp.arange(1, len(words)))
    if platform() == "cpu" and model.config.layers * len(words) <= _UNROLLED:
        carry, each = (cache, chosen), []
        for a, word in enumerate(words[1:]):
            own = max(map(len, form.options)) + len(word)
            table_a, used_a, *rest = (array[a] for array in inputs)
            carry, found = step(carry, (table_a[:, -own:], used_a[:, -own:], *rest))
            each.append(found)
        later: Any = [jnp.stack(some) for some in zip(*each, strict=True)]
    else:
        _, later = jax.lax.scan(step, (cache, chosen), inputs)
    return (
        jnp.concatenate([chosen[:, None], later[0].T], axis=1),
        jnp.concatenate([log_probs[:, None], later[1].swapaxes(0, 1)], axis=1),
    )


def apart(
    definition: ModelDef,
    form: FormTokens,
    params: Params,
    tree: Tree,
    prefix: KVCache | None,
    tokens: Array,
    real: Array,
    keys: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """All places in one pass: the words of each stand behind the prompt, and see no other's."""
    model = definition.merge(params)
    words, inner = form.words, form.inner
    rows, length = tokens.shape
    tail: list[int] = []
    within: list[int] = []
    segments, places = [], []
    for a, word in enumerate(words):
        # The words once for each inner node: nodes do not see each other.
        for copy, node in enumerate(inner or [()]):
            if not copy:
                places.append(length + len(tail) + len(word) - 1)
            tail += [*word, *node]
            within += range(len(word) + len(node))
            segments += [1 + a * max(1, len(inner)) + copy] * (len(word) + len(node))
            if node:
                places.append(length + len(tail) - 1)
    more = jnp.broadcast_to(jnp.array(tail, jnp.int32), (rows, len(tail)))
    both = jnp.concatenate([real, jnp.ones_like(more, bool)], axis=1)
    count = real.sum(-1, dtype=jnp.int32)[:, None]
    positions = jnp.concatenate(
        [jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0), count + jnp.array(within)], axis=1
    )
    positions += 0 if prefix is None else prefix.prefix_length
    segment = jnp.array([0] * length + segments)
    mask = make_mask(both, 1, jnp.broadcast_to(segment, both.shape))
    h, _ = model.hidden(
        jnp.concatenate([tokens, more], axis=1),
        positions=positions,
        mask=mask,
        prefix=prefix,
        places=jnp.broadcast_to(jnp.array(places), (rows, len(places))),
    )
    logits = model.logits(h).reshape(rows, len(words), 1 + len(inner), -1)
    chosen, log_probs = zip(
        *(
            _choose(tree, logits[:, a], tree.after[a], temperature, keys, a)
            for a in range(len(words))
        ),
        strict=True,
    )
    return jnp.stack(chosen, axis=1), jnp.stack(log_probs, axis=1)
