"""A language model's run: its config, its batches, its loss, what it reads."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import build, load_config
from recjax.data.interactions import InteractionLog
from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.text.token_batches import NO_LABEL, encode
from recjax.text.tokenizers import load_tokenizer
from recjax.training.language_model import LanguageRun, LanguageRunConfig, complete
from recjax.training.new_model import keep_tokenizer, read_model
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


def test_items_without_titles_are_an_error(tmp_path):
    users, items = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    log = InteractionLog(
        users.astype(np.int32), items.astype(np.int32), np.arange(12), None, list("abc"),
        list("wxyz"),
    )  # fmt: skip
    store = write_store(tmp_path / "store", log, {}, {})
    with pytest.raises(InputError, match="store: no item has a title"):
        make(store)


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


def test_items_have_vectors_beside_the_model_where_texts_have_soft_tokens(run):
    assert run.model.shapes["items"].shape == (run.store.n_items, 16)
    assert run.model.shapes["model/embedding"].shape == (run.tokenizer.size, 16)
    assert {path.split("/")[0] for path in run.model.shapes} == {"items", "model"}
    for title in run.documents.titles[1:]:
        assert run.tokenizer.decode(run.tokenizer.encode(title)) == title
    plain = make(
        run.store, text={"domain": "book", "naming": 0.0, "recovery": 0.0, "residual": 0.0}
    )
    assert "items" not in plain.model.shapes and "is_soft" not in plain.batches(0)
    params = plain.init_state().params
    loss, weight = loss_of(plain, params)
    assert 0 < float(loss) / float(weight) < 20
    sizes = {path: a.size for path, a in params.items()}
    assert f"{sum(sizes.values()):,} parameters and 0 of the items' vectors" in plain.describe()
    assert f" and {run.store.n_items * 16:,} of the items' vectors" in run.describe()


def loss_of(run, params, step=3, key=None):
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), run.batches(step))
    return jax.jit(lambda p: run.loss_fn(p, batch, None, key))(params)


def embedded(run, params, document):
    """The tokens of a document alone, and their embeddings: soft tokens from their blends."""
    encoded = encode([document], run.tokenizer, 192)
    x = np.asarray(params["model/embedding"])[encoded.tokens]
    for place in np.flatnonzero(encoded.soft):
        made = document.blends[encoded.soft[place] - 1]
        table = np.asarray(params["items"])
        x[place] = sum(w * table[k] for k, w in zip(made.items, made.weights, strict=True))
    return encoded, x


def test_packed_rows_have_the_loss_of_documents_alone(run, params):
    """No document sees another one, positions begin with each, soft tokens are its blends'."""
    packed, weight = loss_of(run, params)

    @jax.jit
    def alone(params, x):
        model = run.model.merge(params).model
        return jax.nn.log_softmax(model(x)[0][0])

    total, labels, soft = 0.0, 0, 0
    examples = [run.documents(place) for place in range(24, 32)]
    for document in examples:
        encoded, x = embedded(run, params, document)
        n = len(encoded.tokens)
        # What stands on the right is seen by no one; one length is compiled once.
        scores = np.asarray(alone(params, np.pad(x, ((0, 192 - n), (0, 0)))[None]))
        learned = np.flatnonzero(encoded.labels != NO_LABEL)
        total -= float(scores[learned - 1, encoded.tokens[learned]].sum())
        labels, soft = labels + len(learned), soft + len(document.blends)
    assert soft > 8 and float(weight) == labels
    assert float(packed) == pytest.approx(total, rel=1e-4)
    # The evaluation says the same of the same documents, without noise.
    evaluator = run.evaluator("test")
    evaluator.__dict__["examples"] = examples
    values = evaluator.run(params)
    assert values["test/text/loss"] == pytest.approx(total / labels, rel=1e-4)


def test_soft_tokens_get_noise_in_training_alone(run, params):
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), run.batches(0))
    reader = run.model.merge(params)
    still = reader.embed(batch, 0.5, None)
    soft = np.asarray(batch["is_soft"])
    rms = np.sqrt(np.mean(np.square(params["items"])))
    draws = []
    for seed in range(40):
        moved = np.asarray(reader.embed(batch, 0.5, jax.random.key(seed)) - still) / rms
        assert not moved[~soft].any()
        draws.append(moved[soft])  # [soft E]
    draws = np.stack(draws)
    # Each soft token's own strength, evenly drawn up to 0.5.
    strength = draws.std(axis=-1)
    assert draws.mean() == pytest.approx(0, abs=0.01)
    largest = np.asarray(batch["blend_weights"]).max(
        axis=-1
    )  # [R S], 0 where there is no soft token
    expected = 0.5**2 / 3 * np.square(largest).sum() / soft.sum()
    assert np.mean(np.square(draws)) == pytest.approx(expected, rel=0.1)
    assert strength.std(axis=1).mean() > 0.1 and strength.max() < 0.5 * 2
    key = jax.random.key(1)
    np.testing.assert_array_equal(reader.embed(batch, 0.0, key), still)
    calm = make(run.store, text={"domain": "book", "window": 4, "noise": 0.0})
    assert float(loss_of(calm, params, key=key)[0]) == float(loss_of(calm, params)[0])
    losses = {float(loss_of(run, params, key=jax.random.key(k))[0]) for k in (1, 2)}
    assert len(losses | {float(loss_of(run, params)[0])}) == 3


def test_the_vectors_of_the_items_that_are_blended_learn(run, params):
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), run.batches(3))
    grads = jax.jit(jax.grad(lambda p: run.loss_fn(p, batch, None, jax.random.key(0))[0]))(params)
    touched = np.abs(np.asarray(grads["items"])).sum(axis=1) > 0
    taken = np.asarray(batch["blend_items"])[np.asarray(batch["blend_weights"]) > 0]
    assert touched[0] == 0 and 0 < touched.sum() < len(touched)
    assert {*np.flatnonzero(touched)} == {*taken.tolist()}


@pytest.mark.devices
def test_a_split_state_trains_as_one_that_is_whole(run):
    """Without noise, which is drawn for as many rows as the mesh asks for."""
    text, losses = {"domain": "book", "window": 4, "noise": 0.0}, []
    for mesh in ([8, 1, 1], [2, 2, 2]):
        other = make(run.store, text=text, train={"batch_size": 8, "mesh": mesh})
        state, metrics = other.make_steps()(other.init_state(), other.place(0, 2))
        losses.append(metrics["loss"])
    for name in ("items", "model/layers/gate/kernel"):
        assert not state.params[name].sharding.is_fully_replicated
    np.testing.assert_allclose(*losses, rtol=1e-4)


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
    ids = first.tokenizer.encode("Emma", bos=True)
    assert not (tmp_path / "tokenizer").exists()  # looking at a run writes nothing
    keep_tokenizer(tmp_path, first.tokenizer, first.tokenizer.eos_id)
    assert load_tokenizer(tmp_path / "tokenizer").encode("Emma", bos=True) == ids
    ends = json.loads((tmp_path / "tokenizer" / "generation_config.json").read_text())
    assert ends == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    # A later run reads it, whatever training one would give.
    shutil.rmtree(tmp_path / "tokenizer")
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
        ({"model": {"heads": 3, "kv_heads": 2}}, "config.model.heads: 3 is no multiple"),
        ({"text": {"domain": "boook"}}, "no words for the domain 'boook'; did you mean 'book'"),
        ({"text": {"prompts": "no.json"}}, "no.json: no such file"),
        ({"split": {"by": "middle"}}, "config.split.by: expected one of 'end', 'start', 'user'"),
        ({"train": {"packed": True}}, "unknown config key 'config.train.packed'"),
        ({"text": {"naming": -1.0}}, "config.text.naming: expected 0 to"),
    ],
)
def test_bad_configs(sample_store, changes, message):
    with pytest.raises(InputError, match=message):
        complete(section(sample_store, **changes))


CATALOGUE = Path(__file__).resolve().parents[3] / "configs" / "llm" / "catalogue.py"


@pytest.mark.parametrize("arg", ["", ":ml100k", ":steam", ":table"])
def test_the_shipped_config(arg):
    section, _ = load_config(f"{CATALOGUE}{arg}", [], complete_any)
    config = build_config(section)
    assert isinstance(config, LanguageRunConfig)
    assert read_model(config.model, 4000).layers == 2
    # Histories of validation and test users are no one's training text.
    assert (config.split.name, config.split.by) == ("chronological_sequences", "user")
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
