"""Two runs side by side, and one run example by example, through the command."""

import csv
import json
import shutil

import numpy as np
import pytest

from recjax.compare import _common, compare
from recjax.data.splits import leave_one_out
from recjax.evaluation.protocols import Measured
from recjax.training.workdir import build_config, open_run, start_run


def section(store, **changes):
    return {
        "data": {
            "source": "simulated",
            "store": str(store),
            "options": {"users": 120, "mean_length": 10.0, "max_length": 30},
        },
        "model": {"name": "sasrec", "dim": 8, "max_length": 6},
        "objective": {"name": "softmax"},
        "train": {"batch_size": 64, "epochs": 1.0, "steps_per_call": 1},
        "evaluation": {"protocols": ("full", "uni100"), "cutoffs": (1, 10)},
    } | changes


@pytest.fixture(scope="module")
def runs(sample_store, tmp_path_factory):
    """Workdirs of two runs, the second of another seed, model and size of batches."""
    folder = tmp_path_factory.mktemp("runs")
    other = {
        "seed": 1,
        "model": {"name": "gru4rec", "dim": 8, "max_length": 9},
        "evaluation": {"protocols": ("uni100", "full"), "batch_size": 32, "seed": 3},
    }
    for name, changes in (("a", {}), ("b", other)):
        start_run(build_config(section(sample_store.path, **changes)), folder / name).train()
    return folder


def one_line(err):
    lines = [line for line in err.splitlines() if line.startswith("recjax: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    return lines[0]


@pytest.fixture(scope="module")
def comparison(runs):
    return compare(runs / "a", runs / "b")


def test_both_are_measured_by_the_settings_of_the_first(runs, comparison, sample_store):
    a = open_run(runs / "a")
    evaluation = {"protocols": ("full", "uni100"), "cutoffs": (1, 10)}
    b = open_run(runs / "b", **evaluation, batch_size=256, seed=0)
    for run, side in ((a, "a"), (b, "b")):
        values = run.evaluator("test").run(run.restore(run.best_step()))
        found = {name: row[side] for name, row in comparison["metrics"].items()}
        assert found == pytest.approx({k: v for k, v in values.items() if "coverage" not in k})
    assert comparison["steps"] == [a.best_step(), b.best_step()]
    assert comparison["users"] == comparison["examples"] == 120
    for row in comparison["metrics"].values():
        assert row["difference"] == row["a"] - row["b"]
        assert row["low"] <= row["difference"] <= row["high"]
    assert {"test/full/mrr", "test/uni100/recall@10", "test/full/mmr@10"} <= {
        *comparison["metrics"]
    }


def test_the_examples_and_the_metrics_that_both_have():
    def measured(examples, users, **values):
        given = np.array(examples), np.array(users), 10 * np.array(examples)
        return Measured("test", *given, {"full": {k: np.array(v) for k, v in values.items()}}, {})

    a = measured([5, 9, 12], [0, 1, 2], rank=[1, 2, 3], mrr=[0.1, 0.2, 0.3], mmr=[0, 0, 0])
    b = measured([12, 4, 5], [2, 3, 0], rank=[3, 2, 1], mrr=[0.6, 0.5, 0.4])
    pair = _common(a, b)
    assert pair.users.tolist() == [0, 2] and pair.targets.tolist() == [50, 120]
    assert {k: v.tolist() for k, v in pair.values.items()} == {
        "test/full/mrr": [[0.1, 0.3], [0.4, 0.6]]
    }


def test_by_popularity_of_the_target_in_the_training_data(comparison, sample_store):
    split = leave_one_out(sample_store.offsets)
    seen = [sample_store.items[a:b] for a, b in zip(split.train.starts, split.train.stops,
                                                    strict=True)]  # fmt: skip
    times = np.bincount(np.concatenate(seen), minlength=sample_store.n_items)
    times = times[sample_store.items[split.test.stops]]
    expected = {
        "unseen": (times == 0).sum(), "1-5": ((times > 0) & (times < 6)).sum(),
        "6-20": ((times > 5) & (times < 21)).sum(), "more": (times > 20).sum(),
    }  # fmt: skip
    found = {name: group["examples"] for name, group in comparison["popularity"].items()}
    assert found == {name: count for name, count in expected.items() if count}
    assert len(found) > 1
    for side in ("a", "b"):  # the whole is the mean of its parts
        parts = [g["metrics"]["test/full/mrr"][side] for g in comparison["popularity"].values()]
        whole = np.average(parts, weights=list(found.values()))
        assert whole == pytest.approx(comparison["metrics"]["test/full/mrr"][side])


def test_the_command_prints_it_and_json(recjax, runs, comparison):
    status, out, err = recjax(
        "evaluate", f"--workdir={runs}/a", f"--against={runs}/b", "--json"
    )  # fmt: skip
    assert status == 0 and out == json.loads(json.dumps(comparison))
    row = comparison["metrics"]["test/full/mrr"]
    assert f"{row['low']:+.4f} .. {row['high']:+.4f}" in err
    assert "120 examples of 120 users; 95% intervals by 10,000 paired resamples" in err
    assert "target 1-5 times in training: " in err


def test_a_run_against_itself_differs_in_nothing(recjax, runs):
    arguments = ("--split=validation", "--protocols=full", "--json")
    status, out, _ = recjax(
        "evaluate", f"--workdir={runs}/a", f"--against={runs}/a", *arguments
    )  # fmt: skip
    assert status == 0 and out["split"] == "validation"
    assert all(name.startswith("validation/full/") for name in out["metrics"])
    for row in out["metrics"].values():
        assert row["difference"] == row["low"] == row["high"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluation": {"protocols": ("full",)}},
            "of other protocols than {a}: config.evaluation.protocols is full, expected full,uni100"
            "; --protocols=A,B measures both",
        ),
        (
            {"split": {"name": "chronological_time"}},
            "of another split than {a}: config.split is SplitConfig(name='chronological_time'",
        ),
        ({"data": {"users": 90}}, "of other data than {a}: 90 users and"),
        ({"system": "language_model"}, "a run of another kind; expected a recommender's"),
    ],
)
def test_runs_that_cannot_be_compared(recjax, runs, sample_store, tmp_path, changes, message):
    given = section(sample_store.path)
    if "data" in changes:
        store = tmp_path / "store"
        given["data"] |= {"store": str(store)}
        given["data"]["options"] = given["data"]["options"] | changes["data"]
    elif "system" in changes:
        given = {"system": "language_model", "data": given["data"], "text": {"domain": "book"},
                 "model": {"name": "llama", "dim": 16, "layers": 1}}  # fmt: skip
    else:
        given |= changes
    start_run(build_config(given), tmp_path / "other")
    status, out, err = recjax(
        "evaluate", f"--workdir={runs}/a", f"--against={tmp_path}/other"
    )  # fmt: skip
    line = one_line(err)
    assert (status, out) == (2, None)
    assert line.startswith(f"recjax: {tmp_path}/other: " + message.replace("{a}", f"{runs}/a"))


def test_split_settings_that_do_not_count_are_no_other_split(runs, tmp_path):
    """`ratios` are of the chronological splits."""
    other = tmp_path / "other"
    shutil.copytree(runs / "b", other)
    record = json.loads((other / "config.json").read_text())
    record["config"]["split"]["ratios"] = [6, 2, 2]
    (other / "config.json").write_text(json.dumps(record))
    assert compare(runs / "a", other, protocols=["uni100"])["users"] == 120


def read(path):
    if path.suffix == ".csv":
        with path.open(encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_each_user_in_a_file(recjax, runs, sample_store, tmp_path, ending):
    path = tmp_path / f"users.{ending}"
    status, out, _ = recjax(
        "evaluate", f"--workdir={runs}/a", f"--per-user={path}", "--json"
    )  # fmt: skip
    rows = read(path)
    assert status == 0 and len(rows) == 120
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert [row["user"] for row in rows] == [str(key) for key in sample_store.user_keys]
    last = sample_store.items[sample_store.offsets[1:] - 1]
    assert [row["target"] for row in rows] == [sample_store.catalog[i]["key"] for i in last]
    means = {name: np.mean([float(row[name]) for row in rows]) for name in list(rows[0])[2:]}
    for name in ("full/hr@10", "full/mmr@1", "uni100/ndcg@10", "full/mrr", "uni100/recall@1"):
        assert means[name] == pytest.approx(out[f"test/{name}"])
    ranks = [int(row["full/rank"]) for row in rows]
    assert np.mean(1 / np.array(ranks)) == pytest.approx(out["test/full/mrr"])


def test_files_that_cannot_be_written(recjax, runs, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("users.txt", "users.txt: expected a name that ends in .csv, .jsonl, .parquet"),
        ("there.csv", "there.csv: exists already; choose another name"),
        ("folder.csv", "folder.csv: is a folder"),
        ("no/users.csv", "no/users.csv: there is no folder"),
    ):
        status, _, err = recjax(
            "evaluate", f"--workdir={runs}/a", f"--per-user={tmp_path}/{name}"
        )  # fmt: skip
        assert status == 2 and message in one_line(err) and "--per-user" in err
    assert (tmp_path / "there.csv").read_text() == "mine"
    status, _, err = recjax(
        "evaluate", f"--workdir={runs}/a", f"--per-user={tmp_path}/x.csv", f"--against={runs}/b"
    )  # fmt: skip
    assert status == 2 and "leave out --against" in one_line(err)
