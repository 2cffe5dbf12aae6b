"""`scripts/grid.py`: every combination once, and an interrupted grid goes on."""

import json


def test_a_grid_of_two_by_one(run_script, tmp_path):
    arguments = [
        "--config=configs/recommenders/sample_sasrec.py:ce",
        f"--workdir={tmp_path / 'grid'}",
        "--vary=model.dim=8,16",
        "--vary=config.optim.weight_decay=0.01",
        f"--config.data.store={tmp_path / 'store'}",
        "--config.data.options.users=120",
        "--config.train.epochs=0.2",
    ]
    message, commands, out, err = run_script("grid", *arguments)
    assert message is None and len(commands) == 2, err
    rows = json.loads((tmp_path / "grid" / "grid.json").read_text())
    names = ["dim=16,weight_decay=0.01", "dim=8,weight_decay=0.01"]
    assert sorted(row["name"] for row in rows) == names
    values = [row["validation/full/ndcg@10"] for row in rows]
    assert values == sorted(values, reverse=True) and values[0] > 0
    for row in rows:
        config = json.loads((tmp_path / "grid" / row["name"] / "config.json").read_text())
        assert str(config["config"]["model"]["dim"]) == row["model.dim"]
        assert config["config"]["optim"]["weight_decay"] == 0.01
    lines = out.splitlines()
    assert rows[0]["name"] in lines[0] and "best by validation/full/ndcg@10" in lines[-1]
    # All is done: read, not trained.
    message, _, _, err = run_script("grid", *arguments, "--part=2/2")
    assert message is None, err
    assert json.loads((tmp_path / "grid" / "grid-2-of-2.json").read_text()) == [
        row for row in rows if row["model.dim"] == "16"
    ]


def test_bad_usage_is_one_line(run_script, tmp_path):
    base = ["--config=configs/recommenders/sample_sasrec.py", f"--workdir={tmp_path / 'grid'}"]
    reference = "--config=configs/references/ml100k.py:popularity"
    for arguments, message in (
        (["--vary=model.dim"], "--vary model.dim: expected key=value,value,..."),
        (["--vary=model.dim=8", "--vary=config.model.dim=9"], "--vary model.dim: given twice"),
        (["--vary=model.dim=8", "--part=3/2"], "--part 3/2: expected k/n"),
        (["--vary=model.dim=8,9", "--part=3/3"], "--part 3/3: the grid has 2 points"),
        (["--vary=model.dim=8,-8"], "config.model.dim: "),
        (["--vary=model.dmi=8"], "unknown config key 'model.dmi'"),
        ([reference, "--vary=data.k_core_users=2"], "nothing is trained, so nothing validates"),
    ):
        found = run_script("grid", *base, *arguments)[0]
        assert message in found
    assert not (tmp_path / "grid").exists()


def test_keys_that_end_alike_have_whole_names(script):
    points = script("grid").points_of(["model.name=a", "config.objective.name=b,c", "seed=1"])
    assert list(points) == [f"model.name=a,objective.name={x},seed=1" for x in "bc"]
    assert points["model.name=a,objective.name=c,seed=1"]["objective.name"] == "c"


def test_the_best_is_the_lowest_where_lower_is_better(script, tmp_path):
    lines = ['{"step": 1, "validation/rmse": 2.0, "validation/full/mrr": 2.0}']
    lines += ['{"step": 2, "validation/rmse": NaN}', '{"step": 3, "validation/rmse": 3.0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    best = script("grid").best_validation
    assert best(tmp_path, "validation/rmse") == 2 and best(tmp_path, "validation/full/mrr") == 2
    assert str(best(tmp_path, "validation/loss")) == "nan"
