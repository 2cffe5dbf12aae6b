"""Documents: pieces, and what the soft tokens in them are made of."""

import numpy as np
import pytest

from recjax.text.documents import asked, blend
from recjax.text.prompts import WORDS, Prompt
from recjax.text.tasks import RESIDUAL

MOVIE = WORDS["movie"]


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("items", [(7,), (3, 9, 5), tuple(range(1, 11))])
def test_a_blend_has_length_one_and_fades_into_the_past(items, decay):
    made = blend(items, decay)
    weights = np.array(made.weights)
    assert made.items == items and len(weights) == len(items)
    assert np.linalg.norm(weights) == pytest.approx(1.0, abs=1e-12) and (weights >= 0).all()
    np.testing.assert_allclose(weights[:-1], weights[1:] * decay, rtol=1e-12)


def test_a_question_s_pieces_are_those_of_its_placeholders():
    first, second = blend([1], 0.0), blend([1, 2], 0.5)
    prompt = Prompt("{soft}, then {soft}{soft} is a {item} {soft}", "Yes {titles}.")
    four = [first, second, second, first]
    assert asked("recovery", prompt, MOVIE, ["{soft}"], four).pieces == (
        ("", False), (None, False), (", then", False), (None, False), ("", False), (None, False),
        (" is a movie", False), (None, False), ("", False), (" Yes {soft}.", True),
    )  # fmt: skip
    document = asked("residual", RESIDUAL.prompts[2], MOVIE, ["A"], [first, second])
    assert document.given == (
        "The watching history of a user was{soft} and has become{soft}. Which movie is new in it?"
    )
    assert document.text == " The new movie is A." and document.blends == (first, second)
