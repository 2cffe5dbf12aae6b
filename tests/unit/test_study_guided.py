"""scripts/study_guided.py and `scripts/table.py guided`: ranks are kept, compared and printed."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


study, table = script("study_guided"), script("table")
USERS = np.repeat(np.arange(40), 5)
GROUPS = {"all": np.ones(200, bool), "1-5": np.arange(200) < 50, "more": np.arange(200) >= 50}


@pytest.fixture
def rows(tmp_path):
    """Ranks of a base and of a row that is always one better: a wave of two seeds."""
    results = study.Results(tmp_path / "rows.jsonl")
    rng = np.random.default_rng(0)
    ranks, lines = {}, []
    for seed in range(2):
        base = rng.integers(2, 30, 200)
        for name, own in (("base", base), ("joined", base - 1)):
            ranks |= {f"x/{name}/{seed}/{protocol}": own for protocol in ("full", "uni100")}
            value = float(study.values_of(own)[:, study.METRICS.index("ndcg@10")].mean())
            line = {"kind": "seed", "where": "x", "row": name, "seed": seed}
            lines.append({**line, "test/full/ndcg@10": value})
    results.keep(ranks)
    lines += study.compared(results, "x", ["base", "joined"], [0, 1], USERS, GROUPS)
    results.write(lines)
    return results, ranks


def test_ranks_and_lines_come_back(rows):
    results, ranks = rows
    again = study.Results(results.out)
    assert again.lines == results.lines and len(again.lines) == 8
    for name, own in ranks.items():
        np.testing.assert_array_equal(again.ranks[name], own)


def test_a_wave_has_ended_where_all_its_rows_and_seeds_are_there(rows):
    results, _ = rows
    assert results.has("x", ["base", "joined"], [0, 1])
    assert not results.has("x", ["base", "fused"], [0, 1])  # it ended before the fused rows
    assert not results.has("x", ["base"], [0, 1, 2])
    again = [line for line in results.lines if line["row"] == "base"]
    results.write(again)  # made again: not twice in the table
    assert len(study.Results(results.out).lines) == 8
    for number in range(1, 11):
        results.keep({"x/base/0/full": np.full(3, number)})
    assert study.Results(results.out).ranks["x/base/0/full"].tolist() == [10] * 3


def test_a_row_is_compared_with_the_base_of_the_same_seeds(rows):
    lines = {
        (line["row"], line["protocol"]): line for line in rows[0].lines if line["kind"] == "row"
    }
    assert set(lines) == {(r, p) for r in ("base", "joined") for p in ("full", "uni100")}
    base, own = lines["base", "full"]["all"], lines["joined", "full"]["all"]
    assert base["ndcg@10"][0] == base["ndcg@10"][1] and base["ndcg@10"][2:] == [0, 0]
    better, worse, low, high = own["mrr"]
    assert 0 < low < better - worse < high
    means = [np.mean(1 / rows[1][f"x/joined/{seed}/full"]) for seed in range(2)]
    assert better == pytest.approx(np.mean(means), abs=1e-6)
    assert lines["joined", "full"]["1-5"]["examples"] == 50


def test_the_table_has_ranges_intervals_and_popularity(rows, capsys):
    table.main(["guided", str(rows[0].out)])
    text = capsys.readouterr().out
    assert text.startswith("## x\n")
    line = next(line for line in text.splitlines() if line.startswith("| joined | 2 |"))
    a, b, low, high = next(
        line["all"]["ndcg@10"] for line in rows[0].lines
        if line["kind"] == "row" and line["row"] == "joined"
    )  # fmt: skip
    above = [100 * x / b for x in (a - b, low, high)]
    assert "| {:+.1f} ({:+.1f} to {:+.1f}) |".format(*above) in line
    assert "| NDCG@10, % | 1-5 (50) | more (150) |" in text
    other = rows[0].out.with_name("users.jsonl")
    other.write_text(rows[0].out.read_text())  # the same base in two files of a study
    table.main(["guided", str(rows[0].out), str(other)])
    files = capsys.readouterr().out.split("## x, ")[1:]
    assert [text.split("\n")[0] for text in files] == ["rows.jsonl", "users.jsonl"]
    assert all(line in text for text in files)
    other.write_text("".join(f"{x}\n" for x in other.read_text().splitlines() if "seed" in x[:15]))
    with pytest.raises(study.InputError, match="users.jsonl: x: no base of the same seeds beside"):
        table.main(["guided", str(other)])


@pytest.mark.parametrize("text", ["{", '[{"kind": "row"}]'])
def test_another_file_is_an_error(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(study.InputError, match="x.jsonl: no lines of scripts/study_guided.py"):
        table.main(["guided", str(tmp_path / "x.jsonl")])


def test_rows_of_the_config_and_their_changes(tmp_path):
    for name, wanted in (("joined", "joined"), ("items", "none"), ("added@alpha=0.5", "added")):
        row = study.row_of("ml100k", "sasrec-ce", name, None)
        assert row.refine.user == wanted and row.guided is not None
    assert row.refine.alpha == 0.5
    assert study.row_of("ml100k", "sasrec-ce", "base@dim=20", None).dim == 20
    for name in ("base@alpha=2", "base@dim=x", "added@dim=20", "added@alpha"):
        with pytest.raises(study.InputError, match=f"row {name}: expected a change of "):
            study.row_of("ml100k", "sasrec-ce", name, None)
    with pytest.raises(study.InputError, match="no argument 'sasrec-ce-none'"):
        study.row_of("ml100k", "sasrec-ce", "none", None)
    with pytest.raises(study.InputError, match="sasrec-ce: expected MODEL-OBJECTIVE:ROWS"):
        study.parse(["ml100k", "sasrec-ce", "--out", str(tmp_path / "x.jsonl")])
    with pytest.raises(study.InputError, match="--users a=b: expected NAME=FILE, and the file"):
        study.parse(["ml100k", "x:base", "--users=a=b", "--out", str(tmp_path / "x.jsonl")])


def test_all_waves_are_read_before_the_first_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "prepare", lambda data: None)
    monkeypatch.setattr(study, "Study", lambda *_: pytest.fail("trains"))
    waves = ["sasrec-ce:base", "sasrec-cloze:base"]
    with pytest.raises(study.InputError, match="no argument 'sasrec-cloze-base'"):
        study.main(["ml100k", "--out", str(tmp_path / "x.jsonl"), *waves])
    with pytest.raises(study.InputError, match="row base@alpha=2: expected a change of dim"):
        study.main(
            ["ml100k", "--out", str(tmp_path / "x.jsonl"), waves[0], "sasrec-bce:base@alpha=2"]
        )
