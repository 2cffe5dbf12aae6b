"""The programs that fill a form: options as a tree over tokens, place by place or all at once.

Letters: B rows, T tokens, A places, R options, P inner nodes (tokens that some option goes on
from), K children of a node.
"""

import dataclasses
from collections.abc import Sequence
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
FORBIDDEN = -1e30  # a logit; finite, so that 0 * it is 0


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
    option_number = {tuple(option): r for r, option in enumerate(options)}
    nodes: list[tuple[int, ...]] = [(), *form.inner]
    node_number = {node: n for n, node in enumerate(nodes)}
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
            target[n, k] = -1 - node_number[below] if below in node_number else option_number[below]
        if node in option_number:
            real[n, width], target[n, width] = True, option_number[node]
    for r, option in enumerate(options):
        for depth, token in enumerate(option):
            n = node_number[tuple(option[:depth])]
            path[r, n, children[n].index(token)] = True
        if tuple(option) in node_number:
            path[r, node_number[tuple(option)], width] = True
    ends = np.full((len(after), max(map(len, after))), -1, np.int32)
    for a, followers in enumerate(after):
        ends[a, : len(followers)] = followers
    depth = max(map(len, options)) + 1
    return Tree(tokens, real, target, path, ends, depth)  # type: ignore[arg-type]


def _options(tree: Tree, logits: Array, after: Array, temperature: Array) -> tuple[Array, Array]:
    """Log-probabilities [B R] of the options, and the greedy one [B], from logits [B 1+P V] at the
    nodes and the tokens [C] that may follow."""
    logits = logits.astype(jnp.float32) / jnp.where(temperature > 0, temperature, 1.0)
    nodes = jnp.arange(tree.children.shape[0])[:, None]
    scores = logits[:, nodes, tree.children]  # [B 1+P K]
    ends = jnp.where(after >= 0, logits[..., jnp.maximum(after, 0)], FORBIDDEN)  # [B 1+P C]

    def joined(end: Array) -> Array:
        logits = jnp.concatenate([scores, end[..., None]], axis=-1)
        return jnp.where(tree.real, logits, FORBIDDEN)

    local = jax.nn.log_softmax(joined(jax.nn.logsumexp(ends, axis=-1)), axis=-1)
    log_probs = jnp.where(tree.path, local[:, None], 0.0).sum((-2, -1))
    best = jnp.take_along_axis(
        jnp.broadcast_to(tree.target, (len(logits), *tree.target.shape)),
        joined(ends.max(-1)).argmax(-1)[..., None],
        axis=-1,
    )[..., 0]  # [B 1+P], where each node leads
    target = best[:, 0]
    for _ in range(tree.depth - 1):
        next_target = jnp.take_along_axis(best, jnp.maximum(-1 - target, 0)[:, None], axis=1)[:, 0]
        target = jnp.where(target < 0, next_target, target)
    return log_probs, target


def _choose(
    tree: Tree, logits: Array, after: Array, temperature: Array, keys: Array, place: Array | int
) -> tuple[Array, Array]:
    """The choices [B] at a place, and the log-probabilities [B R]."""
    log_probs, best = _options(tree, logits, after, temperature)

    def draw() -> Array:
        place_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        return jax.vmap(jax.random.categorical)(place_keys, log_probs).astype(jnp.int32)

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
    """Fills the places one by one behind the prompts; see `fill`."""
    model = definition.merge(params).for_decoding()
    rows, length = tokens.shape
    room = length + form.slots
    cache = model.empty_cache(rows, room) if prefix is None else prefix.start(rows, room)
    first = in_all_rows(form.words[0], rows)
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
    """Fills the places one by one: a call reads a choice and the words behind it.

    Args:
        model: prepared for decoding.
        form, tree: what is filled.
        cache: with room for `form.slots` tokens a row; it may hold prompts already.
        begun: [B n] tokens that end with the first words.
        real: [B n] bool.
        keys: [B] of the draws.
        temperature: [] float; 0 draws nothing.

    Returns:
        The choices [B A], and the log-probabilities [B A R].
    """
    words = form.words
    cache, logits = _read_nodes(model, form.inner, cache, begun, real)
    chosen, log_probs = _choose(tree, logits, tree.after[0], temperature, keys, 0)
    if len(words) == 1:
        return chosen[:, None], log_probs[:, None]
    table, used = next_words(form)

    def step(carry: tuple[KVCache, Array], inputs: tuple) -> tuple[Any, Any]:
        (cache, chosen), (table, used, after, place) = carry, inputs
        cache, logits = _read_nodes(model, form.inner, cache, table[chosen], used[chosen])
        chosen, log_probs = _choose(tree, logits, after, temperature, keys, place)
        return (cache, chosen), (chosen, log_probs)

    inputs = (jnp.array(table), jnp.array(used), tree.after[1:], jnp.arange(1, len(words)))
    if platform() == "cpu" and model.config.layers * len(words) <= _UNROLLED:
        carry, results = (cache, chosen), []
        for a, word in enumerate(words[1:]):
            width = max(map(len, form.options)) + len(word)
            table_a, used_a, *rest = (array[a] for array in inputs)
            carry, result = step(carry, (table_a[:, -width:], used_a[:, -width:], *rest))
            results.append(result)
        later: Any = [jnp.stack(arrays) for arrays in zip(*results, strict=True)]
    else:
        _, later = jax.lax.scan(step, (cache, chosen), inputs)
    return (
        jnp.concatenate([chosen[:, None], later[0].T], axis=1),
        jnp.concatenate([log_probs[:, None], later[1].swapaxes(0, 1)], axis=1),
    )


def _read_nodes(
    model: Any, nodes: Sequence[Sequence[int]], cache: KVCache, inputs: Array, real: Array
) -> tuple[KVCache, Array]:
    """The cache after inputs [B n], and logits [B 1+P V] after them and at each of P inner nodes.

    A node's tokens are read behind the inputs; the cache then forgets them.
    """
    rows, count = inputs.shape
    position = cache.position + real.sum(-1, dtype=jnp.int32)

    def read(cache: KVCache, tokens: Array, real: Array, places: Any) -> tuple[Array, KVCache]:
        places = jnp.broadcast_to(jnp.array(places), (rows, len(places)))
        h, cache = model.hidden(tokens, mask=real, cache=cache, places=places)
        return model.logits(h), cache

    def rewound(cache: KVCache, tokens: int) -> KVCache:
        """Without the last tokens: the next call writes over them."""
        return dataclasses.replace(cache, length=cache.length - tokens, position=position)

    # The first node is read together with the inputs.
    first = nodes[0] if nodes else ()
    tail = in_all_rows(first, rows)
    places = [count - 1, count + len(first) - 1] if first else [count - 1]
    real = jnp.concatenate([real, jnp.ones_like(tail, bool)], axis=1)
    node_logits, cache = read(cache, jnp.concatenate([inputs, tail], axis=1), real, places)
    cache, logits = rewound(cache, len(first)), [node_logits]
    for node in nodes[1:]:
        tokens = in_all_rows(node, rows)
        node_logits, cache = read(cache, tokens, jnp.ones_like(tokens, bool), [len(node) - 1])
        cache = rewound(cache, len(node))
        logits.append(node_logits)
    return cache, jnp.concatenate(logits, axis=1)


def in_all_rows(tokens: Sequence[int], rows: int) -> Array:
    """[rows n] int32: the same n tokens in every row."""
    return jnp.broadcast_to(jnp.array(tokens, jnp.int32), (rows, len(tokens)))


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
    """Fills all places in one pass: each place's words stand alone behind the prompt."""
    model = definition.merge(params)
    words, inner = form.words, form.inner
    rows, length = tokens.shape
    tail: list[int] = []
    offsets: list[int] = []
    segments, places = [], []
    for a, word in enumerate(words):
        # The words once for each inner node: nodes do not see each other.
        for copy, node in enumerate(inner or [()]):
            if not copy:
                places.append(length + len(tail) + len(word) - 1)
            tail += [*word, *node]
            offsets += range(len(word) + len(node))
            segments += [1 + a * max(1, len(inner)) + copy] * (len(word) + len(node))
            if node:
                places.append(length + len(tail) - 1)
    tails = in_all_rows(tail, rows)
    real_all = jnp.concatenate([real, jnp.ones_like(tails, bool)], axis=1)
    count = real.sum(-1, dtype=jnp.int32)[:, None]
    positions = jnp.concatenate(
        [jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0), count + jnp.array(offsets)], axis=1
    )
    positions += 0 if prefix is None else prefix.prefix_length
    segment = jnp.array([0] * length + segments)
    mask = make_mask(real_all, 1, jnp.broadcast_to(segment, real_all.shape))
    h, _ = model.hidden(
        jnp.concatenate([tokens, tails], axis=1),
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
