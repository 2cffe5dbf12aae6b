"""The likelihood of choices in one pass is that of choosing place by place, and has a gradient."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.generate.prompts import pad_rows
from recjax.scoring.form_likelihood import choice_log_probs
from recjax.scoring.form_programs import fill
from recjax.scoring.form_tokens import Form, form_tokens
from recjax.scoring.forms import tree_for

_spec = importlib.util.spec_from_file_location("_forms", Path(__file__).with_name("test_forms.py"))
forms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(forms)


@pytest.mark.parametrize("scale", [(1, 5), (1, 10), (0, 25)], ids=str)
def test_one_pass_is_place_by_place(scale):
    lm = forms.LM
    tokens = form_tokens(Form(forms.WORDS, forms.ratings(*scale)), lm.tokenizer)
    tree = tree_for(tokens, lm.stop, lm.tokenizer)
    ids, real = pad_rows([np.array(row) for row in forms.PROMPTS], pad_id=0, sizes=(16, 32, 64))
    heat = 0.7 if scale[1] == 10 else 1.0
    copies, longest = 6, max(map(len, tokens.options))
    rows = len(ids) * copies

    def run(params):
        module = lm.definition.merge(params).for_decoding()
        room = ids.shape[1] + tokens.slots + longest
        _, cache = module.hidden(
            jnp.asarray(ids), mask=real, cache=module.empty_cache(len(ids), room)
        )
        cache = cache.take(jnp.repeat(jnp.arange(len(ids)), copies))
        first = jnp.broadcast_to(jnp.array(tokens.words[0]), (rows, len(tokens.words[0])))
        keys = jax.random.split(jax.random.key(0), rows)
        chosen, log_probs = fill(
            module, tokens, tree, cache, first, jnp.ones_like(first, bool), keys,
            jnp.float32(heat),
        )  # fmt: skip
        expected = jnp.take_along_axis(log_probs, chosen[..., None], axis=-1)[..., 0]
        found = choice_log_probs(module, tokens, tree, cache, chosen, heat)
        return found.sum(), (chosen, expected, found)

    (_, (chosen, expected, found)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(
        lm.params
    )
    assert len(np.unique(np.asarray(chosen))) > 3  # many options, those of two tokens among them
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
