"""Titles with tokens of their own, which start from a recommender's vectors."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from recjax.api import train
from recjax.config import build
from recjax.errors import InputError
from recjax.llm_folders import load_llm
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.item_tokens import embeddings, known_tokens, token_names
from recjax.recsysllm.passages import Piece, PieceEncoder
from recjax.recsysllm.run import BlankRun
from recjax.recsysllm.settings import BlankRunConfig
from recjax.text.tokenizers import Tokenizer
from recjax.training.workdir import open_run, start_run
from tests.unit.recsysllm.conftest import TITLES

USERS, ITEMS = 40, 24
OPTIONS = {"users": USERS, "items": ITEMS, "mean_length": 7.0, "max_length": 10}


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    """A SASRec that has learned a little."""
    folder = tmp_path_factory.mktemp("item-tokens")
    section = {
        "data": {"source": "simulated", "store": str(folder / "store"), "options": OPTIONS},
        "model": {"name": "sasrec", "dim": 8, "max_length": 10},
        "train": {"epochs": 2.0},
    }
    train(section, folder / "sasrec")
    return folder / "sasrec"


@pytest.fixture(scope="module")
def section(recommender):
    def section(model="glm", **naming):
        made = {
            "data": {
                "source": "simulated", "store": str(recommender.parent / "store"),
                "options": OPTIONS,
            },
            "model": {
                "name": model, "dim": 16, "mlp_dim": 64, "layers": 1, "heads": 2, "kv_heads": 2,
                "head_dim": 8, "max_length": 96,
            },
            "tokenizer": {"vocab_size": 400},
            "text": {
                "source": "tasks",
                "behaviour": {"domain": "book"},
                "tasks": {"history": 4, "only": ("2-3",)},
                "naming": {"token": True, "run": str(recommender), **naming},
                "answers": {
                    "max_examples": 6, "free": 2, "beams": 4, "batch_size": 6, "cutoffs": (1, 4),
                },
            },
            "blanks": {"shuffle": False},
            "train": {"batch_size": 8, "epochs": 0.3},
            "evaluation": {"max_examples": 8},
        }  # fmt: skip
        if model == "glm":
            made["model"]["tied"] = True
        return made

    return section


def opened(section, store):
    return BlankRun(build(BlankRunConfig, section, "config"), store)


@pytest.fixture(scope="module")
def store(recommender):
    return open_run(recommender).store


@pytest.mark.parametrize("spelled", [True, False])
def test_a_title_begins_with_its_own_token(glm_tokenizer, spelled):
    names = Names(TITLES)
    tokenizer = glm_tokenizer.with_controls(token_names(len(names.distinct)))
    assert tokenizer.size == glm_tokenizer.size + len(names.distinct)
    own = known_tokens(tokenizer, names)
    assert sorted(own.values()) == list(range(glm_tokenizer.size, tokenizer.size))
    encoder = PieceEncoder(tokenizer, own, spelled)
    plain = glm_tokenizer.encode(" Heat", start=False)
    assert encoder.entity("Heat") == [own["Heat"], *(plain if spelled else [])]
    # A text that spells a token is a text, and all other tokens are as they were.
    assert own["Heat"] not in tokenizer.encode("<|item 2|>")
    assert tokenizer.encode(" Heat", start=False) == plain
    said = [t for part in encoder([(Piece("Seen"), Piece("Heat", True))])[0] for t in part]
    assert encoder.text(said) == "Seen Heat"


def test_a_tokenizer_that_takes_no_tokens_is_an_error(section, store):
    other = Tokenizer(SimpleNamespace(size=5), {})  # of another library
    with pytest.raises(InputError, match=r"config.text.naming.token: .*takes no more tokens"):
        opened(section(), store).source.completed(other)


def test_another_catalogues_tokenizer_is_an_error(glm_tokenizer):
    with pytest.raises(InputError, match=r"has no '<\|item 1\|>'.*a catalogue of 6 titles"):
        known_tokens(glm_tokenizer, Names(TITLES))


@pytest.mark.parametrize("dim", [5, 8, 20])
def test_embeddings_keep_inner_products_where_there_is_room(dim):
    vectors = np.random.default_rng(3).normal(size=(60, 8))
    out = embeddings(vectors, dim, 0)
    assert out.shape == (60, dim)
    assert np.mean(out**2) * dim == pytest.approx(np.mean(vectors**2) * 8, rel=0.1)
    assert np.allclose(out @ out.T, vectors @ vectors.T, atol=1e-4) == (dim >= 8)


@pytest.mark.parametrize(("model", "head"), [("glm", False), ("llama", True)])
def test_tokens_start_from_the_recommenders_vectors(section, store, recommender, model, head):
    run = opened(section(model, text=False), store)
    params = run.init_state().params
    source = open_run(recommender)
    table = np.asarray(source.model.merge(source.restore(source.best_step())).item_table())
    names = run.source.dataset.names
    wanted = np.stack([table[items].mean(axis=0) for items in names.members])
    own = list(known_tokens(run.tokenizer, names).values())
    rows = np.asarray(params["embedding"])[own]
    cosine = lambda m: (m @ m.T) / np.outer(*[np.linalg.norm(m, axis=1)] * 2)  # noqa: E731
    np.testing.assert_allclose(cosine(rows), cosine(wanted), atol=1e-4)
    others = np.delete(np.asarray(params["embedding"]), own, axis=0)
    assert np.std(others) == pytest.approx(0.02, rel=0.1)
    if head:
        np.testing.assert_array_equal(np.asarray(params["head/kernel"]).T[own], rows)


@pytest.fixture(scope="module")
def trained(section, recommender):
    workdir = recommender.parent / "run"
    result = train({"system": "recsysllm", **section("llama", text=False)}, workdir)
    return open_run(workdir), result


def test_a_run_recommends_by_tokens_and_needs_the_recommender_no_more(trained, tmp_path):
    run, result = trained
    assert 0 <= result["test/full/hr@4"] <= 1
    moved = json.loads((run.workdir / "config.json").read_text())
    moved["config"]["text"]["naming"]["run"] = "/nowhere"
    (run.workdir / "config.json").write_text(json.dumps(moved))
    again = open_run(run.workdir)
    found = again.recommend(again.store.user_keys[:2], k=5)
    assert found.ids.shape == (2, 5) and (found.ids > 0).all()
    lm = load_llm(run.workdir / "hf")  # the tokens are in its tokenizer
    assert lm.tokenizer.size == lm.config.vocab_size == run.tokenizer.size


def test_passages_about_items_name_them_where_titles_are_tokens_alone(trained):
    run, _ = trained
    titles = run.source.dataset.names.titles
    passage = run.source.dataset.behaviour.about_item(3)
    assert passage.pieces[1] == Piece(titles[3], True)
    assert any(titles[3] in piece.text for piece in passage.pieces if not piece.entity)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": False}, "config.text.naming.run: has vectors for tokens"),
        ({"token": False, "run": "", "text": False}, "config.text.naming.text: off, and titles"),
    ],
)
def test_bad_naming(section, change, message):
    with pytest.raises(InputError, match=message):
        build(BlankRunConfig, section(**change), "config")


def test_a_recommender_of_another_split_is_refused_before_anything_is_written(
    section, recommender, tmp_path
):
    made = {"system": "recsysllm", **section()}
    made["split"] = {"name": "chronological_sequences"}
    from recjax.training.workdir import build_config

    with pytest.raises(InputError, match=r"config.text.naming.run: .* was trained on split"):
        start_run(build_config(made), tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


def test_a_stopped_run_of_tasks_resumes_bit_equal(trained, section, tmp_path, monkeypatch):
    whole, result = trained
    monkeypatch.setattr(BlankRun, "parts", ("validation",))  # no answers are measured
    made = {"system": "recsysllm", **section("llama", text=False)}
    first = train({**made, "train": {**made["train"], "epochs": 0.15}}, tmp_path / "half")
    assert first["step"] < result["step"]
    train(made, tmp_path / "half")
    run = open_run(tmp_path / "half")
    assert run.latest_step() == whole.latest_step()
    for path, array in whole.restore(whole.latest_step()).items():
        np.testing.assert_array_equal(array, run.restore(run.latest_step())[path])


def test_two_processes_make_the_passages_of_one(trained):
    run, _ = trained
    one = run.batches

    def documents(batches):
        blanked = batches._encoded(3, batches.process[0])
        parts = np.cumsum(blanked.lengths)[:-1]
        return [
            tuple(map(tuple, zip(*arrays, strict=True)))
            for arrays in zip(
                *(
                    np.split(a, parts)
                    for a in (blanked.tokens, blanked.labels, blanked.positions[:, 1])
                ),
                strict=True,
            )
        ]

    two = [dataclasses.replace(one, process=(number, 2)) for number in (0, 1)]
    assert documents(one) == [document for half in two for document in documents(half)]
