"""Titles by beams, recommendations, given answers, switches of a small run of all families."""

import dataclasses

import numpy as np
import pytest

from recjax.config import build
from recjax.errors import InputError
from recjax.recsysllm.candidates import beside, option_scores
from recjax.recsysllm.passages import named
from recjax.recsysllm.prompts import PROMPTS
from recjax.recsysllm.run import BlankRun
from recjax.recsysllm.settings import BlankRunConfig


def test_beams_find_titles_and_all_items_of_each(trained):
    run, _ = trained
    params = run.restore(run.best_step())
    answerer, done = run.answers.answerer(params), []
    answerer = dataclasses.replace(
        answerer, config=dataclasses.replace(answerer.config, batch_size=2)
    )
    _, passages = run.source.questions("test", "2-3", 3, 0)
    lines = answerer.titles(passages, beams=run.store.n_items, progress=done.append)
    assert done == [2, 1]
    for found in lines:
        items = [item for those, _ in found for item in those]
        assert sorted(items) == list(range(1, run.store.n_items))  # every title, none twice
        assert [1, 2] in [sorted(those) for those, _ in found]  # two items have one title
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)


def test_recommend_works_as_for_every_recommender(trained, recjax, tmp_path):
    run, _ = trained
    user = run.store.user_keys[3]
    found = run.recommend([user], k=5)
    assert found.ids.shape == (1, 5) and found.users == [user]
    seen = set(run.store.items[run.store.offsets[3] : run.store.offsets[4]].tolist())
    listed = [k for k in found.ids[0].tolist() if k]
    assert len(listed) >= 3 and not set(listed) & seen and len(set(listed)) == len(listed)
    assert (np.diff(found.scores[0][: len(listed)]) <= 0).all()
    keys = [run.store.catalog[k]["key"] for k in (4, 9)]
    history = run.recommend([keys], k=3, among=[run.store.catalog[7]["key"]])
    assert history.ids[0].tolist() == [7, 0, 0]
    out = tmp_path / "lists.csv"
    status, result, _ = recjax(
        "recommend",
        f"--workdir={run.workdir}",
        f"--out={out}",
        "--k=2",
        "--json",
        f"--history={','.join(keys)}",
    )
    assert status == 0 and result["histories"] == 1
    assert len(out.read_text().splitlines()) == 3
    with pytest.raises(InputError, match="k: expected a whole number from 1"):
        run.recommend([keys], k=0)


def test_options_are_ranked_by_likelihood(trained):
    """The scores of a batch are those of each option alone."""
    run, _ = trained
    params = run.restore(run.best_step())
    blanks = run.evaluator("test").blanks
    _, passages = run.source.questions("test", "5-5", 2, 0)
    options = [[named([name]) for name in passage.options] for passage in passages]
    args = (run.batches.blanking, blanks.config, blanks.predict, params)
    both = option_scores(*args, passages, options)
    whole = option_scores(*args, passages, options, mean=False)
    assert all((w <= s).all() for w, s in zip(whole, both, strict=True))
    assert [len(scores) for scores in both] == [5, 5] and all(p.options for p in passages)
    alone = [option_scores(*args, passages[1:], [[option]])[0][0] for option in options[1]]
    np.testing.assert_allclose(both[1], alone, rtol=1e-4)


def test_answers_stand_behind_one_question(trained):
    """As many as a row has room for; another question begins another row."""
    run, _ = trained
    _, passages = run.source.questions("test", "5-5", 2, 0)
    asked = [dataclasses.replace(p, answer=named([name])) for p in passages for name in p.options]
    blanked = run.batches.blanking(asked, np.zeros(len(asked), np.int64))
    owners, lengths = np.repeat([0, 1], 5), blanked.lengths
    wide, narrow = (beside(blanked, owners, size) for size in (1000, lengths.max() + 6))
    assert [row.options[-1] for row in wide] == [5, 5]
    assert 2 < len(narrow) <= 10 and sum(row.options[-1] for row in narrow) == 10
    assert max(row.lengths[0] for row in narrow) <= lengths.max() + 6
    for rows in (wide, narrow):
        found = [t for row in rows for t in row.targets[row.options > 0]]
        first = np.cumsum(lengths) - lengths
        stops, starts = first + lengths, first + blanked.sources
        spans = [blanked.targets[a:b] for a, b in zip(starts, stops, strict=True)]
        np.testing.assert_array_equal(found, np.concatenate(spans))


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_dynamic_switch_is_in_decoding(section, dynamic):
    config = build(BlankRunConfig, section(answers={"dynamic": dynamic}), "config")
    from recjax.data.store import open_store

    run = BlankRun(config, open_store(config.data.store))
    answerer = run.answers.answerer(run.whole(run.init_state().params))
    rule = type(answerer._titles._rule).__name__
    assert rule == ("DynamicPositions" if dynamic else "CountedPositions")


def test_questions_end_with_their_mask(trained):
    run, _ = trained
    blanking = run.batches.blanking
    _, passages = run.source.questions("test", "3-9", 1, 0)
    row = blanking.questions(passages)[0]
    assert row[-2:].tolist() == [run.marks.document, run.marks.eos]
    whole = blanking(passages, np.zeros(1, int))
    assert whole.tokens[: whole.sources[0]].tolist() == row.tolist()  # as in training
    assert PROMPTS["3-9"].family == passages[0].kind


def test_a_prompt_that_names_no_next_item_is_an_error(section, store):
    made = section()
    made["text"]["tasks"] = {"sequential": 1.0, "only": ("2-11",)}
    run = BlankRun(build(BlankRunConfig, made, "config"), store)
    with pytest.raises(InputError, match=r"config.text.tasks.only: 2-11; recommendation asks"):
        run.recommend([store.user_keys[0]])


@pytest.mark.parametrize("prefix", [False, True])
def test_a_causal_family_learns_the_same_blanks_and_answers_with_titles(
    section, store, trained, prefix
):
    """A written title has the likelihood that it has as a given answer, however texts are read."""
    made = {**section(), "prefix": prefix}
    made["model"] = {**made["model"], "name": "qwen3", "tied": False, "layers": 2}
    run = BlankRun(build(BlankRunConfig, made, "config"), store)
    assert not run.two and trained[0].two
    batch, ours = run.batches(0), trained[0].batches(0)  # entities whole, as GLM's
    assert all(np.array_equal(batch[key], ours[key]) for key in batch)
    first = {key: value[0] for key, value in batch.items()}
    params = run.whole(run.init_state().params)
    total, weight = run.loss_fn(params, first, None, None)
    assert float(total / weight) == pytest.approx(np.log(run.tokenizer.size), rel=0.1)
    params = {path: a * 8 if a.ndim > 1 else a for path, a in params.items()}
    _, passages = run.source.questions("test", "2-3", 2, 0)
    lines = run.answers.answerer(params).titles(passages, beams=4)
    assert all(len(found) == 4 and all(items for items, _ in found) for found in lines)
    args = (run.batches.blanking, run.config.evaluation, run.predict, params)
    titles = run.source.dataset.names.titles
    options = [[named([titles[items[0]]]) for items, _ in found] for found in lines]
    together = option_scores(*args, passages, options)
    written = [[score for _, score in found] for found in lines]
    np.testing.assert_allclose(together, written, rtol=1e-4)
    alone = [option_scores(*args, passages[:1], [[option]])[0][0] for option in options[0]]
    np.testing.assert_allclose(together[0], alone, rtol=1e-4)
