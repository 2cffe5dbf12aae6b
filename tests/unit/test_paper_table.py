"""scripts/table.py: a paper's table beside runs, track by track."""

import importlib.util
import json
from pathlib import Path

import pytest

from recjax.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "table.py"
spec = importlib.util.spec_from_file_location("paper_table", SCRIPT)
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)
KEYS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")


TEXTS = ("bleu4", "rouge1", "rouge2", "rougeL")


def workdir(path, values, seed=0, track="test/full", keys=KEYS, users=9, **config):
    path.mkdir(parents=True)
    given = {"seed": seed, "data": {"store": str(path)}, **config}
    (path / "config.json").write_text(json.dumps({"config": given}))
    line = {"step": 3, "final": True} | dict(
        zip([f"{track}/{k}" for k in keys], values, strict=True)
    )
    (path / "metrics.jsonl").write_text('{"step": 1}\n' + json.dumps(line) + "\n")
    (path / "manifest.json").write_text(json.dumps({"counts": {"users": users}}))
    return path


def test_seeds_have_a_mean_and_an_interval(tmp_path, capsys):
    for seed, value in enumerate((0.01, 0.02, 0.03)):
        workdir(tmp_path / f"a{seed}", [value] * 4, seed)
    workdir(tmp_path / "kept", [0.5] * 4, track="test/full_with_seen")
    runs = [f"--run=SASRec={tmp_path}/a*", f"--run=of semantic ids={tmp_path}/kept"]
    table.main(["sequential", *runs])
    left_out, kept = capsys.readouterr().out.split("## Sequential recommendation, beauty, ")[1:]
    assert left_out.startswith("`test/full`") and kept.startswith("`test/full_with_seen`")
    # t = 4.303 at two degrees of freedom, s = 0.01
    assert "| SASRec | 3 | 0.0200 ± 0.0248 |" in left_out and "SASRec |" not in kept
    assert "| published: HGN | | 0.0325 | 0.0206 | 0.0512 | 0.0266 |" in left_out
    assert "TIGER" in kept and "TIGER" not in left_out and "| of semantic ids | 1 | 0.5" in kept


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("rating", "| published: MF | | 1.1973 | 0.9461 |"),
        ("direct", "| published: SimpleX | | 0.0325 | 0.2247 | 0.1441 | 0.3090 | 0.1711 |"),
        ("explanation", "| published: PETER+ | | 3.2606 | 25.5541 | 5.9668 | 19.7168 |"),
        ("review", "| published: GPT-2 | | 0.5879 | 3.3844 | 0.6756 | 1.3956 |"),
    ],
)
def test_published_rows(name, row, capsys):
    table.main([name])
    assert row in capsys.readouterr().out


def test_what_does_not_fit_is_named(tmp_path):
    workdir(tmp_path / "b0", [0.1] * 4)
    workdir(tmp_path / "b1", [0.1] * 4, seed=1, model={"dim": 3})
    with pytest.raises(InputError, match=r"b1: another config than .*b0 \(model differ\)"):
        table.main(["sequential", f"--run=x={tmp_path}/b*"])
    with pytest.raises(InputError, match=r"--run x: its test has none of test/uni100"):
        table.main(["direct", f"--run=x={tmp_path}/b0"])
    # Texts are found under the names that runs write.
    workdir(tmp_path / "dim=4", [1.0] * 4, track="test/explanation", keys=TEXTS)
    table.main(["explanation", f"--run=x={tmp_path}/dim=4"])
    with pytest.raises(InputError, match="no such folder"):
        table.main(["direct", f"--run=x={tmp_path}/c"])
    with pytest.raises(InputError, match="--data beuaty: no published rows; did you mean 'beauty'"):
        table.main(["direct", "--data=beuaty"])
    with pytest.raises(InputError, match="--run x=.*: expected NAME=WORKDIRS, and each NAME once"):
        table.main(["sequential", *[f"--run=x={tmp_path}/b0"] * 2])
    (tmp_path / "b0" / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="b0.*no final line"):
        table.main(["sequential", f"--run=x={tmp_path}/b0"])


def test_runs_of_a_table_are_alike(tmp_path, capsys):
    split = {"name": "leave_one_out"}
    for seed in range(2):
        workdir(tmp_path / f"a{seed}", [0.1] * 4, seed, start=f"pre{seed}", split=split)
    workdir(tmp_path / "data", [0.1] * 4, users=8, split=split)
    workdir(tmp_path / "split", [0.1] * 4, split={"name": "rolling"})
    one = f"--run=one={tmp_path}/a*"
    table.main(["sequential", one])  # seeds that start from other runs
    assert "| one | 2 | 0.1000 ± 0.0000 |" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"--run x: its data is .*8.*, that of one .*9"):
        table.main(["sequential", one, f"--run=x={tmp_path}/data"])
    with pytest.raises(InputError, match=r"--run x: its config.split is .*rolling"):
        table.main(["sequential", one, f"--run=x={tmp_path}/split"])
    workdir(tmp_path / "a2", [0.1] * 4, 1, start="pre1", split=split)
    with pytest.raises(InputError, match="a2: the run of .*a1 once more"):
        table.main(["sequential", one])


def test_quantiles_of_student():
    # R: qt(0.975, c(10, 11, 30, 1000))
    found = [table.t_quantile(freedom) for freedom in (10, 11, 30, 1000)]
    assert found == pytest.approx([2.2281, 2.2010, 2.0423, 1.9623], abs=1e-3)
