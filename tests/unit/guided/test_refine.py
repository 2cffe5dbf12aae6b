import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recjax
from recjax.errors import InputError
from recjax.guided.vectors import recent_means
from recjax.training.workdir import build_config, complete, open_run, start_run

MODELS = {
    "sasrec": {"name": "sasrec", "dim": 12, "mlp_dim": 12, "layers": 1, "max_length": 8},
    "gru4rec": {"name": "gru4rec", "dim": 12, "max_length": 8},
    "untied": {"name": "gru4rec", "dim": 12, "max_length": 8, "tied": False},
    "bert4rec": {"name": "bert4rec", "dim": 12, "mlp_dim": 12, "layers": 1, "max_length": 8},
    "caser": {"name": "caser", "dim": 12, "max_length": 8},
}


def run_of(config):
    from recjax.training.system import load_system

    built = build_config(complete(config))
    system = load_system(built.system)
    return system.run(built, system.store(built, True))


def params_of(run):
    return run.whole(run.init_state().params)


def encoded(run, params, batch):
    """`run.encode` as one program."""
    return jax.tree.map(np.asarray, jax.jit(run.encode)(params, batch))


def batch_of(run, part="test"):
    """The first batch, what its examples are, and which of its rows have one."""
    evaluator = run.evaluator(part)
    batch = evaluator._batch(0)
    return batch, evaluator._chosen[batch["examples"]], batch["weights"] > 0


@pytest.mark.parametrize(
    ("model", "user"),
    [("sasrec", "none"), ("untied", "none"), *((model, "joined") for model in MODELS)]
    + [("gru4rec", "added"), ("bert4rec", "added")],
)
def test_vectors_are_those_of_equation_9(configured, tastes, model, user):
    """Widths stay; the last coordinates are alpha times the guided part, at Xavier's deviation."""
    run = run_of(configured(model=MODELS[model], refine={"user": user, "alpha": 2.0}))
    params = params_of(run)
    batch, chosen, real = batch_of(run)
    predicted, table = encoded(run, params, batch)
    assert table.shape[1] == predicted.shape[1] == 12
    deviation = math.sqrt(2 / (run.store.n_items + 12))
    np.testing.assert_allclose(table[:, 9:], 2 * deviation * run.guided.items, rtol=1e-5)
    state = run.model.merge({**params})
    state.side = "none"
    names = ("positions", "segments", "last")
    alone = jax.jit(state.predict)(batch["ids"], **{name: batch[name] for name in names})
    np.testing.assert_allclose(predicted[:, :9], alone[:, :9], atol=1e-5)
    means = np.stack(
        [
            run.guided.items[run.store.items[max(start, stop - 3) : stop]].mean(0)
            for start, stop in zip(chosen.starts, chosen.stops, strict=True)
        ]
    )
    wanted = {"none": alone[:, 9:], "joined": 2 * deviation * means}
    wanted["added"] = wanted["none"] + wanted["joined"]
    np.testing.assert_allclose(predicted[real, 9:], wanted[user][real], atol=1e-5)


def test_the_guided_part_is_frozen_and_the_rest_learns(configured, trained):
    run = open_run(trained / "joined")
    assert "items/guided" in run.frozen and "items/guided" not in run.trained
    state = run.init_state()
    assert state.params["items/own/embedding"].shape == (run.store.n_items, 9)
    learned = run.restore(run.best_step())
    assert not np.allclose(learned["items/own/embedding"], state.params["items/own/embedding"])
    np.testing.assert_array_equal(learned["items/guided"], run.guided.items)


def test_users_scores_reach_their_own_rows_alone(trained):
    """In training by the sequence's user, in evaluation by the example's, else the average."""
    run = open_run(trained / "scored")
    params = run.restore(run.best_step())
    moved = {**params, "guided_users/guided": params["guided_users/guided"].at[5].add(3.0)}
    batch, chosen, real = batch_of(run)
    changed = np.abs(encoded(run, moved, batch)[0] - encoded(run, params, batch)[0]).max(1) > 1e-6
    np.testing.assert_array_equal(changed[real], chosen.users[real] == 5)
    training = jax.tree.map(lambda a: a[0], run.batches(0, 1))
    whose = {**training, "owners": run.data["owners"]}
    learn = jax.jit(lambda p: run.model.merge(p).learn(whose, nnx.Rngs(dropout=0)))
    before, after = learn(params), learn(moved)
    changed = np.abs(after.vectors - before.vectors).max(1) > 1e-6
    real = np.asarray(before.targets) > 0
    np.testing.assert_array_equal(
        changed[real], run.split.train.users[np.asarray(before.sequences)][real] == 5
    )
    # A history of anybody has the average vector; so has the user without a row.
    history = [run.store.catalog[i]["key"] for i in run.store.items[run.store.offsets[5] :][:9]]
    own, other = run.recommend([run.store.user_keys[5]], k=60), run.recommend([history], k=60)
    assert not np.allclose(own.scores, other.scores)
    zero = {**params, "guided_users/guided": params["guided_users/guided"].at[5].set(0.0)}
    average = run.recommend([run.store.user_keys[5]], k=60, params=zero)
    np.testing.assert_allclose(average.scores, other.scores, rtol=1e-5)


def test_the_linear_form_starts_as_the_normalised_one_and_learns(configured):
    plain = run_of(configured(refine={"user": "joined"}))
    linear = run_of(configured(refine={"user": "joined", "form": "linear"}))
    batch, _, _ = batch_of(plain)
    for one, other in zip(
        encoded(plain, params_of(plain), batch),
        encoded(linear, params_of(linear), batch),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert {"items/map/kernel", "items/map/bias", "guided_users/map/kernel"} <= linear.trained
    narrow = run_of(configured(refine={"form": "linear", "dim": 2}))
    assert narrow.model.shapes["items/own/embedding"].shape[1] == 10
    assert narrow.model.shapes["items/map/kernel"].shape == (3, 2)


def test_recent_means_by_hand():
    """Packed rows, a window across sequences, padding, and masks that ask."""
    scores = jnp.array([[9.0], [1.0], [2.0], [4.0], [8.0]])
    ids = jnp.array([[0, 1, 2, 3, 4, 4]])
    segments = jnp.array([[0, 1, 1, 1, 2, 2]])
    found = recent_means(scores, ids, segments, 2)
    np.testing.assert_allclose(found[0, :, 0], [0, 1, 1.5, 3, 8, 8])
    found = recent_means(scores, ids, segments, 0)
    np.testing.assert_allclose(found[0, :, 0], [0, 1, 1.5, 7 / 3, 8, 8], rtol=1e-6)
    masked = jnp.array([[0, 1, 5, 3, 4, 5]])  # 5 is the mask
    found = recent_means(scores, masked, segments, 2, masked=True)
    np.testing.assert_allclose(found[0, :, 0], [0, 0, 1, 1, 0, 8])


def test_recent_means_of_long_rows_in_16_bits():
    """As exact as the scores: sums of hundreds would be rounding."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 3)).astype(jnp.bfloat16)
    ids = rng.integers(1, 50, (1, 400))
    found = recent_means(jnp.asarray(scores), jnp.asarray(ids), jnp.ones((1, 400), int), 3)
    wide = scores.astype(np.float32)[ids[0]]
    means = [wide[max(0, k - 2) : k + 1].mean(0) for k in range(400)]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found[0].astype(jnp.float32), means, atol=0.01)


def test_a_changed_score_file_is_another_run(configured, tastes, tmp_path):
    """The checkpoint of one score file is not read with another."""
    scores = (tastes / "items.tsv").read_text()
    (tmp_path / "items.tsv").write_text(scores)
    guided = {"items": (f"scores:{tmp_path / 'items.tsv'}",)}
    config = configured(guided=guided, train={**configured()["train"], "epochs": 1.0})
    recjax.train(config, tmp_path / "run")
    lines = scores.splitlines()
    first = lines[1].split("\t")
    lines[1] = "\t".join([first[0], str(11 - int(first[1])), *first[2:]])
    (tmp_path / "items.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="a checkpoint of another guided part: config.guided"):
        recjax.evaluate(tmp_path / "run")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"refine": {"dim": 3}}, "config.refine.dim: expected 0: only the linear form"),
        ({"model": MODELS["sasrec"] | {"dim": 3}}, "config.model.dim: 3, of which 3 are"),
        (
            {"model": {"name": "dreamrec", "dim": 12}, "refine": {"user": "added"}},
            "config.refine.user: 'dreamrec' makes the vector",
        ),
        ({"refine": {"user": "both"}}, "config.refine.user: expected one of 'none'"),
        ({"vector": "recent:9"}, "config.guided.vector: recent:9, but the model reads 8 items"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_written(configured, tmp_path, sections, message):
    config = configured(**{k: v for k, v in sections.items() if k != "vector"})
    if "vector" in sections:
        config["guided"] = {**config["guided"], "vector": sections["vector"]}
        config["refine"] = {"user": "joined"}
    with pytest.raises(InputError) as error:
        start_run(build_config(complete(config)), tmp_path / "run")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_seeds_change_weights_and_controls(configured):
    run = run_of(configured(guided={**configured()["guided"], "control": "shuffled"}))
    other = run.with_seed(1)
    assert other.config == dataclasses.replace(run.config, seed=1)
    assert not np.array_equal(other.guided.items, run.guided.items)
