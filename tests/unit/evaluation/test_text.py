"""Text metrics beside sacrebleu and rouge-score, numbers in texts, ranks of beams."""

import math

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.evaluation.text import bleu, list_rank, number_errors, parse_number, rouge

REFERENCES = [
    "The filter works, and it is cheap.",
    "Great gift-card for $25.00; my mother's choice!",
    "It arrived on time &amp; undamaged",
    "one two three four five six",
    "x",
    "cheap filter",
]
TEXTS = [
    "The filter works and is quite cheap.",
    "A great gift card for $25, my mother's choice",
    "It arrived late & was undamaged",
    "one two three four five six",
    "",
    "cheap filter",  # all right, and too short for four words
]


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize(
    "chosen", [slice(0, 5), slice(0, 1), slice(2, 3), slice(4, 5), slice(5, 6)]
)
def test_bleu_is_sacrebleus(order, chosen):
    oracle = pytest.importorskip("sacrebleu").BLEU(max_ngram_order=order)
    texts, references = TEXTS[chosen], REFERENCES[chosen]
    wanted = oracle.corpus_score(texts, [references]).score
    assert bleu(texts, references, order) == pytest.approx(wanted, abs=1e-9)


def test_bleu_of_random_words_is_sacrebleus():
    oracle = pytest.importorskip("sacrebleu").BLEU()
    rng = np.random.default_rng(0)
    words = np.array(["a", "b.", "c,d", "3.5", "3-4", "e", "(f)", "g's"])
    texts, references = (
        [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(40)] for _ in range(2)
    )
    wanted = oracle.corpus_score(texts, [references]).score
    assert bleu(texts, references) == pytest.approx(wanted, abs=1e-9)


def test_rouge_is_rouge_scores():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeL"]
    )
    scored = [scorer.score(r, t) for t, r in zip(TEXTS, REFERENCES, strict=True)]
    for name, value in rouge(TEXTS, REFERENCES).items():
        wanted = 100 * np.mean([score[name].fmeasure for score in scored])
        assert value == pytest.approx(wanted, abs=1e-9)


def test_scripts_without_blanks_are_compared_by_characters():
    chinese = ["\u8fd9\u662f\u4e00\u672c\u597d\u4e66\uff0c\u4ef7\u683c25\u5143\u3002"]
    other = [chinese[0].replace("\u597d", "\u574f")]
    sacrebleu = pytest.importorskip("sacrebleu")
    for texts in (chinese, other):
        wanted = sacrebleu.BLEU(tokenize="zh").corpus_score(texts, [chinese]).score
        assert bleu(texts, chinese) == pytest.approx(wanted, abs=1e-9)
    assert bleu(chinese, chinese) == pytest.approx(100)
    assert rouge(chinese, chinese) == dict.fromkeys(("rouge1", "rouge2", "rougeL"), 100.0)
    assert rouge(other, chinese)["rouge1"] == pytest.approx(100 * 9 / 10)
    for word in (
        "caf\u00e9",
        "\u0445\u043e\u0440\u043e\u0448\u043e",
        "\u092a\u094d\u0930\u0927\u093e\u0928",
    ):
        assert rouge([f"a {word}\u2019s"], [f"a {word}"])["rouge1"] == pytest.approx(80)


def test_numbers_in_texts():
    cases = {"4": 4, "4.5 stars": 4.5, "rated 3,5/5": 3.5, "-1": -1, ".5": 0.5, "none": None}
    assert {text: parse_number(text) for text in cases} == cases
    stars = {"fallback": 3.5, "least": 1.0, "most": 5.0}
    found = number_errors(["5", "no", "9", "2"], [4.0, 3.0, 5.0, 2.0], **stars)
    assert found["mae"] == pytest.approx((1 + 0.5) / 4) and found["parsed"] == 0.75
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 0.25) / 4))


def test_texts_and_references_are_as_many():
    with pytest.raises(InputError, match="2 texts and 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(InputError, match="0 texts"):
        rouge([], [])
    with pytest.raises(InputError, match="1 texts and 0 numbers"):
        number_errors(["1"], [], fallback=3, least=1, most=5)


def test_a_title_of_several_items_is_pessimistic():
    groups = [[3], [5, 6, 7], [], [5, 9]]
    assert list_rank(groups, 3, frozenset()) == 1
    assert [list_rank(groups, k, frozenset()) for k in (5, 6, 7)] == [4, 4, 4]
    assert list_rank(groups, 6, frozenset({5, 3})) == 2  # seen items take no part
    assert list_rank(groups, 5, frozenset({5})) == 4  # but the target does
    assert list_rank(groups, 9, frozenset()) == 5  # 5 counts once
    assert list_rank(groups, 8, frozenset()) == math.inf
