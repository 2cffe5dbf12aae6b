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
    base = ["--config=configs/recommenders/sample_sasrec.py", f"--workdir={tmp_path}"]
    for arguments, message in (
        (["--vary=model.dim"], "--vary model.dim: expected key=value,value,..."),
        (["--vary=model.dim=8", "--part=3/2"], "--part 3/2: expected k/n"),
        (["--vary=model.dmi=8"], "dmi=8: recjax train ended with status 2"),
    ):
        found = run_script("grid", *base, *arguments)[0]
        assert found.startswith("grid.py: ") and message in found
