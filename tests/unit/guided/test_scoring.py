"""Raters: what a model's answers become."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.guided.aspects import Aspect, AspectSet
from recjax.guided.prompts import answer_form, question
from recjax.guided.scoring import EndpointRater, Rater
from recjax.llm import LanguageModel
from recjax.llm_folders import load_llm
from recjax.models import glm, t5
from recjax.models.definition import define, params_of
from recjax.models.language import family_for
from recjax.recsysllm.spans import COMMANDS, Marks
from recjax.scoring.endpoint import Endpoint
from recjax.scoring.forms import FormFiller
from recjax.text.bpe import train_bpe

TEXTS = ["title: Alien", "title: The Omen\nyear: 1976", "title: Brazil", "title: x"]


def scores(rated):
    return np.array([one.scores for one in rated], float)


def test_forced_scores_are_the_forms_choices(scorer, own):
    rate = Rater(scorer, own, "item", batch_size=3)
    assert rate.form == "text"
    seen = []
    rated = rate(TEXTS, lambda place, one: seen.append((place, one)))
    filled = FormFiller(scorer, answer_form(own))(rate.prompts(TEXTS))
    assert (scores(rated) == filled.chosen + 1).all()
    assert seen == list(enumerate(rated))
    expected = scores(Rater(scorer, own, "item", value="expected")(TEXTS))
    wanted = np.exp(filled.log_probs) @ np.arange(1, 11)
    np.testing.assert_allclose(expected, wanted, rtol=1e-5)
    users = scores(Rater(scorer, own, "user")(TEXTS))
    assert (users != scores(rated)).any()  # asked in other words


@pytest.mark.parametrize("how", ["forced", "apart"])
def test_calibration_divides_by_what_no_content_says(scorer, own, how):
    rate = Rater(scorer, own, "item", how=how, value="expected", calibrate=True)
    filler = FormFiller(scorer, answer_form(own), "chain" if how == "forced" else "apart")
    log_probs = filler(rate.prompts(TEXTS)).log_probs
    empty = np.exp(filler(rate.prompts(["N/A", "[MASK]", ""])).log_probs).mean(0)
    wanted = np.exp(log_probs) / empty
    wanted /= wanted.sum(-1, keepdims=True)
    np.testing.assert_allclose(scores(rate(TEXTS)), wanted @ np.arange(1, 11), rtol=1e-4)
    likeliest = Rater(scorer, own, "item", how=how, calibrate=True)
    assert (scores(likeliest(TEXTS)) == wanted.argmax(-1) + 1).all()


@pytest.mark.parametrize("module", [glm, t5])
def test_free_answers_of_models_with_blanks_or_an_encoder(own, module):
    """They are asked as `generate` asks them texts."""
    text = question(own, "item", TEXTS[0]).text
    tokenizer = train_bpe([text] * 3, 400, commands=COMMANDS, ends=True)
    sizes = {"dim": 32, "mlp_dim": 128, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16}
    config = module.Config(tokenizer.size, max_length=512, **sizes)
    if module is glm:
        marks = Marks.of(tokenizer)
        config = dataclasses.replace(config, init_std=0.3)
        config = config.with_ids(marks.sop, marks.mask, marks.document, marks.sentence)
    build = family_for(config).build
    definition = define(lambda rngs: build(config, rngs=rngs))
    params = params_of(build(config, rngs=nnx.Rngs(0)))
    lm = LanguageModel(definition, params, config, tokenizer=tokenizer)
    rate = Rater(lm, own, "item", how="free")
    expected = lm.generate([text], max_new_tokens=rate.longest).texts
    assert [rated.answer for rated in rate(TEXTS[:1])] == expected


def test_free_answers_are_read_by_rules(scorer, own, monkeypatch):
    rate = Rater(scorer, own, "item", how="free")
    assert all(one.answer is not None for one in rate(TEXTS[:1]))
    said = ["tension: 5\npace: 12", "length: 3, pace: 4, tension: 1"]

    class Made:
        texts = said

    monkeypatch.setattr(LanguageModel, "generate", lambda self, prompts, **options: Made)
    first, second = rate(TEXTS[:2])
    assert first.scores == (5, None, None) and second.scores == (1, 4, 3)
    assert (first.parsed.missing, first.parsed.out_of_range) == (1, 1)
    assert second.parsed.well_formed


def test_a_chat_model_is_asked_by_its_template(scorer_folder, own, tmp_path):
    pytest.importorskip("jinja2")
    import shutil

    folder = tmp_path / "chat"
    shutil.copytree(scorer_folder, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    )
    lm = load_llm(folder)
    rate = Rater(lm, own, "item")
    assert rate.form == "chat"
    text = lm.tokenizer.decode(rate.prompts(TEXTS[:1])[0])
    assert text.startswith("[system]You are a critic") and text.endswith("title: Alien[assistant]")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    text = lm.tokenizer.decode(Rater(load_llm(folder), own, "item").prompts(TEXTS[:1])[0])
    assert text.startswith("[user]You are a critic of books") and "title: Alien" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "free", "value": "expected"}, "free answers have no probabilities"),
        ({"how": "free", "calibrate": True}, "free answers have no probabilities"),
        ({"how": "quick"}, "how 'quick': expected one of forced, apart, free"),
        ({"value": "mean"}, "value 'mean': expected one of likeliest, expected"),
        ({"form": "chat"}, "no chat template"),
    ],
)
def test_options_that_do_not_go_together(scorer, own, options, message):
    with pytest.raises(InputError, match=message):
        Rater(scorer, own, "item", **options)(TEXTS[:1])


def test_a_text_too_long_for_the_model(scorer, own):
    with pytest.raises(InputError, match="item 7: .* tokens with the answer; the model was traine"):
        Rater(scorer, own, "item")(["x " * 3000], names=["item 7"])


def test_an_endpoint(endpoint, own):
    endpoint.reply = staticmethod(
        lambda asked, n: (200, "Tension: 9/10\nPace: 2\nLength: 30" if "Alien" in asked else "No.")
    )
    seen = {}
    rate = EndpointRater(Endpoint(endpoint.url, "m"), own, "item", budget=3)
    rated = rate(TEXTS[:2], seen.__setitem__)
    assert rated[0].scores == (9, 2, None) and rated[1].scores == (None,) * 3
    assert seen == dict(enumerate(rated))
    system, user = endpoint.requests[0]
    assert system["role"] == "system" and "a critic of books" in system["content"]
    assert user["role"] == "user" and user["content"].startswith("This is known of the book:")
    assert len(rate(TEXTS)) == 1 and rate(TEXTS) == []  # the budget
    assert "m" in json.dumps(rate.settings)


def test_an_endpoints_answer_has_room_for_any_alphabet_and_a_cut_number_is_none(endpoint, own):
    names = tuple(Aspect("\u60c5\u611f\u5f3a\u5ea6" + mark) for mark in "\u7532\u4e59\u4e19")
    aspects = AspectSet("zh", names)
    rate = EndpointRater(Endpoint(endpoint.url, "m"), aspects, "item")
    assert rate._most >= len(answer_form(aspects).text([9, 9, 9]).encode())
    cut = {"message": {"content": "Tension: 9\nPace: 1"}, "finish_reason": "length"}
    endpoint.reply = staticmethod(lambda asked, n: (200, {"choices": [cut]}))
    rated = EndpointRater(Endpoint(endpoint.url, "m"), own, "item")(TEXTS[:1])
    assert rated[0].scores == (9, None, None)  # of 10, perhaps
