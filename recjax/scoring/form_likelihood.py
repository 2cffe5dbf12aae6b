"""The likelihood of a form's choices, in one differentiable pass.

Letters: B rows, A places, R options, D tokens of an option on whose way something is decided.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.cache import KVCache
from recjax.scoring.form_programs import FORBIDDEN, Tree, in_all_rows, next_words
from recjax.scoring.form_tokens import FormTokens
from recjax.typing import Array


def choice_log_probs(
    model: Any,
    form: FormTokens,
    tree: Tree,
    cache: KVCache,
    chosen: Array,
    temperature: float,
) -> Array:
    """Log-probabilities [B A] of choices, each given those before it, among the form's options.

    Those of `form_programs.fill`, which chooses place by place, at the same temperature.

    Args:
        model: the module.
        form, tree: of the choices.
        cache: of the prompts, with room for `form.slots` and the longest option.
        chosen: [B A] the options' numbers.
        temperature: above 0; logits are divided by it.
    """
    rows, places = chosen.shape
    words, options = form.words, form.options
    table, used = next_words(form)
    width, longest = table.shape[-1], max(map(len, options))
    first = in_all_rows(words[0], rows)
    last, last_used = np.zeros((len(options), longest), np.int32), np.zeros((len(options), longest))
    for r, option in enumerate(options):
        last[r, longest - len(option) :], last_used[r, longest - len(option) :] = option, 1
    later = jnp.arange(places - 1)
    tokens = [first, jnp.asarray(table)[later, chosen[:, :-1]].reshape(rows, -1)]
    real = [jnp.ones_like(first, bool), jnp.asarray(used)[later, chosen[:, :-1]].reshape(rows, -1)]
    tokens.append(jnp.asarray(last)[chosen[:, -1]])
    real.append(jnp.asarray(last_used > 0)[chosen[:, -1]])

    # Where each of the D decisions of each option is made, at place a: before the option's first
    # token, which is the end of the words before it, and after each token that others share.
    on_path = np.asarray(tree.path).any(-1)  # [R 1+P]
    nodes = np.argsort(~on_path, axis=1, kind="stable")[:, : on_path.sum(1).max()]  # by depth
    real_node = np.take_along_axis(on_path, nodes, axis=1)
    edges = np.take_along_axis(np.asarray(tree.path).argmax(-1), nodes, axis=1)
    depth = np.cumsum(real_node, axis=1) - 1  # tokens before the decision
    starts = len(words[0]) + width * np.arange(places)  # of what is read after place a
    # What is read after place a is padded on the left, to the option and the next words.
    blocks = np.array([*(width - len(word) for word in words[1:]), longest])
    padding = blocks[:, None] - np.array([len(option) for option in options])  # [A R]
    word_ends = (starts - 1)[:, None, None]
    option_places = starts[:, None, None] + padding[..., None] + depth - 1
    decided_at = np.where(real_node & (depth > 0), option_places, word_ends)  # [A R D]
    decisions = jnp.asarray(decided_at)[jnp.arange(places), chosen]  # [B A D]
    h, _ = model.hidden(
        jnp.concatenate(tokens, axis=1),
        mask=jnp.concatenate(real, axis=1),
        cache=cache,
        places=decisions.reshape(rows, -1),
    )
    h = h.reshape(*decisions.shape, -1).astype(jnp.float32) / temperature
    head = model.head_table()
    node, tree = jnp.asarray(nodes)[chosen], jax.tree.map(jnp.asarray, tree)  # [B A D]
    ends = tree.after  # [A C]
    children = jnp.einsum("BADE,BADKE->BADK", h, head[tree.children[node]].astype(jnp.float32))
    end = jnp.einsum("BADE,ACE->BADC", h, head[jnp.maximum(ends, 0)].astype(jnp.float32))
    end = jnp.where((ends >= 0)[:, None], end, FORBIDDEN)
    logits = jnp.concatenate([children, jax.nn.logsumexp(end, axis=-1)[..., None]], axis=-1)
    local = jax.nn.log_softmax(jnp.where(tree.real[node], logits, FORBIDDEN), axis=-1)
    log_probs = jnp.take_along_axis(local, jnp.asarray(edges)[chosen][..., None], axis=-1)[..., 0]
    return jnp.where(jnp.asarray(real_node)[chosen], log_probs, 0.0).sum(-1)
