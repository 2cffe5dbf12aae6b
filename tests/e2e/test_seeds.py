"""`scripts/seeds.py`: a recipe over seeds, stage by stage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recjax.errors import InputError


@pytest.fixture
def seeds(script):
    return script("seeds")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(f"""
from ml_collections import ConfigDict

def get_config(arg=None):
    config = ConfigDict()
    config.data = {{"source": "simulated", "store": {str(tmp_path / "store")!r},
                   "options": {{"users": 120}}}}
    config.model = {{"name": "sasrec", "dim": 8, "max_length": 6, "layers": 1, "heads": 1}}
    config.objective = {{"name": "softmax"}}
    config.train = {{"epochs": 1.0, "batch_size": 64, "steps_per_call": 1,
                    "goals": {{"validation/full/ndcg@10": 2.0}}}}
    return config
""")
    return path


def test_a_recipe_over_seeds(run_script, config, tmp_path):
    arguments = [f"--workdir={tmp_path / 'runs'}", "--stage", f"sasrec={config}@0,3-3"]
    message, commands, printed, _ = run_script("seeds", *arguments)
    assert message is None
    assert [c[3] for c in commands] == [f"--config.seed={seed}" for seed in (0, 3)]
    rows = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert [row["seeds"] for row in rows] == [{"sasrec": 0}, {"sasrec": 3}]
    values = sorted(row["values"]["test/full/hr@20"] for row in rows)
    assert values[0] < values[-1]
    line = next(x for x in printed.splitlines() if x.startswith("test/full/hr@20"))
    assert [float(x) for x in line.split()[1:4]] == pytest.approx(
        [values[0], sum(values) / 2, values[-1]], abs=1e-4
    )
    assert "2 runs; 2 did not meet their goals: [{'sasrec': 0}" in printed
    _, commands, again, _ = run_script("seeds", *arguments)  # all has ended: read, not trained
    assert commands == [] and again == printed
    config.write_text(config.read_text().replace('"dim": 8', '"dim": 4'))
    message, commands, _, _ = run_script("seeds", *arguments)
    assert "sasrec0.json: the result of other settings than" in message and commands == []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.dimm=8", "--stage b: unknown config key 'model.dimm'"),
        ("model.dim=-8", "--stage b: config.model.dim: "),
    ],
)
def test_all_stages_are_read_before_the_first_is_trained(
    run_script, config, tmp_path, key, message
):
    stages = ["--stage", f"a={config}@0", "--stage", f"b={config}@0", f"--set=b.{key}"]
    found, commands, _, _ = run_script("seeds", f"--workdir={tmp_path / 'runs'}", *stages)
    assert found.startswith(message) and commands == [] and not (tmp_path / "runs").exists()


def test_stages_that_read_others_run_once_for_each_choice(seeds):
    a, b = seeds.Stage("a", "a.py", [0, 1, 2]), seeds.Stage("b", "b.py", [5])
    c = seeds.Stage("c", "c.py", [7, 8], {"llm": "{a}/hf", "recommender": "{b}"})
    chosen = seeds.choices([a, b, c], every=False)
    assert [tuple(one.values()) for one in chosen] == [(0, 5, 7), (1, 5, 8), (2, 5, 7)]
    assert len(seeds.choices([a, b, c], every=True)) == 6
    assert c.reads == ["a", "b"]


def test_the_folders_of_stages_name_the_seeds_that_they_depend_on(seeds, monkeypatch, tmp_path):
    commands = []

    def trained(command, **options):
        commands.append(command[4:])
        Path(command[5].removeprefix("--workdir=")).mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, json.dumps({"finished": True}))

    monkeypatch.setattr(seeds.subprocess, "run", trained)
    a, b = seeds.Stage("a", "a.py", [0, 1]), seeds.Stage("b", "b.py", [5])
    keys = {"llm": "{a}/hf", "recommender": "{b}", "optim.rules": "[{'match': '.*'}]"}
    c = seeds.Stage("c", "c.py", [7], keys)
    for chosen in seeds.choices([a, b, c], every=False):
        for stage in (a, b, c):
            seeds.train(tmp_path, stage, [a, b, c], chosen)
    folders = [Path(c[1].removeprefix("--workdir=")).relative_to(tmp_path) for c in commands]
    assert [str(folder) for folder in folders] == [
        "a/a0", "b/b5", "c/a0-b5-c7", "a/a1", "c/a1-b5-c7",
    ]  # fmt: skip
    assert commands[2][3:] == [
        f"--config.llm={tmp_path}/a/a0/hf", f"--config.recommender={tmp_path}/b/b5",
        "--config.optim.rules=[{'match': '.*'}]", "--json",
    ]  # fmt: skip
    other = seeds.Stage("b", "b.py", [5], {"model.dim": "8"})
    with pytest.raises(InputError, match="b5.json: the result of .*, expected one of .*model.dim"):
        seeds.train(tmp_path, other, [a, other, c], {"a": 0, "b": 5, "c": 7})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage=a=a.py"], "--stage a=a.py: expected NAME=CONFIG@SEEDS"),
        (["--stage=a=a.py@0", "--stage=a=b.py@0"], "--stage a=b.py@0: expected .* each NAME once"),
        (["--stage=a=a.py@0-2,2"], "seeds '0-2,2': expected at least one, and each once"),
        (["--stage=a=a.py@x"], "seeds 'x': expected numbers and ranges"),
        (["--stage=a=a.py@3-1"], "seeds '3-1': expected at least one"),
        (["--stage=a=a.py@0", "--set=b.llm=x"], "--set b.llm=x: expected STAGE.KEY=VALUE"),
        (["--stage=a=a.py@0", "--set=a.llm={b}"], "--set a: reads {b}; expected an earlier stage"),
    ],
)
def test_bad_usage_is_one_line(seeds, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setattr(sys, "argv", ["seeds.py", f"--workdir={tmp_path}", *arguments])
    with pytest.raises(InputError, match=message):
        seeds.main()
