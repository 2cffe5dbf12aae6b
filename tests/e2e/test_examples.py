"""`scripts/examples/`: each tutorial runs as it stands, and says what it promises."""

import importlib.util
import re
from pathlib import Path

from recjax.data.simulate import load_catalogue

EXAMPLES = Path(__file__).resolve().parents[2] / "scripts" / "examples"


def run(name, folder, *arguments):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([f"--folder={folder}", *arguments])


def test_own_data(tmp_path, capsys):
    rows = [f"u{u},i{(u + t) % 12},2024-03-{t + 1:02}" for u in range(40) for t in range(6)]
    log = tmp_path / "log.csv"
    log.write_text("who,what,when\n" + "\n".join(rows) + "\n")
    run(
        "own_data",
        tmp_path / "out",
        f"--csv={log}",
        "--user=who",
        "--item=what",
        "--timestamp=when",
    )
    out = capsys.readouterr().out
    assert "40 users, 12 items\nu0: i0, i1, i2, i3, i4, i5\n" in out
    ranked = re.findall(r"^(\d)\. (i\d+)  -?\d+\.\d\d$", out, re.MULTILINE)
    assert [int(rank) for rank, _ in ranked] == [*range(1, 6)] * 2
    # The user's own items are left out, and the items of the history that is asked about.
    assert not {key for _, key in ranked[:5]} & {f"i{k}" for k in range(6)}
    assert not {key for _, key in ranked[5:]} & {"i3", "i4", "i5"}


def test_hf_llama(tmp_path, capsys):
    run("hf_llama", tmp_path)
    out = capsys.readouterr().out
    assert "with a new adapter logits differ by 0.0e+00" in out
    differences = dict(re.findall(r"^(hf|meta): logits differ by (\S+)$", out, re.MULTILINE))
    assert set(differences) == {"hf", "meta"}
    assert all(float(value) < 1e-5 for value in differences.values())
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    assert (tmp_path / "meta" / "params.json").is_file()


def test_read_recommender(tmp_path, capsys):
    run("read_recommender", tmp_path)
    out = capsys.readouterr().out
    first, last = map(float, re.search(r"loss: (\S+) -> (\S+)", out).groups())
    assert last < first
    titles = {book["title"] for book in load_catalogue()}
    answers = re.findall(r"^added: (.+); answer: +(.+)$", out, re.MULTILINE)
    assert len(answers) == 4
    for added, answer in answers:
        assert added in titles and any(title in answer for title in titles)
    assert (tmp_path / "interpreter" / "interpreter.json").is_file()


def test_guided(tmp_path, capsys):
    run("guided", tmp_path, "--epochs=1")
    out, err = capsys.readouterr()
    assert re.search(r"^fused with weight \S+: ndcg@10 0\.\d+$", out, re.MULTILINE)
    assert "A - B" in err and "report: " in err
    page = (tmp_path / "refined" / "report.html").read_text()
    assert "Agreement by aspect" in page and 'class="radar"' in page


def test_recsysllm(tmp_path, capsys):
    run("recsysllm", tmp_path, "--epochs=0.4", "--users=120", "--examples=4", "--plain=off")
    out = capsys.readouterr().out
    metrics = dict(re.findall(r"(\S+/\S+) (\d\.\d{4})", out))
    assert {"full/hr@5", "gen/valid_ratio", "rating/baseline/rmse"} <= set(metrics)
    assert len(re.findall(r"^reader \S+: .+;", out, re.MULTILINE)) == 5
    page = (tmp_path / "recsysllm" / "report.html").read_text()
    assert "as RecSysLLM reads them" in page and "gen/valid_ratio" in page
