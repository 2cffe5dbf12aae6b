"""Given answers to a prompt: a language model's likelihood of each, which of them a text names."""

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.scoring.options import OptionScorer, named_option
from recjax.text.bpe import train_bpe
from recjax.text.tokenizers import load_tokenizer
from recjax.training.parallel import make_mesh, param_shardings

TITLES = ["Alien", "Brazil", "Cat People", "Alien Resurrection", "Twelve Monkeys", "The Omen"]
OPTIONS = tuple(TITLES[:3])
CONFIG = Config(
    vocab_size=300, dim=16, mlp_dim=24, layers=2, heads=4, kv_heads=2, head_dim=8, init_std=0.3
)
TOKENIZER = train_bpe([*TITLES, "A person has watched a series of movies"] * 5, 300)


def language_model(params=None, tokenizer=TOKENIZER, mesh=None, **options):
    config = Config(**{**vars(CONFIG), "vocab_size": tokenizer.size, **options})
    definition = define(lambda rngs: Llama(config, rngs=rngs))
    own = {**params_of(Llama(config, rngs=nnx.Rngs(0))), **(params or {})}
    if mesh is not None:
        own = jax.device_put(own, param_shardings(definition.shapes, PARAM_AXES, mesh))
    return LanguageModel(definition, own, config, tokenizer=tokenizer, mesh=mesh)


def unigram(logits):
    """A model that gives every token the same logits [V], whatever came before."""
    zero = np.zeros((2, 1, 1), np.float32)
    head = np.zeros((16, TOKENIZER.size), np.float32)
    head[0] = logits
    shapes = language_model().definition.shapes
    silent = ("layers/attention/out/kernel", "layers/down/kernel")
    params = {name: np.broadcast_to(zero, shapes[name].shape) for name in silent}
    ones = np.ones(shapes["embedding"].shape, np.float32)
    return language_model({**params, "embedding": ones, "head/kernel": head})


def answer_ids(title):
    return TOKENIZER.encode(f" {title}", start=False)


@pytest.mark.parametrize("title", OPTIONS)
def test_the_likelier_title_has_the_higher_score(title):
    logits = np.zeros(TOKENIZER.size, np.float32)
    logits[answer_ids(title)] = 3
    (scores,) = OptionScorer(unigram(logits))(["Which?"], [OPTIONS])
    assert OPTIONS[scores.argmax()] == title
    (equal,) = OptionScorer(unigram(0 * logits))(["Which?"], [OPTIONS])
    np.testing.assert_allclose(equal, equal[0], atol=1e-6)


def test_a_score_is_the_mean_of_the_title_s_tokens():
    """By the mean the long title wins, by the sum it would lose."""
    long, short = answer_ids("Alien Resurrection"), answer_ids("Brazil")
    logits = np.random.default_rng(0).normal(size=TOKENIZER.size).astype(np.float32)
    logits[short], logits[long] = 1.0, 1.5
    (scores,) = OptionScorer(unigram(logits))(["Which one?"], [("Brazil", "Alien Resurrection")])
    by_token = np.asarray(jax.nn.log_softmax(logits))
    expected = [by_token[ids].mean() for ids in (short, long)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert by_token[short].sum() > by_token[long].sum()
    assert scores.argmax() == 1


def questions(count):
    """Prompts of many lengths, with two to five options each."""
    rng = np.random.default_rng(0)
    prompts, options = [], []
    for _ in range(count):
        history = rng.choice(TITLES, rng.integers(1, 12))
        options.append(tuple(rng.choice(TITLES, rng.integers(2, 6), replace=False)))
        prompts.append(f"A person has watched {', '.join(history)}.")
    return prompts, options


def test_batched_scores_are_those_of_each_answer_alone():
    """Against whole forward passes, one answer at a time, without sharing. Padding after the text
    changes nothing before it, and one length is one program."""
    lm = language_model()
    scorer = OptionScorer(lm, tokens=300)
    asked = questions(30)
    together = scorer(*asked)
    for text, options, scores in list(zip(*asked, together, strict=True))[:8]:
        prompt = TOKENIZER.encode(text, bos=True)
        for option, score in zip(options, scores, strict=True):
            ids = answer_ids(option)
            tokens = np.zeros((1, 256), np.int32)
            tokens[0, : len(prompt) + len(ids)] = [*prompt, *ids]
            logits = np.asarray(lm(tokens))[0, len(prompt) - 1 :][: len(ids)]
            alone = logits[np.arange(len(ids)), ids] - np.log(np.exp(logits).sum(axis=-1))
            assert score == pytest.approx(float(alone.mean()), abs=1e-5)
    one_by_one = [scorer([text], [some])[0] for text, some in zip(*asked, strict=True)]
    for ours, alone in zip(together, one_by_one, strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)
    assert len({len(scores) for scores in together}) > 2


@pytest.mark.devices
def test_a_model_over_several_devices_says_the_same():
    asked = questions(6)
    expected = OptionScorer(language_model())(*asked)
    split = language_model(mesh=make_mesh((2, 2, 2)))
    assert len(split.params["layers/gate/kernel"].sharding.device_set) == 8
    for ours, alone in zip(OptionScorer(split)(*asked), expected, strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)


def test_an_answer_goes_on_after_its_prompt(data_root):
    """LLaMA's tokenizer puts a blank of its own before a text, but not in the middle of one."""
    lm = language_model(tokenizer=load_tokenizer(data_root / "tokenizers" / "llama2"))
    prompt = "Which of the following movies does this person prefer? Please pick one."
    row = OptionScorer(lm)._row(prompt, OPTIONS, "")
    for number, option in enumerate(OPTIONS, start=1):
        whole = lm.tokenizer.encode(f"{prompt} {option}", bos=True)
        begun = (row.options == 0) | (row.options == number)
        assert row.tokens[begun].tolist() == whole[:-1]
        labels = row.labels[begun]
        assert labels[labels >= 0].tolist() == whole[np.sum(labels < 0) + 1 :]


def test_one_program_a_length_and_batches_within_the_bound():
    lm = language_model()
    scorer = OptionScorer(lm, tokens=400)
    asked = questions(40)
    traced, inner = [], scorer._predict

    def counted(params, batch):
        traced.append(batch["tokens"].shape)
        return inner(params, batch)

    scorer._predict = counted
    shapes = [b["tokens"].shape for _, part in scorer._by_length(*asked) for b in part._batches]
    assert all(rows * length <= 400 or rows == 1 for rows, length in shapes)
    assert sum(rows for rows, _ in shapes) < 1.5 * len(asked[0])
    assert len(shapes) > len({*shapes}) == len({length for _, length in shapes}) > 1
    scorer(*asked)
    scorer(*asked)
    assert sorted(traced) == sorted({*shapes})


def test_what_a_language_model_needs(monkeypatch):
    lm = language_model(max_length=64)
    asked, options = ["Which?", "word " * 100], [("Alien", "Brazil")] * 2
    with pytest.raises(InputError, match=r"prompt 1: \d+ tokens .* trained on 64; .* shorter"):
        OptionScorer(lm)(asked, options)
    with pytest.raises(InputError, match=r"ballot 5: \d+ tokens"):
        OptionScorer(lm)(asked, options, ["ballot 2", "ballot 5"])
    assert OptionScorer(lm)([], []) == []
    monkeypatch.setattr(lm.tokenizer, "begin", ())
    with pytest.raises(InputError, match="prompt 0: no tokens; expected a prompt with text"):
        OptionScorer(lm)([""], options[:1])
    lm.tokenizer = None
    with pytest.raises(InputError, match="with a tokenizer"):
        OptionScorer(lm)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Brazil", OPTIONS, 1),
        ("brazil.", OPTIONS, 1),
        ("Based on the history, this person would prefer **Cat People** (1982).", OPTIONS, 2),
        ("I pick Alien: Resurrection!", ("Alien", "Alien Resurrection", "Brazil"), 1),
        ("I pick Alien!", ("Alien", "Alien Resurrection", "Brazil"), 0),
        ("Alien, not Alien Resurrection", ("Alien", "Alien Resurrection"), None),
        ("Alien Resurrection Alien Resurrection", ("Alien", "Alien Resurrection"), 1),
        ("The Omen it is", ("Omen", "Brazil"), 0),
        ("pick the matrix", ("The Matrix", "Brazil"), 0),
        ("Schindler\u2019s List & You", ("Schindlers List and You", "Brazil"), 0),
        ("1984", ("1984", "Brazil"), 0),
        ("???", ("???", "Brazil"), 0),
        ("What???", ("???", "Brazil"), None),
        (".*", ("Alien", "Brazil"), None),
        ("Al.en", ("Al.en (x)", "Alien"), None),
        ("Aliens", OPTIONS, None),
        ("Alien or Brazil", OPTIONS, None),
        ("As a language model I cannot say.", OPTIONS, None),
        ("", OPTIONS, None),
    ],
)
def test_what_an_answer_names(text, options, expected):
    assert named_option(text, options) == expected
