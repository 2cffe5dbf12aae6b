"""A language model's run: its config, its batches, its loss, what it reads."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import build, load_config
from recjax.data.tokenizers import load_tokenizer
from recjax.errors import InputError
from recjax.training.language_model import LanguageRun, LanguageRunConfig, complete, read_model
from recjax.training.state import TrainState
from recjax.training.workdir import build_config, plain_config, read_run_config, start_run
from recjax.training.workdir import complete as complete_any

SIZES = {"dim": 16, "mlp_dim": 24, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8}


def section(store, **changes):
    return {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": {"name": "llama", "max_length": 192, **SIZES},
        "tokenizer": {"vocab_size": 400},
        "text": {"domain": "book", "window": 4},
        "train": {"batch_size": 8},
        "evaluation": {"batch_size": 16, "max_examples": 20},
    } | changes


def make(store, workdir=None, **changes):
    return LanguageRun(
        build(LanguageRunConfig, section(store, **changes), "config"), store, workdir
    )


@pytest.fixture(scope="module")
def run(sample_store):
    return make(sample_store)


@pytest.fixture(scope="module")
def params(run):
    return run.init_state().params


def test_only_the_training_part_is_read(run):
    assert run.documents.spans is run.split.train
    assert run.batches.documents is run.documents
    for name in ("validation", "test"):
        spans, part = run.evaluator(name).documents.spans, getattr(run.split, name)
        np.testing.assert_array_equal(spans.stops, part.stops + 1)
        # What is measured ends with the target, which training does not see.
        document = run.evaluator(name).documents.fixed("residual", 0)
        title = run.documents.titles[run.store.items[part.stops[0]]]
        assert title in document.text


def test_every_item_has_a_token_and_the_model_a_row_for_it(run):
    tokenizer = run.tokenizer
    first = tokenizer.id_of("<item_1>")
    last = tokenizer.id_of(f"<item_{run.store.n_items - 1}>")
    assert last - first == run.store.n_items - 2 and last == tokenizer.size - 1
    assert run.model.shapes["embedding"].shape == (tokenizer.size, 16)
    for title in run.documents.titles[1:]:
        assert tokenizer.decode(tokenizer.encode(title)) == title
    plain = make(
        run.store, text={"domain": "book", "naming": 0.0, "recovery": 0.0, "residual": 0.0}
    )
    assert plain.tokenizer.id_of("<item_1>") is None and plain.tokenizer.size <= 400


def test_packed_rows_have_the_loss_of_documents_alone(run, params):
    """No document sees another one, and positions begin with each."""
    loss = jax.jit(lambda p, b: run.loss_fn(p, b, None, None))
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), run.batches(3))
    packed, weight = loss(params, batch)
    alone = jax.jit(lambda p, tokens: jax.nn.log_softmax(run.model.merge(p)(tokens)[0][0]))
    total, labels = 0.0, 0
    for document in (run.documents(place) for place in range(24, 32)):
        prompt = run.tokenizer.encode(document.prompt, bos=True)
        text = run.tokenizer.encode(document.text, eos=True, start=not document.prompt)
        tokens = np.array([*prompt, *text])
        # What stands on the right is seen by no one; one length is compiled once.
        scores = np.asarray(alone(params, np.pad(tokens, (0, 192 - len(tokens)))[None]))
        mine = -scores[np.arange(len(tokens) - 1), tokens[1:]]
        total += float(mine[len(prompt) - 1 :].sum())
        labels += len(text)
    assert float(weight) == labels
    assert float(packed) == pytest.approx(total, rel=1e-4)
    # The evaluation says the same of the same documents.
    evaluator = dataclasses.replace(run.evaluator("test"))
    examples = [run.documents(place) for place in range(24, 32)]
    evaluator.__dict__["examples"] = examples
    values = evaluator.run(params)
    assert values["test/text/loss"] == pytest.approx(total / labels, rel=1e-4)


def test_steps_learn(run):
    steps, state = run.make_steps(), run.init_state()
    losses = []
    for first in range(0, 24, 4):
        state, metrics = steps(state, run.place(first, 4))
        losses += np.asarray(metrics["loss"]).tolist()
    assert isinstance(state, TrainState) and int(state.step) == 24
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3


def test_the_tokenizer_is_kept_in_the_workdir(sample_store, tmp_path):
    first = make(sample_store, tmp_path)
    ids = first.tokenizer.encode("Emma <item_3>", bos=True)
    assert load_tokenizer(tmp_path / "tokenizer").encode("Emma <item_3>", bos=True) == ids
    ends = json.loads((tmp_path / "tokenizer" / "generation_config.json").read_text())
    assert ends == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    # A later run reads it, whatever training one would give.
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    other = make(sample_store, tokenizer={"vocab_size": 300}).tokenizer
    other.save(tmp_path / "tokenizer")
    assert make(sample_store, tmp_path).tokenizer.size == other.size != first.tokenizer.size


def test_presets_and_defaults(sample_store):
    assert read_model({"name": "llama", "preset": "llama-3.2-1b", "layers": 3}, 99).kv_heads == 8
    full = complete(section(sample_store))
    assert "vocab_size" not in full["model"] and full["model"]["rope_theta"] == 10000.0
    assert full["train"]["metric"] == "validation/text/loss"
    config = build_config({"system": "language_model", **full})
    assert plain_config(config)["system"] == "language_model"
    assert build_config(plain_config(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "lama"}}, "config.model.name: no language model 'lama'; did you mean"),
        ({"model": {"preset": "llama-8b"}}, "config.model.preset: no preset 'llama-8b' of llama"),
        ({"model": {"vocab_size": 9}}, "config.model.vocab_size: is the tokenizer's size; set"),
        ({"model": {"heads": 3, "kv_heads": 2}}, "config.model: heads 3 is no multiple"),
        ({"text": {"domain": "song"}}, "config.text.domain': expected one of 'movie', 'game'"),
        ({"train": {"packed": True}}, "unknown config key 'config.train.packed'"),
        ({"text": {"naming": -1.0}}, "config.text: items, naming"),
    ],
)
def test_bad_configs(sample_store, changes, message):
    with pytest.raises(InputError, match=message):
        complete(section(sample_store, **changes))


CATALOGUE = Path(__file__).resolve().parents[3] / "configs" / "llm" / "catalogue.py"


@pytest.mark.parametrize("arg", ["", ":ml100k", ":steam"])
def test_the_shipped_config(arg):
    section, _ = load_config(f"{CATALOGUE}{arg}", [], complete_any)
    config = build_config(section)
    assert isinstance(config, LanguageRunConfig)
    assert read_model(config.model, 4000).layers == 2
    # Histories of validation and test users are no one's training text.
    assert (config.split.name == "chronological_sequences") == bool(arg)
    with pytest.raises(
        InputError, match="catalogue.py: no argument 'ml1m'; expected none, 'ml100k"
    ):
        load_config(f"{CATALOGUE}:ml1m")


def test_unknown_systems_name_the_nearest():
    with pytest.raises(
        InputError, match="config.system: no system 'recomender'; did you mean 'rec"
    ):
        build_config({"system": "recomender"})


def test_a_workdir_from_before_there_were_systems_is_a_recommender_s(sample_store, tmp_path):
    data = section(sample_store)["data"]
    data["options"] = {"users": 120, "mean_length": 10.0, "max_length": 30}
    config = build_config(
        {
            "data": data,
            "model": {"name": "sasrec", "dim": 8, "max_length": 8},
        }
    )
    assert config.system == "recommender"
    start_run(config, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    assert record["config"].pop("system") == "recommender"
    file.write_text(json.dumps(record))
    assert read_run_config(tmp_path / "run").system == "recommender"
    assert start_run(config, tmp_path / "run").latest_step
    other = build_config({"system": "language_model", **section(sample_store, data=data)})
    with pytest.raises(InputError, match="another config \\(.*system"):
        start_run(other, tmp_path / "run")
