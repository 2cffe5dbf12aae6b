"""The public door: what a language model takes, gives, refuses and compiles."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recjax
from recjax.decoding import write_tokens
from recjax.errors import InputError
from recjax.generate.processors import ForbiddenTokens
from recjax.generate.prompts import Prompts
from recjax.llm import LanguageModel
from recjax.llm_inputs import check_length, given_prompts
from recjax.models import glm, gpt2
from recjax.models.definition import define, params_of
from recjax.models.llama import Config, Llama
from recjax.text.bpe import train_bpe
from recjax.training.parallel import make_mesh

CONFIG = Config(
    vocab_size=320, dim=16, mlp_dim=24, layers=2, heads=4, kv_heads=2, head_dim=8, init_std=0.3
)
RNG = np.random.default_rng(0)
LONG = RNG.integers(0, 320, 40)
PROMPTS = [[*LONG, 7, 8, 9], [*LONG, 1], [*LONG, 4, 4]]


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the user has watched the film", "which film was it? 1995", "a long film"]
    texts += ["another actor plays every part of that story", "sequels come before beginnings"]
    return train_bpe(texts * 5, CONFIG.vocab_size)


def make(tokenizer=None, **options):
    definition = define(lambda rngs: Llama(CONFIG, rngs=rngs))
    params = params_of(Llama(CONFIG, rngs=nnx.Rngs(0)))
    return LanguageModel(definition, params, CONFIG, tokenizer=tokenizer, **options)


@pytest.fixture(scope="module")
def lm(tokenizer):
    return make(tokenizer)


def greedily(lm, prompt, count):
    """Without cache, padding or buckets: the whole sequence is read again for each token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(lm([tokens])[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_generation_equals_rereading_the_whole_sequence(lm):
    """Three lengths, a beginning that is read once, rows padded to a bucket."""
    got = lm.generate(PROMPTS, max_new_tokens=5)
    assert [len(prefix) for prefix in lm._prefixes] == [32]
    for row, prompt in zip(got.tokens, PROMPTS, strict=True):
        assert row.tolist() == greedily(lm, prompt, 5)
    alone = [lm.generate([prompt], max_new_tokens=5).tokens[0] for prompt in PROMPTS]
    np.testing.assert_array_equal(got.tokens, alone)
    np.testing.assert_array_equal(got, alone)


def test_scores_are_log_probabilities(lm):
    got = lm.generate(PROMPTS[:1], max_new_tokens=3)
    whole = np.array([[*PROMPTS[0], *got.tokens[0]]])
    expected = jax.nn.log_softmax(lm(whole)[0, len(PROMPTS[0]) - 1 : -1])
    np.testing.assert_allclose(
        got.scores[0], np.asarray(expected)[np.arange(3), got.tokens[0]], atol=1e-4
    )


def test_ids_lists_and_masks_are_the_same_prompts(lm):
    ids = np.zeros((3, 43), int)
    mask = np.zeros((3, 43), int)
    for row, prompt in enumerate(PROMPTS):
        ids[row, 43 - len(prompt) :] = prompt
        mask[row, 43 - len(prompt) :] = 1
    expected = lm.generate(PROMPTS, max_new_tokens=4).tokens
    np.testing.assert_array_equal(lm.generate(ids, mask=mask, max_new_tokens=4).tokens, expected)


def test_texts_in_and_out(lm, tokenizer):
    texts = ["the film", "which"]
    got = lm.generate(texts, max_new_tokens=4)
    ids = tokenizer.encode_batch(texts, bos=True)
    np.testing.assert_array_equal(got.tokens, lm.generate(ids, max_new_tokens=4).tokens)
    assert got.texts == [tokenizer.decode(row) for row in got.tokens]
    bare = train_bpe(["ab"], 259)
    bare.begin, bare.end = (), (2,)  # a folder's settings
    rows = given_prompts(make(bare).config, bare, texts).rows
    assert [row.tolist() for row in rows] == bare.encode_batch(texts, eos=True)


@pytest.mark.parametrize("options", [{}, {"temperature": 5.0, "seed": 1}, {"beams": 3}])
def test_rows_that_pad_an_embedding_are_never_generated(tokenizer, options):
    """Where the tokenizer has fewer ids than the embedding has rows."""
    few, size = train_bpe(["ab"], 259), CONFIG.vocab_size
    free = make().generate(PROMPTS, max_new_tokens=8, **options).tokens
    got = make(few).generate(PROMPTS, max_new_tokens=8, **options).tokens
    assert (free >= few.size).any() and free.max() < size
    assert got.max() < few.size
    assert few.size < tokenizer.size == size


def test_soft_tokens_are_vectors_in_the_place_of_tokens(lm):
    """A token's own embedding as a soft token changes nothing; another vector does."""
    ids = np.array([prompt[-20:] for prompt in PROMPTS])
    is_soft = np.zeros(ids.shape, bool)
    is_soft[:, 5], is_soft[:, 9] = True, True
    table = np.asarray(lm.params["embedding"])
    own = table[ids[:, [5, 9]]]
    hidden = np.where(is_soft, 0, ids)
    expected = lm.generate(ids, max_new_tokens=4).tokens
    got = lm.generate(hidden, soft=(is_soft, own), max_new_tokens=4).tokens
    np.testing.assert_array_equal(got, expected)
    other = lm.generate(hidden, soft=(is_soft, own[:, ::-1]), max_new_tokens=4).tokens
    assert (other != expected).any()


def test_a_shared_beginning_ends_before_the_soft_tokens(lm):
    ids = np.array([PROMPTS[0]] * 2)
    is_soft = np.zeros(ids.shape, bool)
    is_soft[:, 20] = True
    lm._prefixes.clear()
    lm.generate(ids, soft=(is_soft, RNG.normal(size=(2, 1, 16))), max_new_tokens=2)
    assert [len(prefix) for prefix in lm._prefixes] == [20]


@pytest.mark.parametrize("sizes, soft, padded", [
    ([36, 36], True, 36), ([19, 19], True, 20), ([36, 35], True, 40), ([36, 36], False, 40),
])  # fmt: skip
def test_a_question_about_soft_tokens_has_a_length_of_its_own(sizes, soft, padded):
    rows = [np.zeros(size, np.int32) for size in sizes]
    sizes = Prompts(rows, rows if soft else None).lengths()
    assert min(size for size in sizes if size >= max(map(len, rows))) == padded


def test_stop_tokens_processors_and_draws(lm):
    free = lm.generate(PROMPTS, max_new_tokens=6)
    stop = int(free.tokens[0, 2])
    first = free.tokens[0].tolist().index(stop)
    stopped = lm.generate(PROMPTS, max_new_tokens=6, stop=[stop])
    assert stopped.lengths[0] == first + 1
    assert (stopped.tokens[0, first + 1 :] == lm.tokenizer.pad_id).all()
    never = lm.generate(PROMPTS, max_new_tokens=6, processors=[ForbiddenTokens(jnp.array([stop]))])
    assert stop not in never.tokens[0]
    draws = [
        lm.generate(PROMPTS, temperature=5.0, max_new_tokens=6, seed=s).tokens for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    best = lm.generate(PROMPTS, temperature=5.0, top_k=1, max_new_tokens=6)
    np.testing.assert_array_equal(best.tokens, free.tokens)


def test_many_prompts_are_each_as_alone(lm):
    """From 256 on in stages (`decode`); some rows end early."""
    prompts = [[*LONG[:20], *row] for row in np.random.default_rng(0).integers(0, 320, (258, 3))]
    free = lm.generate(prompts[:86], max_new_tokens=20)
    stop = [int(np.bincount(free.tokens.reshape(-1)).argmax())]
    got = lm.generate(prompts, max_new_tokens=20, stop=stop)
    parts = [
        lm.generate(prompts[n : n + 86], max_new_tokens=20, stop=stop) for n in range(0, 258, 86)
    ]
    for name in ("tokens", "lengths", "scores"):
        expected = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(getattr(got, name), expected, atol=2e-5)
    assert (got.lengths < 10).sum() > 1 and (got.lengths > 10).sum() > 1


def test_beams_find_no_worse(lm):
    greedy = lm.generate(PROMPTS, max_new_tokens=4)
    beams = lm.generate(PROMPTS, max_new_tokens=4, beams=4, length_penalty=0.0)
    assert beams.tokens.shape == (3, 4, 4)
    assert (beams.scores[:, 0] >= greedy.scores.sum(axis=1) - 1e-4).all()
    assert beams.texts == [lm.tokenizer.decode(row[0]) for row in beams.tokens]


def test_one_program_serves_a_bucket(tokenizer, monkeypatch):
    traced = []

    def write(*arguments, **options):
        traced.append(1)
        return write_tokens(*arguments, **options)

    monkeypatch.setattr("recjax.decoding.write_tokens", write)
    lm = make(tokenizer)
    for length in (3, 9, 16):
        lm.generate([LONG[:length].tolist()], max_new_tokens=9 + length // 4)
    assert len(traced) == 1
    lm.generate([LONG[:17].tolist()], max_new_tokens=9)
    assert len(traced) == 2
    params = {path: a + 1 for path, a in lm.params.items()}  # of a later step of a run, say
    other = LanguageModel(lm.definition, params, lm.config, tokenizer=tokenizer)
    other.generate([LONG[:17].tolist()], max_new_tokens=9)
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm([[1, 320]]), "token 320: expected ids from 0 to 319"),
        (lambda lm: lm([[-1]]), "token -1"),
        (lambda lm: lm([1, 2]), r"shape \(2,\), expected integers"),
        (lambda lm: lm([[0.5]]), "float64"),
        (lambda lm: lm([[1, 2]], positions=[[0]]), r"positions .*\(1, 2\)"),
        (lambda lm: lm([[1, 2]], mask=[[True]]), r"mask .*\(1, 2\) or \(1, 2, 2\)"),
        (lambda lm: lm([[1, 2]], mask=np.ones((1, 2, 2, 2))), r"mask has shape \(1, 2, 2, 2\)"),
        (lambda lm: lm.generate([]), "no prompts"),
        (lambda lm: lm.generate("text"), "got one text"),
        (lambda lm: lm.generate([[1], []]), "prompt 1 is empty"),
        (lambda lm: lm.generate([[400]]), "token 400"),
        (lambda lm: lm.generate(np.ones((1, 3), int), mask=[[1, 0, 1]]), "prompt 0 has padding"),
        (lambda lm: lm.generate(np.ones((1, 3), int), mask=[[1, 1]]), "mask of shape"),
        (lambda lm: lm.generate([[1]], max_new_tokens=0), "max_new_tokens 0"),
        (lambda lm: lm.generate([[1]], beams=2, temperature=1.0), "temperature must be 0"),
        (lambda lm: lm.generate(None), "prompts: expected a list of texts or of ids, got None"),
        (lambda lm: lm.generate([[1]], max_new_tokens=2.5), "max_new_tokens 2.5: expected at"),
        (lambda lm: lm.generate([[1]], temperature=-1), "temperature -1: expected a number from 0"),
        (lambda lm: lm.generate([[1]], temperature=1.0, top_k=0), "top_k 0: expected at least 1"),
        (lambda lm: lm.generate([[1]], temperature=1.0, top_p=2), "top_p 2: expected more than 0"),
        (lambda lm: lm.generate([[1]], top_k=5), "top_k needs a temperature above 0"),
        (lambda lm: lm.generate([[1]], top_p=0.9), "top_p needs a temperature above 0"),
        (lambda lm: lm.generate([[1]], beams=0), "beams 0: expected at least 1"),
        (
            lambda lm: lm.generate(np.ones((1, 3), int), soft=([[0, 1, 1]], np.ones((1, 1, 16)))),
            "2 places in a row, but 1 vectors",
        ),
        (
            lambda lm: lm.generate(np.ones((1, 3), int), soft=([[0, 0, 1]], np.ones((1, 1, 8)))),
            r"expected \[1 S 16\]",
        ),
    ],
)  # fmt: skip
def test_bad_input(lm, call, message):
    with pytest.raises(InputError, match=message):
        call(lm)


def test_longer_than_what_it_was_trained_on_is_said():
    definition = define(lambda rngs: Llama(CONFIG, rngs=rngs))
    config = dataclasses.replace(CONFIG, max_length=8)
    lm = LanguageModel(definition, params_of(Llama(CONFIG, rngs=nnx.Rngs(0))), config)
    with pytest.warns(UserWarning, match="up to 9 tokens; the model was trained on 8"):
        lm.generate([[1, 2, 3]], max_new_tokens=6)


@pytest.mark.parametrize(
    ("config", "fits", "beyond"),
    [
        # The newest token is not read; a blank's text has positions of its own, from 1 on.
        (gpt2.Config(max_length=9), [(6, 4), (9, 1)], [(6, 5), (10, 1)]),
        (glm.Config(max_length=9), [(10, 9)], [(11, 1), (1, 10)]),
        (CONFIG, [(9000, 9000)], []),
    ],
    ids=["gpt2", "glm", "llama"],
)
@pytest.mark.filterwarnings("ignore:up to")
def test_no_position_beyond_a_table(config, fits, beyond):
    for longest, new in fits:
        check_length(config, longest, new)
    for longest, new in beyond:
        with pytest.raises(InputError, match=f"up to {longest} tokens and {new} new .* has 9"):
            check_length(config, longest, new)


def test_texts_need_a_tokenizer():
    with pytest.raises(InputError, match="came without one"):
        make().generate(["text"])


def test_load_llm_reads_folder_tokenizer_and_stops(tmp_path, tokenizer):
    from recjax.convert.language_model import language_model
    from recjax.convert.writing import write_language_model

    lm = make()
    write_language_model(tmp_path / "lm", language_model(CONFIG, lm.params))
    tokenizer.save(tmp_path / "lm")
    (tmp_path / "lm" / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    loaded = recjax.load_llm(tmp_path / "lm")
    np.testing.assert_array_equal(loaded([LONG]), lm([LONG]))
    assert loaded.stop == (5, 6) and loaded.tokenizer.size == tokenizer.size
    again = recjax.load_llm(loaded.save(tmp_path / "again", form="recjax"))
    np.testing.assert_array_equal(again([LONG]), lm([LONG]))
    assert again.stop == (5, 6) and again.tokenizer.encode("a film") == tokenizer.encode("a film")
    half = recjax.load_llm(tmp_path / "lm", dtype="bfloat16", remat="full")
    assert half([LONG]).dtype == jnp.bfloat16 and half.config.remat == "full"
    with pytest.raises(InputError, match="generation_config.json: 'eos_token_id' is"):
        (tmp_path / "lm" / "generation_config.json").write_text('{"eos_token_id": "x"}')
        recjax.load_llm(tmp_path / "lm")
    with pytest.raises(InputError, match="no such folder"):
        recjax.load_llm(tmp_path / "nothing")


def test_the_package_itself_is_light():
    assert "load_llm" in recjax.__all__
    with pytest.raises(AttributeError, match="no attribute 'load_lm'"):
        recjax.load_lm  # noqa: B018


@pytest.mark.devices
def test_a_model_in_few_bits(tmp_path, lm):
    """Each kernel is narrowed as it is read, on each device its part; nothing writes such a one."""
    folder = lm.save(tmp_path / "hf")
    whole = lm([PROMPTS[0]])
    found = []
    for mesh in (None, make_mesh((2, 2, 2))):
        few = recjax.load_llm(folder, quant="int8", mesh=mesh)
        assert few.params["layers/gate/kernel"].dtype == np.int8
        found.append(np.asarray(few([PROMPTS[0]] * 4)[:1]))
        assert 0 < np.sqrt(((found[-1] - whole) ** 2).mean() / (whole**2).mean()) < 0.05
    assert tuple(few.params["layers/gate/kernel"].sharding.spec) == (None, "fsdp", "tensor")
    np.testing.assert_allclose(*found, atol=1e-4)
    with pytest.raises(InputError, match="a model in int8 is not written; read it without quant"):
        few.save(tmp_path / "few")
    with pytest.raises(InputError, match="quant 'int4': expected int8 or nf4"):
        recjax.load_llm(folder, quant="int4")
    for fields, message in (
        ({"foo": 1}, "unknown config key 'model.foo'"),
        ({"remat": "some"}, "model.remat: expected one of 'none', 'dots', 'full'"),
    ):
        with pytest.raises(InputError, match=message):
            recjax.load_llm(folder, **fields)
    with pytest.raises(
        InputError, match="quant 'nf4': not with an adapter, which is merged into wide"
    ):
        recjax.load_llm(folder, quant="nf4", adapter=tmp_path)
    with pytest.raises(InputError, match="nf4: a map of 16 inputs; expected a multiple of 64"):
        recjax.load_llm(folder, quant="nf4")
