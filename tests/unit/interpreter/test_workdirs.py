"""What is done with workdirs: results written, another recommender opened, states in a file."""

import jax
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.study import StudyConfig
from recjax.interpreter.workdirs import examine, open_interpreter, read_hidden, recommender_of
from recjax.report.sections import read_results
from recjax.text.tasks import RECOVERY, RESIDUAL
from recjax.training.workdir import build_config, open_run, start_run


def test_results_are_written(finished):
    """With the model's own answers."""
    metrics = examine(finished[0], StudyConfig(split="validation"), step=4)
    sections = read_results(finished[0] / "results.json")
    assert [section.title for section in sections] == [
        "In short", "Residual accuracy (Table 2)", "Recovered items a sequence (Figure 4)",
        "Recovery", "Cases: residual (Figure 5)", "Cases: recovery (Figure 5)", "Errors",
        "The adapter's filter",
    ]  # fmt: skip
    assert all(name.startswith("validation/") for name in metrics)
    assert metrics["validation/sequences/residual/greedy/accuracy"] == 0.0
    assert "dreamrec's states [5 8]" in sections[0].text
    said = "0.0% of the added items are named (greedy decoding, validation sequences)."
    assert said in sections[0].text


def test_a_workdir_of_another_kind(finished, trained):
    recommender = trained("sasrec", seed=1)
    with pytest.raises(InputError, match="a run of another kind; expected an interpreter's"):
        examine(recommender, StudyConfig())
    with pytest.raises(InputError, match="a run of another kind; expected a recommender's"):
        recommender_of(finished[0], finished[0])


def test_another_recommenders_first_new_item(trained, finished):
    workdir = trained("sasrec", seed=1)
    name, recommend = recommender_of(workdir, finished[0])
    run = open_run(workdir)
    ids = np.random.default_rng(0).integers(1, run.store.n_items, (50, 6)).astype(np.int32)
    ids[:9, :3] = 0  # short ones
    model = run.model.merge(run.restore(run.best_step()))
    scores = np.array(jax.jit(lambda ids: model.score(model.predict(ids)))(ids))
    scores[:, 0] = -np.inf
    first = scores.argmax(axis=1)
    for row, history in enumerate(ids):
        scores[row, history] = -np.inf
    assert (first != scores.argmax(axis=1)).any(), "some would be recommended again"
    assert name == "sasrec"
    np.testing.assert_array_equal(recommend(ids), scores.argmax(axis=1))


def test_a_recommender_of_another_split_is_refused(finished, recommender_config, tmp_path):
    config = recommender_config("sasrec", split="leave_one_out")
    start_run(config, tmp_path / "other").train()
    with pytest.raises(InputError, match="other: other data or another split than"):
        recommender_of(tmp_path / "other", finished[0])


def test_a_masked_recommender_predicts_at_its_mask(trained, finished):
    workdir = trained("bert4rec")
    _, recommend = recommender_of(workdir, finished[0])
    run = open_run(workdir)
    ids = np.random.default_rng(0).integers(1, run.store.n_items, (20, run.window - 1))
    masked = np.pad(ids, ((0, 0), (0, 1)), constant_values=run.store.n_items).astype(np.int32)
    model = run.model.merge(run.restore(run.best_step()))
    scores = np.array(jax.jit(lambda ids: model.score(model.predict(ids)))(masked))
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, ids, -np.inf, axis=1)
    np.testing.assert_array_equal(recommend(ids.astype(np.int32)), scores.argmax(axis=1))


# States in a file.


@pytest.fixture
def write(tmp_path):
    def make(**arrays):
        np.savez(tmp_path / "h.npz", **arrays)
        return tmp_path / "h.npz"

    return make


H = np.random.default_rng(0).normal(size=(3, 5, 8))


def test_states_from_a_file(finished, write):
    run = open_interpreter(finished[0])
    reader = run.reader(run.restore(run.best_step()))
    after = H[::-1] + 1.0
    answers = read_hidden(finished[0], write(before=H, after=after))
    expected = reader.read(np.stack([H, after], axis=1).astype(np.float32), RESIDUAL)
    assert answers == [{"residual": answer.text.strip()} for answer in expected]
    answers = read_hidden(finished[0], write(hidden=H))
    expected = reader.read(H[:, None].astype(np.float32), RECOVERY)
    assert answers == [{"recovery": answer.text.strip()} for answer in expected]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"before": H}, "h.npz: holds before; expected before and after, or hidden"),
        ({"hidden": H, "after": H}, "h.npz: holds after, hidden; expected"),
        ({}, "h.npz: holds nothing; expected"),
        ({"before": H, "after": H[:2]}, "h.npz: 3 rows of before, 2 of after"),
        ({"hidden": H[..., :7]}, "h.npz: hidden: width 7, expected 8"),
        ({"hidden": H[:, :4]}, "h.npz: hidden: positions 4, expected 5"),
        ({"before": H, "after": H * np.inf}, "h.npz: after: row 0 has NaN or infinity"),
        ({"hidden": np.array([["a", "b"]])}, "h.npz: hidden: an array of <U1; expected floating"),
        ({"hidden": H + 1j}, "h.npz: hidden: an array of complex128; expected floating-point"),
        ({"hidden": H * 1e39}, "h.npz: hidden: row 0 has NaN or infinity; expected finite"),
        ({"hidden": np.array([None, 1])}, "h.npz: hidden: an array of objects; expected numbers"),
    ],
)
def test_files_that_do_not_fit(finished, write, arrays, message):
    with pytest.raises(InputError, match=message):
        read_hidden(finished[0], write(**arrays))


@pytest.mark.parametrize(
    ("task", "arrays"), [("residual", {"hidden": H}), ("recovery", {"before": H, "after": H})]
)
def test_states_of_a_task_that_was_not_trained(interpreter_section, write, tmp_path, task, arrays):
    """Told before anything is loaded: there are no checkpoints here."""
    ask = {"window": 5, "residual": 0.0, "recovery": 0.0, task: 1.0}
    train = interpreter_section()["train"] | {"metric": f"validation/{task}/outside"}
    start_run(build_config(interpreter_section(ask=ask, train=train)), tmp_path / "run")
    with pytest.raises(InputError, match=f"the adapter was trained for {task} alone"):
        read_hidden(tmp_path / "run", write(**arrays))


def test_files_that_are_no_npz(finished, write, tmp_path):
    whole = write(hidden=H).read_bytes()
    np.save(tmp_path / "h.npy", H)
    for name, content in (
        ("gone.npz", None), ("cut.npz", whole[:400]), ("empty.npz", b""), ("text.npz", b"h"),
        ("h.npy", (tmp_path / "h.npy").read_bytes()),
    ):  # fmt: skip
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: (no such file|not readable as .npz)"):
            read_hidden(finished[0], tmp_path / name)
