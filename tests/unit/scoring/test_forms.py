"""Forms: only the choices are the model's. A reference reads every text anew, without a cache."""

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.llama import Config, Llama
from recjax.scoring.form_tokens import Form, form_tokens
from recjax.scoring.forms import FormFiller
from recjax.text.bpe import train_bpe
from recjax.text.tokenizers import load_tokenizer

NAMES = ("tension", "pace of it", "length")
WORDS = tuple(f"{'' if a == 0 else chr(10)}{name}:" for a, name in enumerate(NAMES))
TEXT = ["Rate the movie Alien", "Rate the movie Cat People of 1942", "Rate the movie Brazil"]
TOKENIZER = train_bpe([*TEXT, *WORDS] * 5, 320)
PROMPTS = TOKENIZER.encode_prompts(TEXT)


def language_model(tokenizer=TOKENIZER, seed=0, **fields):
    config = Config(
        vocab_size=tokenizer.size, dim=16, mlp_dim=24, layers=2, heads=4, kv_heads=2, head_dim=8,
        init_std=0.4, max_length=128, **fields,
    )  # fmt: skip
    definition = define(lambda rngs: Llama(config, rngs=rngs))
    params = params_of(Llama(config, rngs=nnx.Rngs(seed)))
    stop = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    return LanguageModel(definition, params, config, tokenizer=tokenizer, stop=stop)


LM = language_model()


def ratings(least, most):
    return tuple(f" {n}" for n in range(least, most + 1))


def node_logits(lm, ids):
    return np.asarray(lm(np.array([ids]))[0, -1], np.float64)


def reference(lm, form, prompt, mode, temperature=1.0):
    """Chosen options and log-probabilities, token by token from the definition."""
    tokens = form_tokens(form, lm.tokenizer)
    newline = lm.tokenizer.encode("\n", start=False)[0]
    text, chosen, all_of_them = list(prompt), [], []
    for a, word in enumerate(tokens.words):
        base = [*prompt, *word] if mode == "apart" else [*text, *word]
        after = [tokens.words[a + 1][0]] if a + 1 < len(tokens.words) else [*lm.stop, newline]
        nodes = {tuple(o[:n]) for o in tokens.options for n in range(len(o))}
        local, best = {}, {}
        for node in nodes:
            logits = node_logits(lm, [*base, *node]) / temperature
            below = sorted({o[len(node)] for o in tokens.options
                            if tuple(o[: len(node)]) == node and len(o) > len(node)})  # fmt: skip
            values = {token: logits[token] for token in below}
            greedy = dict(values)
            if list(node) in tokens.options:
                values["end"] = np.logaddexp.reduce(logits[after])
                greedy["end"] = logits[after].max()
            norm = np.logaddexp.reduce(list(values.values()))
            local[node] = {k: v - norm for k, v in values.items()}
            best[node] = max(greedy, key=greedy.get)
        log_probs = []
        for option in map(tuple, tokens.options):
            total = sum(local[option[:n]][option[n]] for n in range(len(option)))
            log_probs.append(total + (local[option]["end"] if option in nodes else 0))
        at = ()
        while at in nodes and best[at] != "end":
            at = (*at, best[at])
        chosen.append(tokens.options.index(list(at)))
        all_of_them.append(log_probs)
        text = [*base, *at]
    return chosen, all_of_them


@pytest.mark.parametrize("mode", ["chain", "apart"])
@pytest.mark.parametrize("scale", [(1, 5), (1, 10), (0, 25)], ids=str)
def test_against_the_definition(mode, scale):
    """Options of one token, of two ("10" beside "1"), and several that go on."""
    form = Form(WORDS, ratings(*scale))
    filled = FormFiller(LM, form, mode)(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        chosen, log_probs = reference(LM, form, prompt, mode)
        assert filled.chosen[row].tolist() == chosen
        np.testing.assert_allclose(filled.log_probs[row], log_probs, atol=2e-4)
    np.testing.assert_allclose(np.exp(filled.log_probs).sum(-1), 1, atol=1e-5)


def test_options_over_three_tokens():
    form = Form(WORDS[:2], tuple(f" {n}" for n in (1, 10, 100, 2)))
    filled = FormFiller(LM, form)(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        chosen, log_probs = reference(LM, form, prompt, "chain")
        assert filled.chosen[row].tolist() == chosen
        np.testing.assert_allclose(filled.log_probs[row], log_probs, atol=2e-4)


def test_a_loop_over_places_is_the_same(monkeypatch):
    form = Form(WORDS, ratings(1, 10))
    spelled = FormFiller(LM, form)(PROMPTS)
    monkeypatch.setattr("recjax.scoring.form_programs._UNROLLED", 0)
    looped = FormFiller(LM, form)(PROMPTS)
    assert looped.chosen.tolist() == spelled.chosen.tolist()
    np.testing.assert_allclose(looped.log_probs, spelled.log_probs, atol=1e-4)


def test_one_place_and_no_shared_beginning():
    form = Form(WORDS[:1], ratings(1, 10))
    filled = FormFiller(LM, form)(PROMPTS[1:2])
    assert filled.chosen.tolist() == [reference(LM, form, PROMPTS[1], "chain")[0]]


@pytest.mark.parametrize("mode", ["chain", "apart"])
def test_a_batch_is_its_rows(mode):
    """Padding, a shared beginning, and the rows beside it change nothing."""
    long = [[*TOKENIZER.encode_prompts([TEXT[0] * 3])[0], *p[1:]] for p in PROMPTS]
    filler = FormFiller(LM, Form(WORDS, ratings(1, 10)), mode)
    together = filler(long)
    for row, prompt in enumerate(long):
        filler._shared = []  # each is read whole, with no beginning apart
        alone = filler([prompt])
        assert alone.chosen.tolist() == together.chosen[[row]].tolist()
        np.testing.assert_allclose(alone.log_probs, together.log_probs[[row]], atol=1e-4)


def test_draws_follow_the_probabilities():
    form = Form(WORDS[:2], ratings(1, 10))
    filler, rows = FormFiller(LM, form), 512
    drawn = filler(PROMPTS[:1] * rows, temperature=1.5, seed=3)
    _, log_probs = reference(LM, form, PROMPTS[0], "chain", temperature=1.5)
    np.testing.assert_allclose(drawn.log_probs[:, 0], [log_probs[0]] * rows, atol=2e-4)
    share = np.bincount(drawn.chosen[:, 0], minlength=10) / rows
    assert np.abs(share - np.exp(log_probs[0])).max() < 4 * np.sqrt(0.25 / rows)
    # The second draw is another one: it repeats the first as often as its probability says.
    first, second = drawn.chosen.T
    expected = np.exp(drawn.log_probs[np.arange(rows), 1, first]).mean()
    assert np.abs((first == second).mean() - expected) < 4 * np.sqrt(0.25 / rows)
    part = filler(PROMPTS[:1] * 3, temperature=1.5, seed=3, first_row=7)
    assert part.chosen.tolist() == drawn.chosen[7:10].tolist()


@pytest.mark.parametrize("name", ["llama2", "gpt2"])
def test_tokens_of_published_tokenizers(data_root, name):
    """A blank belongs to the rating in GPT-2's, and stands alone in LLaMA's."""
    tokenizer = load_tokenizer(data_root / "tokenizers" / name)
    tokens = form_tokens(Form(WORDS, ratings(1, 10)), tokenizer)
    assert tokens.exact
    assert {len(option) for option in tokens.options} == ({1, 2} if name == "llama2" else {1})
    whole = Form(WORDS, ratings(1, 10)).text([9, 0, 4])
    parts = zip(tokens.words, (9, 0, 4), strict=True)
    assert tokenizer.encode(whole, start=False) == [
        token for word, r in parts for token in (*word, *tokens.options[r])
    ]


def test_forms_that_are_none():
    for form in (Form((), (" 1",)), Form((":",), ()), Form(("a", ""), (" 1", " 2"))):
        with pytest.raises(InputError, match="expected words before each choice, and options"):
            form_tokens(form, TOKENIZER)
    with pytest.raises(InputError, match="options that differ by their tokens"):
        form_tokens(Form((":",), (" 1", " 1")), TOKENIZER)
    with pytest.raises(InputError, match="the film x: .* tokens with the answer; the model was"):
        FormFiller(LM, Form(WORDS, ratings(1, 5)))([PROMPTS[0] * 30], names=["the film x"])
    alone = LanguageModel(LM.definition, LM.params, LM.config)
    with pytest.raises(InputError, match="forms need a language model with a tokenizer"):
        FormFiller(alone, Form(WORDS, ratings(1, 5)))


@pytest.mark.devices
def test_on_several_devices():
    from recjax.models.llama import PARAM_AXES
    from recjax.training.parallel import make_mesh, param_shardings

    mesh = make_mesh((4, 2, 1))
    params = jax.device_put(LM.params, param_shardings(LM.definition.shapes, PARAM_AXES, mesh))
    split = LanguageModel(
        LM.definition, params, LM.config, tokenizer=TOKENIZER, stop=LM.stop, mesh=mesh
    )
    form, prompts = Form(WORDS, ratings(1, 10)), [*PROMPTS, PROMPTS[0]]
    expected = FormFiller(LM, form)(prompts)
    found = FormFiller(split, form)(prompts)
    assert found.chosen.tolist() == expected.chosen.tolist()
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=2e-4)
