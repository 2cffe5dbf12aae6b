"""A small run of all families: its metrics, titles by beams, recommendations, switches."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

from recjax.config import build
from recjax.data.prepare import DataConfig, prepare
from recjax.data.simulate import SimulateConfig, simulate, write_raw
from recjax.errors import InputError
from recjax.recsysllm.candidates import beside, option_scores
from recjax.recsysllm.mixed import Mixed, MixedOptions
from recjax.recsysllm.passages import Passage, Piece, named
from recjax.recsysllm.pretrain import OWN
from recjax.recsysllm.prompts import PROMPTS
from recjax.recsysllm.run import BlankRun
from recjax.recsysllm.scores import TaskEvaluator, kind_of
from recjax.recsysllm.settings import BlankRunConfig
from recjax.recsysllm.tasks import TasksConfig
from recjax.training.ranking_run import SplitConfig
from recjax.training.workdir import build_config, complete, open_run, start_run

USERS, ITEMS = 40, 30


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Few items; two have one title."""
    config = SimulateConfig(users=USERS, items=ITEMS, mean_length=7, max_length=10)
    log, catalog = simulate(config)
    keys = list(catalog)
    catalog[keys[1]]["title"] = catalog[keys[0]]["title"]
    folder = tmp_path_factory.mktemp("answers")
    write_raw(log, catalog, folder / "raw")
    options = {"file": "interactions.csv", "rating": "rating", "items": "items.jsonl"}
    data = {"source": "table", "path": str(folder / "raw"), "store": str(folder / "store")}
    return prepare(build(DataConfig, {**data, "options": options}, "config.data"))


@pytest.fixture(scope="module")
def reviews(store, tmp_path_factory):
    """A review of every interaction, in ten sentences that ratings go with."""
    file = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    lines = []
    for user, key in enumerate(store.user_keys):
        for place in range(store.offsets[user], store.offsets[user + 1]):
            record = store.catalog[store.items[place]]
            words = ("sturdy", "boring", "funny", "gloomy", "clever", "dated")
            body = f"It is a {words[place % 6]} book indeed. More."
            lines.append({"user": key, "item": record["key"], "text": body, "headline": body[5:12]})
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture(scope="module")
def section(store, reviews):
    options = {"file": "interactions.csv", "rating": "rating", "items": "items.jsonl"}
    raw = store.path.parent / "raw"
    data = {"source": "table", "path": str(raw), "store": str(store.path), "options": options}

    def section(**text):
        return {
            "data": data,
            "model": {
                "name": "glm", "dim": 32, "mlp_dim": 128, "layers": 1, "heads": 2, "kv_heads": 2,
                "head_dim": 16, "max_length": 160, "tied": True,
            },
            "tokenizer": {"vocab_size": 500},
            "text": {
                "source": "tasks",
                "behaviour": {"domain": "book"},
                "tasks": {
                    "rating": 1.0, "explanation": 1.0, "review": 1.0, "direct": 1.0,
                    "candidates": 5, "history": 4, "reviews": str(reviews),
                },
                "answers": {"max_examples": 6, "free": 3, "beams": 4, "batch_size": 6, "tokens": 8},
                **text,
            },
            "blanks": {"shuffle": False},
            "optim": {"learning_rate": 3e-3},
            "train": {"batch_size": 32, "epochs": 0.3},
            "evaluation": {"max_examples": 8},
        }  # fmt: skip

    return section


@pytest.fixture(scope="module")
def trained(section, tmp_path_factory):
    from recjax.api import train

    workdir = tmp_path_factory.mktemp("run") / "run"
    rest = "hr@5 and ndcg@5, hr@10 and ndcg@10"
    lists = rf"answers.beams: 4 beams find no longer lists; {rest} of lists are left .* least 10 "
    choices = rf"tasks.candidates: 5 are never ranked lower; {rest} of choices are .* least 11 "
    with (  # before the first step
        pytest.warns(UserWarning, match=lists),
        pytest.warns(UserWarning, match=choices),
    ):
        result = train({"system": "recsysllm", **section()}, workdir)
    return open_run(workdir), result


def test_every_metric_is_there_and_in_range(trained):
    run, result = trained
    evaluator = run.evaluator("test")
    values = {name: result[name] for name in evaluator.metric_names}  # all are there
    for name in ("full/hr@1", "2-13/full/ndcg@1", "full_with_seen/hr@1", "gen/valid_ratio"):
        assert 0 <= values[f"test/{name}"] <= 1
    assert 0 <= values["test/uni5/hr@1"] <= 1 and "test/uni5/hr@5" not in values  # always 1
    assert 0 <= values["test/rating/rmse"] <= 4 and values["test/1-10/rating/mae"] <= 4
    assert values["test/rating/baseline/parsed"] == 1
    assert 0 <= values["test/rating/expected/rmse"] <= 4
    assert 0 <= values["test/explanation/rouge1"] <= 100 and "test/3-12/explanation/bleu4" in values
    assert "test/review/bleu2" in values and "test/4-4/review/rmse" in values
    assert values["test/full/hr@1"] >= values["test/full_with_seen/hr@1"]
    assert not any(name.endswith("full/hr@5") for name in values)  # of four beams
    assert {kind_of(i) for i in ("2-1", "2-7", "1-1", "3-1")} == {
        "list",
        "choice",
        "number",
        "text",
    }


@pytest.fixture(scope="module")
def measured(trained):
    """Every question of the test, asked and told once."""
    run, _ = trained
    evaluator, done = run.measurer("test"), []
    out = evaluator.measure(run.restore(run.best_step()), done.append)
    assert sum(done) == evaluator.count
    return out


def test_each_question_counts_in_the_metrics(trained, measured):
    run, result = trained
    assert measured.targets.tolist() == run.store.items[measured.examples].tolist()
    owners = dict(zip(run.split.test.stops.tolist(), run.split.test.users.tolist(), strict=True))
    assert measured.users.tolist() == [owners[place] for place in measured.examples.tolist()]
    assert {f"test/{k}" for k in ("rating/rmse", "full/hr@1")} <= {*measured.metrics}
    for name, value in measured.metrics.items():
        assert result[name] == value
        protocol, metric = name.removeprefix("test/").rsplit("/", 1)
        columns = measured.values.get(protocol, {})
        squared = metric == "rmse"
        column = columns.get("mse" if squared else metric)
        if column is not None:
            mean = np.nanmean(column)
            assert (mean**0.5 if squared else mean) == pytest.approx(value)
            assert np.count_nonzero(~np.isnan(column)) <= 6
    # The explanation's prompts ask about targets with a review; all here have one.
    assert {"full", "2-13/full_with_seen", "uni5", "rating", "rating/expected"} <= {
        *measured.values
    }


def test_compared_with_itself_and_with_a_recommender(trained, section, recjax, tmp_path):
    from recjax.api import train

    run, result = trained
    other = {
        "data": section()["data"], "model": {"name": "sasrec", "dim": 8, "max_length": 6},
        "train": {"batch_size": 32, "epochs": 1.0},
    }  # fmt: skip
    train(other, tmp_path / "sasrec")
    for a, b in ((run.workdir, tmp_path / "sasrec"), (tmp_path / "sasrec", run.workdir)):
        status, out, err = recjax("evaluate", f"--workdir={a}", f"--against={b}", "--json")
        assert status == 0 and (out["examples"], out["users"]) == (6, 6)
        assert {"test/full/hr@1", "test/full/ndcg@1"} == {*out["metrics"]}
        side = "a" if a == run.workdir else "b"
        assert out["metrics"]["test/full/hr@1"][side] == result["test/full/hr@1"]
        assert "6 examples of 6 users; 95% intervals" in err
    status, out, err = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--against={run.workdir}", "--split=validation",
        "--json",
    )  # fmt: skip
    assert status == 0 and {"validation/rating/mse", "validation/uni5/hr@1"} <= {*out["metrics"]}
    rows = out["metrics"].values()
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in rows)
    assert all(row["examples"] == 6 for row in rows) and "validation/rating/mae" in err
    status, _, err = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--against={run.workdir}", "--protocols=full"
    )  # fmt: skip
    assert status == 2 and "is no recommender's run" in err.splitlines()[-1]
    evaluation = {"cutoffs": (7,), "protocols": ("full",)}
    best = {**other["train"], "metric": "validation/full/mrr"}
    train({**other, "train": best, "evaluation": evaluation}, tmp_path / "seven")
    status, _, err = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--against={tmp_path}/seven"
    )  # fmt: skip
    assert status == 2 and "/seven: has no metric of an example in common" in err.splitlines()[-1]


def test_each_question_in_a_file(trained, measured, recjax, tmp_path):
    run, _ = trained
    file = tmp_path / "users.jsonl"
    status, out, _ = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--per-user={file}", "--json"
    )  # fmt: skip
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert status == 0 and out == measured.metrics and len(rows) == len(measured.users)
    ranks = measured.values["full"]["rank"]
    assert np.isinf(ranks).any()
    for row, rank in zip(rows, ranks, strict=True):
        assert row["full/rank"] == (int(rank) if np.isfinite(rank) else None)
        assert (row["full/hr@1"] is None) == np.isnan(rank)


def test_numbers_stay_within_the_ratings_of_training(trained):
    """Which may have halves, or go up to 3 alone."""

    class Given(TaskEvaluator):
        def _training(self, id, form):
            return [0.5, 3.0]

        def expected(self, answerer, params, passages, numbers):
            return [0.0]

    class Writer:
        def texts(self, passages, progress):
            return ["9 stars"]

    run, _ = trained
    source = types.SimpleNamespace(options=run.source.options)
    evaluator = Given(None, source, None, "test")
    asked = [Passage("rating", (Piece("?"),), (Piece("3"),), prompt="1-2")]
    values = evaluator.ask(Writer(), None, "1-2", np.zeros(1, int), asked).metrics
    assert values["rating/mae"] == 0 and values["rating/expected/mae"] == 2.5


@pytest.fixture(scope="module")
def untrained(section, store):
    return BlankRun(build(BlankRunConfig, section(), "config"), store)


def test_texts_are_no_longer_than_the_model_goes(untrained):
    evaluator = untrained.evaluator("test")
    assert evaluator.most == 160
    with pytest.raises(InputError, match=r"config.text.answers.tokens: 8; expected at most 7, as"):
        dataclasses.replace(evaluator, most=7).check()


def test_a_family_without_data_in_a_part_is_left_out_there(untrained, reviews, store, tmp_path):
    held_out = untrained.split.validation
    owners, stops = held_out.users.tolist(), held_out.stops.tolist()
    keys = store.user_keys, [record and record["key"] for record in store.catalog]
    pairs = {(keys[0][u], keys[1][store.items[k]]) for u, k in zip(owners, stops, strict=True)}
    rows = [json.loads(line) for line in reviews.read_text().splitlines()]
    file = tmp_path / "reviews.jsonl"
    kept = [row for row in rows if (row["user"], row["item"]) not in pairs]
    file.write_text("\n".join(map(json.dumps, kept)))
    tasks = TasksConfig(text=0, sequential=1, review=1, reviews=str(file))
    source = Mixed(MixedOptions(tasks=tasks), store, SplitConfig(), 0)
    assert {source.stream(place).kind for place in range(20)} == {"sequential", "review"}
    with pytest.warns(UserWarning, match=r"tasks.review: nothing of the validation has what its"):
        assert {p.kind for p in source.held_out("validation", 9, 0)} == {"sequential"}
    assert {p.kind for p in source.held_out("test", 9, 0)} == {"sequential", "review"}


def test_a_run_goes_on_with_moved_files(trained, section, reviews, tmp_path):
    """With other reviews it does not."""
    workdir, file = tmp_path / "run", tmp_path / "moved.jsonl"
    shutil.copytree(trained[0].workdir, workdir)
    file.write_text(reviews.read_text())
    made = {"system": "recsysllm", **section()}
    made["text"]["tasks"]["reviews"] = str(file)
    config = build_config(complete(made))
    start_run(config, workdir).claim.abandon()
    file.write_text(reviews.read_text().replace("boring", "boringly"))
    with pytest.raises(InputError, match="a checkpoint of another"):
        start_run(config, workdir)


def test_titles_are_no_longer_than_an_answer_may_be(untrained, section, store):
    longest = untrained.batches.blanking.pool.longest
    for length in (longest + OWN, longest + OWN - 1):
        made = {**section(), "length": length, "blanks": {"sentence": 1.0}}
        run = BlankRun(build(BlankRunConfig, made, "config"), store)
        if length == longest + OWN:
            assert run.batches.blanking.length == length
            assert run.batches.blanking.ends is run.batches.ends  # decoded once
            continue
        with pytest.raises(InputError, match=f"entity .*expected 1 to {longest - 1}, for no"):
            run.batches  # noqa: B018


def test_figures_of_given_scores(untrained):
    """A number's mean is by the likelihood of the whole answer; ties of candidates count against
    the right one; items of the history take part in one of the two rankings."""
    run = untrained
    asked_for = {}

    class Given(TaskEvaluator):
        def _option_scores(self, answerer, params, passages, options, *, mean):
            asked_for[len(options[0])] = mean
            return [np.log([1.0, 3.0, 3.0])[: len(some)] for some in options]

    known = run.evaluator("test")
    evaluator = Given(known.blanks, run.source, None, "test")
    rating = [Passage("rating", (Piece("?"),), (Piece("3"),), prompt="1-2")]
    assert evaluator.expected(None, None, rating, [1.0, 5.0]) == pytest.approx([4.0])
    choice = [
        Passage("direct", (Piece("?"),), (Piece(name, True),), options=("a", "b", "c"))
        for name in "abc"
    ]
    assert evaluator.choices(None, None, choice).tolist() == [3, 2, 2]
    assert asked_for == {2: False, 3: True}
    part, items = run.split.test, run.store.items
    seen, target = int(items[part.starts[0]]), int(items[part.stops[0]])
    lines = [[([seen], -0.1), ([target], -0.2)]]
    beams = types.SimpleNamespace(titles=lambda passages, progress: lines)
    ranks = evaluator.ranks(beams, np.zeros(1, int), [None])
    assert {name: r.tolist() for name, r in ranks.items()} == {"full": [1], "full_with_seen": [2]}
    train = run.split.train
    places = [k for span in zip(train.starts, train.stops, strict=True) for k in range(*span)]
    expected = sorted(float(run.store.ratings[k]) for k in places)
    assert sorted(known._training("1-2", float)) == expected


@pytest.mark.parametrize("name", ["validation", "test"])
def test_no_candidate_is_another_item_of_its_user(untrained, name):
    """Neither an earlier one nor a later one: in validation not what is tested, either."""
    run = untrained
    part, titles = getattr(run.split, name), run.source.dataset.names.titles
    chosen, passages = run.source.questions(name, "5-5", USERS, 0)
    assert len(passages) == USERS
    for k, passage in zip(chosen.tolist(), passages, strict=True):
        user = part.users[k]
        met = run.store.items[run.store.offsets[user] : run.store.offsets[user + 1]]
        assert {titles[i] for i in met} & {*passage.options} == {passage.answer[0].text}


def test_beams_find_titles_and_all_items_of_each(trained):
    run, _ = trained
    params = run.restore(run.best_step())
    answerer, done = run.answers.answerer(params), []
    answerer = dataclasses.replace(
        answerer, config=dataclasses.replace(answerer.config, batch_size=2)
    )
    _, passages = run.source.questions("test", "2-3", 3, 0)
    lines = answerer.titles(passages, beams=ITEMS, progress=done.append)
    assert done == [2, 1]
    for found in lines:
        items = [item for those, _ in found for item in those]
        assert sorted(items) == list(range(1, ITEMS + 1))  # every title, none twice
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
