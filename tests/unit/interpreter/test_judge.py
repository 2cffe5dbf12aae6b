"""The judge: what it is asked, how votes are counted, what a language model's likelihood says."""

import collections

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.interpreter.judge import Ballot, LikelihoodJudge, Question, hold
from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.text.prompts import WORDS
from recjax.text.tokenizers import load_tokenizer, train_bpe
from recjax.training.parallel import make_mesh, param_shardings

SOURCES = ("random", "SASRec", "DreamRec")
TITLES = ["Alien", "Brazil", "Cat People", "Alien Resurrection", "Twelve Monkeys", "The Omen"]
OPTIONS = tuple(TITLES[:3])
THREE = Ballot(["Heat", "Toy  Story"], dict(zip(SOURCES, OPTIONS, strict=True)))


def ballots(count):
    return [THREE] * count


def keeping(judge):
    """A judge, and the list of what it has been asked."""
    asked = []

    def keeper(questions):
        asked.extend(questions)
        return judge(questions)

    return keeper, asked


def asked_of(given, **options):
    judge, asked = keeping(lambda questions: [0] * len(questions))
    hold(given, judge, **options)
    return asked


def first(questions):
    return [0] * len(questions)


def wanting(title):
    """Chooses a title wherever it stands."""
    return lambda questions: [question.options.index(title) for question in questions]


# What is asked.


def test_the_paper_s_prompt():
    (question,) = asked_of([THREE])
    first, second, third = question.options
    assert sorted(question.options) == list(OPTIONS)
    assert question.prompt == (
        "A person has watched a series of movies: Heat, Toy Story. Which of the following movies "
        f"does this person prefer? {first}, {second}, or {third}. Please pick one."
    )


def test_the_words_of_a_domain_and_two_options():
    two = Ballot(["{history}", "Doom"], {"SASRec": "Quake", "DreamRec": "Ultima"})
    (question,) = asked_of([two], words=WORDS["game"])
    assert question.prompt == (
        "A person has played a series of games: {history}, Doom. Which of the following games "
        f"does this person prefer? {question.options[0]} or {question.options[1]}. Please pick one."
    )


def test_the_order_is_uniform():
    count = 1200
    orders = collections.Counter(question.options for question in asked_of(ballots(count)))
    assert len(orders) == 6
    expected = count / 6
    assert sum((n - expected) ** 2 / expected for n in orders.values()) < 20.5  # p = 0.001


def test_the_order_depends_on_seed_and_number_only():
    orders = [question.options for question in asked_of(ballots(40))]
    assert [question.options for question in asked_of(ballots(40))] == orders
    assert [question.options for question in asked_of(ballots(7))] == orders[:7]
    other = asked_of([Ballot(["Fargo"], THREE.candidates), *ballots(39)])
    assert [question.options for question in other] == orders
    assert [question.options for question in asked_of(ballots(40), seed=1)] != orders


# How it is counted.


def test_a_judge_who_takes_the_first_place_prefers_nobody():
    verdict = hold(ballots(1500), first)
    for source in SOURCES:
        value, low, high = verdict.share(source)
        assert low < 1 / 3 < high and value == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("source", SOURCES)
def test_a_judge_who_knows_a_title_finds_it_in_every_place(source):
    verdict = hold(ballots(20), wanting(THREE.candidates[source]))
    assert verdict.share(source).value == 1 and verdict.chosen == ((source,),) * 20


def test_shares_ties_and_refusals():
    def judge(questions):
        assert [question.number for question in questions] == list(range(10))
        choices = wanting("Brazil")(questions[:5]) + wanting("Alien")(questions[5:6])
        return [*choices, "tie", "refusal", "tie", "tie"]

    verdict = hold(ballots(10), judge)
    assert (verdict.ballots, verdict.decided, verdict.ties, verdict.refusals) == (10, 6, 3, 1)
    assert verdict.chosen == (("SASRec",),) * 5 + (("random",),) + ((),) * 4
    metrics = verdict.metrics()
    assert metrics["judge/SASRec/share"] == pytest.approx(5 / 6)
    assert metrics["judge/SASRec/share_of_all"] == 0.5
    assert metrics["judge/random/share"] == pytest.approx(1 / 6)
    assert metrics["judge/DreamRec/share"] == 0
    # Wilson's, by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    assert metrics["judge/SASRec/share_low"] == pytest.approx(0.4365, abs=1e-4)
    assert metrics["judge/SASRec/share_high"] == pytest.approx(0.9699, abs=1e-4)
    assert metrics["judge/SASRec/share_of_all_low"] == pytest.approx(0.2366, abs=1e-4)
    counts = {name: metrics[f"judge/{name}"] for name in ("ballots", "decided", "ties", "shared")}
    assert counts == {"ballots": 10, "decided": 6, "ties": 3, "shared": 0}
    assert metrics["judge/refusals"] == 1
    assert len(metrics) == 5 + 3 * 6


def test_nothing_decided_says_nothing():
    verdict = hold(ballots(2), lambda questions: ["tie"] * 2)
    assert verdict.share("SASRec") == (0.0, 0.0, 1.0)
    assert verdict.share_of_all("SASRec").value == 0


def test_one_title_of_two_sources_is_one_option_whose_vote_is_split():
    """Spelled in two ways, but of one normal form."""
    both = Ballot(["Heat"], {"random": "Alien", "SASRec": "The Omen", "DreamRec": "omen!"})
    judge, asked = keeping(wanting("The Omen"))
    verdict = hold([both, both, THREE], lambda q: judge(q[:2]) + wanting("Cat People")(q[2:]))
    assert [sorted(question.options) for question in asked] == [["Alien", "The Omen"]] * 2
    assert verdict.chosen == (("SASRec", "DreamRec"),) * 2 + (("DreamRec",),)
    assert verdict.shared == 2
    assert [verdict.votes(source) for source in SOURCES] == [0, 1, 2]
    assert verdict.share("DreamRec").value == pytest.approx(2 / 3)
    lost = hold([both], wanting("Alien"))
    assert lost.shared == 0 and lost.share("random").value == 1


def test_where_all_recommend_one_title_nobody_is_asked():
    same = Ballot(["Heat"], dict.fromkeys(SOURCES, "Alien"))
    judge, asked = keeping(wanting("Brazil"))
    verdict = hold([same, THREE], judge)
    assert [question.number for question in asked] == [1]
    assert verdict.chosen == (SOURCES, ("SASRec",)) and verdict.shared == 1
    assert verdict.votes("random") == pytest.approx(1 / 3)

    def never(questions):
        raise AssertionError("nothing to ask")

    alone = hold([same] * 7, never)
    assert alone.shared == 7
    assert alone.share("random").value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Ballot([], THREE.candidates), "ballot 2: a history that is empty"),
        (Ballot(["Heat", " "], THREE.candidates), "ballot 2: a history that .*an empty title"),
        (Ballot("Heat", THREE.candidates), "ballot 2: a history"),
        (Ballot(["Heat"], {**THREE.candidates, "DreamRec": " "}), "ballot 2: DreamRec has an empt"),
        (Ballot(["Heat"], {"random": "Alien"}), "ballot 2: candidates of random; expected random,"),
        (Ballot(["Heat"], {**THREE.candidates, "x": "Alien"}), "ballot 2: candidates of .* x; exp"),
    ],
)
def test_bad_ballots(wrong, message):
    with pytest.raises(InputError, match=message):
        hold([THREE, THREE, wrong], first)


def test_no_ballots_and_one_source():
    with pytest.raises(InputError, match="no ballots"):
        hold([], first)
    with pytest.raises(InputError, match="ballot 0: candidates of a; expected at least two"):
        hold([Ballot(["Heat"], {"a": "Alien"})], first)


# A language model's likelihood.

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
def test_the_likelier_title_is_chosen(title):
    logits = np.zeros(TOKENIZER.size, np.float32)
    logits[answer_ids(title)] = 3
    verdict = hold(ballots(6), LikelihoodJudge(unigram(logits)))
    (source,) = [source for source in SOURCES if THREE.candidates[source] == title]
    assert verdict.chosen == ((source,),) * 6


def test_a_score_is_the_mean_of_the_title_s_tokens():
    """By the mean the long title wins, by the sum it would lose."""
    long, short = answer_ids("Alien Resurrection"), answer_ids("Brazil")
    logits = np.random.default_rng(0).normal(size=TOKENIZER.size).astype(np.float32)
    logits[short], logits[long] = 1.0, 1.5
    judge = LikelihoodJudge(unigram(logits))
    question = Question(0, "Which one?", ("Brazil", "Alien Resurrection"))
    (scores,) = judge.scores([question])
    by_token = np.asarray(jax.nn.log_softmax(logits))
    expected = [by_token[ids].mean() for ids in (short, long)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert by_token[short].sum() > by_token[long].sum()
    assert judge([question]) == [1]


def test_a_model_without_preference_is_a_tie():
    verdict = hold(ballots(3), LikelihoodJudge(unigram(np.zeros(TOKENIZER.size))))
    assert verdict.ties == 3 and verdict.decided == 0


def test_only_the_two_best_make_a_tie():
    alien, brazil, cat = map(set, map(answer_ids, OPTIONS))
    logits = np.zeros(TOKENIZER.size, np.float32)
    logits[[*cat - alien - brazil]] = -1
    question = Question(0, "Which?", OPTIONS)
    assert LikelihoodJudge(unigram(logits))([question]) == ["tie"]
    logits[[*cat - alien - brazil]] = 1
    assert LikelihoodJudge(unigram(logits))([question]) == [2]


@pytest.mark.parametrize(("above", "expected"), [(5e-7, "tie"), (2e-6, 0)])
def test_how_near_a_tie_is(above, expected):
    judge = LikelihoodJudge(language_model())
    judge.scores = lambda questions: [np.array([-3.0 + above, -4.0, -3.0])]
    assert judge([Question(0, "Which?", OPTIONS)]) == [expected]


def questions(count):
    """Prompts of many lengths, with two to five options each."""
    rng = np.random.default_rng(0)
    out = []
    for number in range(count):
        history = rng.choice(TITLES, rng.integers(1, 12))
        options = rng.choice(TITLES, rng.integers(2, 6), replace=False)
        out.append(Question(number, f"A person has watched {', '.join(history)}.", tuple(options)))
    return out


def test_batched_scores_are_those_of_each_answer_alone():
    """Against whole forward passes, one answer at a time, without padding or sharing."""
    lm = language_model()
    judge = LikelihoodJudge(lm, tokens=300)
    asked = questions(30)
    together = judge.scores(asked)
    for question, scores in zip(asked[:8], together, strict=False):
        prompt = TOKENIZER.encode(question.prompt, bos=True)
        for option, score in zip(question.options, scores, strict=True):
            ids = answer_ids(option)
            logits = lm(np.array([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
            alone = np.asarray(jax.nn.log_softmax(logits))[np.arange(len(ids)), ids].mean()
            assert score == pytest.approx(float(alone), abs=1e-5)
    one_by_one = [judge.scores([question])[0] for question in asked]
    for ours, alone in zip(together, one_by_one, strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)
    assert len({len(scores) for scores in together}) > 2


def test_a_model_over_several_devices_says_the_same():
    asked = questions(6)
    expected = LikelihoodJudge(language_model()).scores(asked)
    split = language_model(mesh=make_mesh((2, 2, 2)))
    assert len(split.params["layers/gate/kernel"].sharding.device_set) == 8
    for ours, alone in zip(LikelihoodJudge(split).scores(asked), expected, strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)


def test_an_answer_goes_on_after_its_prompt(data_root):
    """LLaMA's tokenizer puts a blank of its own before a text, but not in the middle of one."""
    lm = language_model(tokenizer=load_tokenizer(data_root / "tokenizers" / "llama2"))
    (question,) = asked_of([THREE])
    row = LikelihoodJudge(lm)._row(question)
    for number, option in enumerate(question.options, start=1):
        whole = lm.tokenizer.encode(f"{question.prompt} {option}", bos=True)
        assert row.tokens[(row.segments == 0) | (row.segments == number)].tolist() == whole


def test_one_program_a_length_and_batches_within_the_bound():
    lm = language_model()
    judge = LikelihoodJudge(lm, tokens=400)
    asked = questions(40)
    shapes, inner = collections.Counter(), judge._score

    def counted(params, tokens, *rest):
        shapes[tokens.shape] += 1
        return inner(params, tokens, *rest)

    judge._score = counted
    judge(asked)
    assert inner._cache_size() == len(shapes) == len({length for _, length in shapes}) > 1
    assert all(rows * length <= 400 or rows == 1 for rows, length in shapes)
    assert sum(rows * n for (rows, _), n in shapes.items()) < 1.5 * len(asked)
    assert max(shapes.values()) > 1


def test_what_a_language_model_needs():
    lm = language_model(max_length=64)
    question = Question(5, "word " * 100, ("Alien", "Brazil"))
    with pytest.raises(InputError, match=r"ballot 5: \d+ tokens .* trained on 64; .* shorter"):
        LikelihoodJudge(lm)([question])
    lm.tokenizer = None
    with pytest.raises(InputError, match="with a tokenizer"):
        LikelihoodJudge(lm)
