"""Which tokens of a freely written answer keep to a form."""

import itertools

import jax
import numpy as np
import pytest

from recjax.scoring.form_states import form_states
from recjax.scoring.form_tokens import FormTokens

# "1" (4) has "10" (4 5) beside it; 6 ends an answer, 7 too; 9 is in no answer.
FORM = FormTokens([[1, 2], [3]], [[4], [8], [4, 5]], True)
STATES = form_states(FORM, [6, 7])


def walk(*rows):
    length = max(map(len, rows))
    padded = np.array([[*row, *[9] * (length - len(row))] for row in rows], np.int32)
    return jax.tree.map(np.asarray, jax.jit(STATES.walk)(padded))


def test_every_text_of_the_form_is_read_as_it_was_written():
    chosen = np.array(list(itertools.product(range(3), repeat=2)), np.int32)
    tokens, real = jax.jit(STATES.write)(chosen)
    assert tokens.shape[1] == STATES.longest == 8
    for row, some, (a, b) in zip(np.asarray(tokens), np.asarray(real), chosen, strict=True):
        text = [*FORM.words[0], *FORM.options[a], *FORM.words[1], *FORM.options[b], 6]
        assert row[some].tolist() == text and some[: len(text)].all()
    walked = walk(*np.asarray(tokens).tolist())
    np.testing.assert_array_equal(walked.chosen, chosen)
    assert walked.whole.all()
    np.testing.assert_array_equal(walked.real, real)
    np.testing.assert_array_equal(walked.kept, real)


@pytest.mark.parametrize(
    ("tokens", "chosen", "real", "kept"),
    [
        ([1, 2, 8, 3, 4, 7], [1, 0], 6, 6),  # the other end
        ([1, 2, 4, 5, 3, 4, 5, 6], [2, 2], 8, 8),
        ([1, 2, 8, 3, 4], [1, -1], 6, 5),  # "1" or "10": not told
        ([1, 2, 8, 9, 3, 4, 6], [1, -1], 4, 3),  # nothing behind an error is read
        ([2, 2, 8, 3, 4, 6], [-1, -1], 1, 0),
        ([1, 2, 3, 8, 3, 4], [-1, -1], 3, 2),  # a word in an option's place
        ([1, 2, 4, 9], [-1, -1], 4, 3),
    ],
)
def test_an_answer_is_read_up_to_its_first_error(tokens, chosen, real, kept):
    walked = walk([*tokens, 9])
    assert walked.chosen[0].tolist() == chosen
    assert (walked.real.sum(), walked.kept.sum()) == (real, kept)
    assert walked.whole[0] == (min(chosen) >= 0)


def test_tokens_belong_to_the_words_or_to_an_option():
    walked = walk([1, 2, 4, 3, 4, 6])
    # The 3 behind "4" says that it is 4 and not 4 5: it is a part of that choice, as the end is.
    assert walked.choice[0].tolist() == [False, False, True, True, True, True]
    walked = walk([1, 2, 8, 3, 8, 6])
    assert walked.choice[0].tolist() == [False, False, True, False, True, False]
