"""Fine-tuning of a model with an encoder: it reads prompts, the decoder learns answers."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.config import build
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.data.interactions import LogBuilder
from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.llm_folders import load_llm
from recjax.models.definition import params_of
from recjax.models.t5 import T5, Config
from recjax.recsysllm.p5_data import P5Options, P5Source
from recjax.text.bpe import train_bpe
from recjax.text.pairs import split_pairs
from recjax.text.sides import Sides, lay_out_sides, rows_needed, widths_for
from recjax.training.finetune import FinetuneConfig, FinetuneRun, planned
from recjax.training.ranking_run import SplitConfig
from recjax.training.workdir import start_run

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
FILMS = ("Alien", "Brazil", "Casino", "Dune")


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random T5 with a tokenizer that ends texts, and pairs."""
    place = tmp_path_factory.mktemp("t5")
    texts = [f"film {k} is {film}" for k, film in enumerate(FILMS)] * 3
    tokenizer = train_bpe(texts, 280, ends=True)
    tokenizer.save(place / "tokenizer")
    sizes = {"dim": 16, "mlp_dim": 32, "layers": 1, "encoder_layers": 1, "heads": 2}
    config = Config(tokenizer.size, kv_heads=2, head_dim=8, max_length=64, **sizes)
    params = params_of(T5(config, rngs=nnx.Rngs(0)))
    write_language_model(place / "hf", language_model(config, params, place / "tokenizer"))
    rows = [{"prompt": f"film {k}:", "answer": f" {film}"} for k, film in enumerate(FILMS)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 8))
    return place


def config(folder, **sections):
    data = {"path": str(folder / "pairs.jsonl"), "validation_share": 0.25, "test_share": 0.125}
    given = {"llm": str(folder / "hf"), "method": "full", "data": data, **sections}
    return build(FinetuneConfig, given, "config")


def test_sides_of_pairs():
    pairs = [Sides([8, 2], [2]), Sides([1, 5, 6, 2], [7, 9, 2])]
    widths = widths_for(pairs)
    assert widths == (32, 32) and rows_needed(pairs, widths) == 1
    found = {k: a[:, :7].tolist() for k, a in lay_out_sides(pairs, widths, 2).items()}
    empty = [0] * 7
    assert found == {
        "encoder": [[8, 2, 1, 5, 6, 2, 0], empty], "read": [[1, 1, 2, 2, 2, 2, 0], empty],
        "decoder": [[0, 0, 7, 9, 0, 0, 0], empty], "written": [[1, 2, 2, 2, 0, 0, 0], empty],
        "labels": [[2, 7, 9, 2, -100, -100, -100], [-100] * 7],
        "pairs": [[0, 1, 1, 1, 0, 0, 0], empty],
    }  # fmt: skip
    sizes = [(2 + k % 30, 1 + k % 7) for k in range(64)]
    many = [Sides(range(1, 1 + s), range(1, 1 + t), np.arange(s)) for s, t in sizes]
    widths = widths_for(many)
    laid = lay_out_sides(many, widths, rows_needed(many, widths, 4), shards=4)
    assert len(laid["words"]) < 50 and (laid["read"] > 0).sum() == sum(len(p.read) for p in many)
    load = (laid["labels"] >= 0).reshape(4, -1).sum(axis=1)
    assert load.max() - load.min() < 16
    for pair, row, number in {
        (int(p), r, int(n))
        for r in range(len(laid["pairs"]))
        for p, n in zip(laid["pairs"][r], laid["written"][r], strict=True) if n
    }:  # fmt: skip
        ours = laid["read"][row] == number
        assert laid["encoder"][row][ours].tolist() == list(many[pair].read)
        assert laid["words"][row][ours].tolist() == many[pair].words.tolist()
        ours = laid["written"][row] == number
        assert laid["labels"][row][ours].tolist() == list(many[pair].written)


def test_packed_pairs_give_what_each_gives_alone(folder):
    """Loss and gradient; and a batch is a function of its step."""
    given = config(folder, train={"batch_size": 12})
    run = FinetuneRun(given, split_pairs(given.data, 0))
    params = {path: leaf[...] for path, leaf in run.init_state().params.items()}
    batches, pairs = run.batches, run.batches.pairs(range(12))
    whole = batches(0)
    assert whole["encoder"].shape[1] < 12 and whole["read"].max() > 1
    np.testing.assert_array_equal(batches(0, 2)["labels"][1], batches(1)["labels"][0])

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        return run.loss_fn(params, batch, None, jax.random.key(0))[0]

    packed, gradient = loss(params, {name: a[0] for name, a in whole.items()})
    apart = [loss(params, lay_out_sides([pair], batches.widths, 1)) for pair in pairs]
    np.testing.assert_allclose(packed, sum(found for found, _ in apart), rtol=1e-5)
    for path, value in gradient.items():
        expected = sum(np.asarray(found[path]) for _, found in apart)
        np.testing.assert_allclose(value, expected, atol=2e-4, err_msg=path)
    # As the model reads a pair by itself, with masks in place of numbers.
    model, pair = run.model.merge(params), pairs[0]
    ids = np.array([pair.read]), np.array([[0, *pair.written[:-1]]])
    alone = np.asarray(model(ids[1], encoder=ids[0])[0], np.float32)[0]
    chosen = jax.nn.log_softmax(alone)[np.arange(len(pair.written)), np.asarray(pair.written)]
    np.testing.assert_allclose(-chosen.sum(), apart[0][0], rtol=1e-5)


def test_answers_are_learned_and_written(folder, tmp_path, capsys):
    given = config(
        folder,
        optim={"learning_rate": 0.01},
        train={"batch_size": 16, "epochs": 120.0, "evaluate_every": 120.0, "steps_per_call": 20},
    )
    result = start_run(given, tmp_path).train()
    assert result["finished"] and result["test/answers/exact"] == 1.0
    assert result["test/answers/loss"] < 0.2
    # Texts are read by the encoder: nothing more is to be said.
    lm = load_llm(tmp_path)
    prompts = [f"film {k}:" for k in range(4)]
    assert lm.generate(prompts, max_new_tokens=8).texts == [f" {film}" for film in FILMS]
    pairs = str(folder / "pairs.jsonl")
    script("measure_pairs").main(
        ["--llm", str(tmp_path), "--pairs", pairs, "--train", pairs, "--max-new-tokens=8"]
    )
    measured = json.loads(capsys.readouterr().out)
    assert measured["examples"] == 32 and measured["rouge1"] == 100
    assert measured["baseline/rouge1"] == 25
    stars = tmp_path / "stars.jsonl"  # the answers are films, so the mean counts
    lines = [{"prompt": f"film {k}:", "answer": str(k + 1)} for k in range(4)]
    stars.write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = ["--llm", str(tmp_path), "--kind=number", "--max-new-tokens=8", "--pairs"]
    script("measure_pairs").main([*numbers, str(stars), "--train", str(stars)])
    measured = json.loads(capsys.readouterr().out)
    assert measured["parsed"] == 0 and measured["mae"] == 1.0 and measured["baseline/mae"] == 1.5
    with pytest.raises(InputError, match="pairs.jsonl: answer 1 is .*; expected a number"):
        script("measure_pairs").main([*numbers, pairs])


def test_a_plan_knows_its_rows(folder):
    told = planned(config(folder, train={"batch_size": 10}), 4)
    assert told["batch"] == 4 and told["length"] <= 64


def test_pairs_are_refused_before_anything_is_written(tmp_path):
    main, out = script("task_pairs").main, tmp_path / "pairs"
    (tmp_path / "train.jsonl").write_text("{}")
    for given, message in (
        (["recommenders/sample_sasrec.py"], "expected one of RecSysLLM or P5, of source 'tasks'"),
        (["recsysllm/sample_glm.py"], "expected one of RecSysLLM or P5, of source 'tasks'"),
        (["recsysllm/sample.py", "--new=gtp2"], "--new: no language model 'gtp2'; did you mean"),
        (["recsysllm/sample.py", f"--out={tmp_path}"], "has pairs; expected another folder"),
    ):
        arguments = ["--prompt=4-1", f"--out={out}", f"--config=configs/{given[0]}", *given[1:]]
        with pytest.raises(InputError, match=message):
            main(arguments)
    assert not out.exists()


def test_pairs_of_a_task_are_of_their_parts(tmp_path):
    """Each part's pairs ask about its own interactions, and answer as the data do."""
    log = LogBuilder(timestamps=True, ratings=True)
    for user in range(6):
        for time in range(5):
            log.add(f"u{user}", f"i{(user + time) % 7}", time, 1 + (user + time) % 5)
    store = write_store(tmp_path / "store", log.build(), {}, {"options": {}})
    source = P5Source(build(P5Options, {"tasks": {"rating": 1.0}}, "x"), store, SplitConfig(), 0)
    found = script("task_pairs").pairs(source, "1-2")
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 18, "validation": 6, "test": 6
    }  # fmt: skip
    last = store.ratings[store.offsets[1:] - 1]
    assert [float(row["answer"]) for row in found["test"]] == last.tolist()
    assert all(row["answer"].startswith(" ") for row in found["train"])
