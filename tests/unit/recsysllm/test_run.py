"""The run of blank infilling: its loss, what it trains, resuming, what it writes."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recjax
from recjax import llm_folders
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.definition import params_of
from recjax.recsysllm.infill import Infiller
from recjax.recsysllm.run import BlankRun
from recjax.recsysllm.sources import Texts
from recjax.text.bpe import train_bpe
from recjax.text.token_batches import NO_LABEL
from recjax.training.plan import make_plan, planned
from recjax.training.system import load_system
from recjax.training.workdir import build_config, complete, open_run, start_run

GLM = {
    "name": "glm", "dim": 16, "mlp_dim": 64, "layers": 2, "heads": 2, "kv_heads": 2,
    "head_dim": 8, "max_length": 96, "tied": True,
}  # fmt: skip
LLAMA = {
    "name": "llama", "dim": 16, "mlp_dim": 24, "layers": 2, "heads": 2, "kv_heads": 1,
    "head_dim": 8, "max_length": 96,
}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    words = ("a user read", "then came", "the end of", "a book about", "nobody likes")
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(80):
            text = ". ".join(f"{rng.choice(words)} {number % 7} {rng.choice(words)}" for _ in "abc")
            file.write(json.dumps({"text": text}) + "\n")
    return path


def section(texts, **changes):
    return {
        "system": "recsysllm",
        "model": GLM,
        "text": {"source": "texts", "path": str(texts), "validation_share": 0.2},
        "tokenizer": {"vocab_size": 330},
        "blanks": {"token": 0.5, "sentence": 0.3, "document": 0.2, "block": 0.1},
        "optim": {"learning_rate": 1e-2},
        "train": {"batch_size": 8, "epochs": 2.0, "steps_per_call": 4},
        "evaluation": {"batch_size": 16},
    } | changes


def make(texts, workdir=None, **changes):
    config = build_config(complete(section(texts, **changes)))
    return BlankRun(config, load_system("recsysllm").store(config, True), workdir)


def loss_of(run, params, step=1):
    batch = jax.tree.map(lambda x: x[0], run.place(step, 1))
    total, weight = jax.jit(lambda p: run.loss_fn(p, batch, None, None))(params)
    return float(total) / float(weight)


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "glm"
    run = start_run(build_config(complete(section(texts))), workdir)
    return workdir, run.train()


def test_the_loss_falls_and_the_folder_is_a_model(trained, texts, monkeypatch):
    workdir, result = trained
    first = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation/text/loss"] for line in first if "validation/text/loss" in line]
    assert losses[-1] < np.log(330) - 0.5
    run = open_run(workdir)
    params = run.restore(run.best_step())
    values = run.evaluator("test").run(params)
    assert values["test/text/loss"] == pytest.approx(result["test/text/loss"], rel=1e-5)
    assert values["test/texts/loss"] == values["test/text/loss"]
    lm = recjax.load_llm(workdir)
    assert lm.tokenizer.id_of("[MASK]") in lm.config.blank_ids
    assert lm.config.start_id == run.marks.sop
    assert lm.stop == (run.marks.eop, run.marks.eos)
    monkeypatch.setattr(llm_folders, "stop_ids", lambda folder: (run.marks.eos,))
    assert recjax.load_llm(workdir).stop == lm.stop  # a blank's end, where the files name none
    # The folder's model computes what the run does.
    batch = run.batches(0)
    hidden = run._hidden(run.model.merge(params), jax.tree.map(lambda x: jnp.asarray(x[0]), batch))
    again = run._hidden(
        lm.definition.merge(lm.params), jax.tree.map(lambda x: jnp.asarray(x[0]), batch)
    )
    np.testing.assert_allclose(hidden, again, atol=1e-5)


def test_the_folder_generates_and_fills(trained):
    """`lm.generate` goes on in a text's first blank, or at its end, as `Infiller` does."""
    workdir, _ = trained
    lm = recjax.load_llm(workdir)
    marks, tokenizer = open_run(workdir).marks, lm.tokenizer
    text = "a user read [MASK]"
    ids = [marks.cls, *tokenizer.encode("a user read"), marks.mask, marks.eos, marks.sop]
    given = lm.generate([ids], max_new_tokens=6)
    asked = lm.generate([text], max_new_tokens=6, special=True)
    np.testing.assert_array_equal(given.tokens, asked.tokens)
    ids[-3] = marks.document
    plain = lm.generate(["a user read"], max_new_tokens=6)
    np.testing.assert_array_equal(plain.tokens, lm.generate([ids], max_new_tokens=6).tokens)
    found = Infiller(lm)([text], max_new_tokens=6)
    size = int(found.lengths[0, 0, 0])
    np.testing.assert_array_equal(found.tokens[0, 0, 0, :size], asked.tokens[0, :size])


def test_a_stopped_run_resumes_bit_equal(trained, texts, tmp_path):
    workdir, _ = trained
    whole = open_run(workdir)
    changed = section(texts, train={**section(texts)["train"], "epochs": 1.0})
    start_run(build_config(complete(changed)), tmp_path / "half").train()
    run = start_run(build_config(complete(section(texts))), tmp_path / "half")
    run.train()
    assert run.latest_step() == whole.latest_step()
    for path, array in whole.restore(whole.latest_step()).items():
        np.testing.assert_array_equal(array, run.restore(run.latest_step())[path])


@pytest.mark.parametrize("model", [GLM, LLAMA], ids=["glm", "llama"])
def test_packed_rows_have_the_loss_of_texts_alone(texts, model):
    """Each place sees its own part A, both ways where the family reads so, and what was written."""
    run = make(texts, model=model)
    params = run.init_state().params
    module = run.model.merge(params)
    blanked = run.batches._encoded(1, 0)
    logits = jax.jit(lambda *inputs: module(inputs[0], positions=inputs[1], mask=inputs[2])[0])
    total = labels = 0
    for first, size, source in zip(
        np.cumsum(blanked.lengths) - blanked.lengths, blanked.lengths, blanked.sources, strict=True
    ):
        at = np.minimum(first + np.arange(96), first + size - 1)
        place = np.arange(96)
        mask = (place[None] <= place[:, None]) & (place < size)
        if run.two:
            mask |= place[None] < source
            positions = blanked.positions[at].T
        else:
            positions = place
        scores = jax.nn.log_softmax(logits(blanked.tokens[at][None], positions[None], mask[None]))
        wanted = blanked.labels[first : first + size]
        learned = np.flatnonzero(wanted != NO_LABEL)
        total -= float(np.asarray(scores)[0, learned, wanted[learned]].sum())
        labels += len(learned)
    assert loss_of(run, params) == pytest.approx(total / labels, rel=1e-4)


def test_a_causal_family_may_read_the_text_both_ways(texts):
    runs = [make(texts, model=LLAMA, prefix=prefix) for prefix in (False, True)]
    params = runs[0].init_state().params
    assert abs(loss_of(runs[0], params) - loss_of(runs[1], params)) > 1e-5
    with pytest.raises(InputError, match="config.prefix: True; glm reads texts both ways without"):
        make(texts, prefix=True).check()


@pytest.mark.devices
def test_two_meshes_have_one_loss(texts):
    meshes = [(8, 1, 1), (2, 2, 2)]
    runs = [make(texts, train={"batch_size": 8, "mesh": mesh}) for mesh in meshes]
    losses = [loss_of(run, run.init_state().params) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_batches_are_a_function_of_seed_and_step(texts):
    first, again, other = (make(texts, seed=seed) for seed in (0, 0, 1))
    for name, array in first.batches(5).items():
        np.testing.assert_array_equal(array, again.batches(5)[name])
    assert not np.array_equal(first.batches(5)["tokens"], other.batches(5)["tokens"])
    assert not np.array_equal(first.batches(5)["tokens"], first.batches(6)["tokens"])


def test_adapters_alone_are_trained_and_peft_reads_them(trained, texts, tmp_path):
    workdir, _ = trained
    targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    tuned = section(
        texts, llm=str(workdir / "hf"), model={}, method="lora",
        lora={"rank": 2, "targets": targets}, train={"batch_size": 8, "epochs": 1.0},
    )  # fmt: skip
    run = start_run(build_config(complete(tuned)), tmp_path / "lora")
    assert run.trained and all(path.endswith(("lora/a", "lora/b")) for path in run.trained)
    assert len(run.trained) == 2 * 4
    before = loss_of(run, run.whole(run.init_state().params))
    result = run.train()
    after = run.whole(run.restore(run.latest_step()))
    assert loss_of(run, after) < before
    config = json.loads((tmp_path / "lora" / "adapter" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == sorted(targets)
    assert result["adapter"] == str(tmp_path / "lora" / "adapter")
    merged = recjax.load_llm(tmp_path / "lora")
    plain = recjax.load_llm(workdir)
    tokens = np.array([plain.tokenizer.encode("a user read")])
    assert np.abs(np.asarray(merged(tokens)) - np.asarray(plain(tokens))).max() > 1e-4


def test_the_catalogue_holds_histories_out(sample_store):
    changed = section(
        "", text={"source": "catalogue", "domain": "book", "window": 4},
        data={"source": "simulated", "store": str(sample_store.path)},
    )  # fmt: skip
    config = build_config(complete(changed))
    run = BlankRun(config, load_system("recsysllm").store(config, False))
    title = run.source.stream.titles[sample_store.items[run.source.split.test.stops[0]]]
    documents = run.source.held_out("test", 0, 0)
    assert title in documents[0].text
    assert len(documents) == len(run.source.split.test)
    spans, train = run.source.stream.spans, run.source.split.train
    assert spans is train


def test_the_plan(texts, trained):
    config = build_config(complete(section(texts)))
    told = planned(config, "2,2,1")
    assert told["batch"] == 8 and told["length"] == 96
    assert make_plan(mesh="2,2,1", **told).trained == 330 * 16 + sum(
        a.size for p, a in make(texts).init_state().params.items() if p != "embedding"
    )
    lora = section(
        texts, llm=str(trained[0] / "hf"), model={}, method="lora",
        lora={"rank": 2, "targets": ("query_key_value",)}, length=48,
    )  # fmt: skip
    told = planned(build_config(complete(lora)), "1,1,1")
    assert told["length"] == 48 and make_plan(**told).trained == 2 * 2 * (16 + 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "config.llm: a model's folder or config.model, a new one; neither is set"),
        ({"llm": "x"}, "config.llm: a model's folder or config.model, a new one; both are set"),
        ({"method": "lora"}, "config.method: adapters need a trained model"),
        ({"merge": True}, "config.merge: of an adapter; expected False where all parameters are"),
        ({"remat": "full"}, "config.remat: of a folder's model; expected config.model.remat"),
        ({"text": {"source": "text"}}, "config.text.source: no source 'text'; did you mean"),
        ({"text": {"source": "texts"}}, "config.text.path: is empty; expected a file of texts"),
        ({"text": {"source": "texts", "path": "x"}}, "config.text.path: no file or folder x"),
        ({"text": {"widow": 3}}, "unknown config key 'config.text.widow'; did you mean 'window'?"),
        ({"text": {"window": 3}}, "config.data: missing; expected a section with source and"),
        ({"length": 97}, "config.length: 97; the model was trained on 96"),
        ({"tokenizer": {"marks": {"mask": "[M]"}}}, "marks.mask: the tokenizer has no token '[M]'"),
        ({"tokenizer": {"marks": {"mak": "a"}}}, "config.tokenizer.marks: no mark 'mak'; did you"),
    ],
)
def test_bad_input_is_one_line(texts, changes, message):
    with pytest.raises(InputError) as error:
        make(texts, **changes).batches  # noqa: B018
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_without_command_tokens_is_one_line(texts, tmp_path, trained):
    other = tmp_path / "llm"
    run = make(texts)
    model = language_model(run.base.config, params_of(run.base.build(nnx.Rngs(0))), None)
    write_language_model(other, model)
    commands = [f"<{number}>" for number in range(6)]
    train_bpe(run.source.corpus(), run.tokenizer.size, commands=commands).save(other)
    with pytest.raises(InputError, match=r"has no <\|startofpiece\|>"):
        make(texts, llm=str(other), model={}).marks  # noqa: B018


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": 3}'], "texts.jsonl:1: 'text' is int, expected text"),
        (['{"tex": "a"}'], "texts.jsonl:1: lacks the key 'text'; it has 'tex'"),
        (['{"text": "a"}'], "texts.jsonl: 1 texts; expected at least 3"),
    ],
)
def test_bad_texts_are_one_line(tmp_path, lines, message):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        Texts.open(Texts.Options(path=str(path)), None, True)
    assert message in str(error.value)


def test_plain_lines_are_texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\n\ntwo\nthree\nfour\n")
    options = Texts.Options(path=str(path), validation_share=0.25, test_share=0.0)
    source = Texts(options, Texts.open(options, None, True), None, 0)
    parts = {name: [d.text for d in part] for name, part in source.parts.items()}
    assert sorted(itertools.chain(*parts.values())) == ["four", "one", "three", "two"]
    assert len(parts["validation"]) == 1 and not parts["test"]
