"""`scripts/check_gpu.py`: its stages, its table, and what becomes of a stage that fails. The
benchmarks themselves take minutes and are not run here."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_gpu", SCRIPTS / "check_gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_gpu"] = module  # dataclasses look there
    sys.path.insert(0, str(SCRIPTS))
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPTS))
    yield module
    del sys.modules["check_gpu"]


def test_targets(check):
    faster, host = ("at least", 1.3), ("at most", 0.05)
    for value, peer, target, met in (
        (130.0, 100.0, faster, True),
        (129.0, 100.0, faster, False),
        (130.0, None, faster, None),  # nothing to compare with
        (None, 100.0, faster, None),
        (0.04, None, host, True),
        (0.05, None, host, True),
        (0.051, None, host, False),
        (0.5, None, ("at least", 0.5), True),
        (3.0, None, None, None),
    ):
        assert check.Figure("x", value, "", peer, target).met is met


def test_flax_that_installs_beside_jax_and_fails_is_named(check, monkeypatch):
    monkeypatch.setattr(check, "has_module", lambda name: name != "tensorboardX")
    for jax, flax, expected in (
        ((0, 11, 2), (0, 12, 9), ["tensorboardX", "flax>=0.12.10"]),
        ((0, 11, 2), (0, 12, 10), ["tensorboardX"]),
        ((0, 10, 2), (0, 12, 8), ["tensorboardX"]),
    ):
        monkeypatch.setattr(check, "version", {"jax": jax, "flax": flax}.get)
        assert check.missing() == expected


def test_versions_are_numbers(check, monkeypatch):
    monkeypatch.setattr(check.importlib.metadata, "version", lambda name: "0.12.0rc1")
    assert check.version("x") == (0, 12, 1)
    monkeypatch.undo()
    assert check.version("no such package") == ()


def test_peers_that_are_not_there(check, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    assert check.absent_peers(str(bare / "bin" / "python")) == ["torch", "transformers", "peft"]
    if importlib.util.find_spec("torch") is None:
        assert "torch" in check.absent_peers(sys.executable)


@pytest.fixture
def stage(check, tmp_path):
    def make(code, limit=20.0):
        script = tmp_path / "script.py"
        script.write_text(code)
        return check.run_stage(
            check.Stage("a b", [str(script), "OUT"], limit, None), limit, tmp_path
        )

    return make


def test_a_stage_gives_its_json(stage):
    code = "import sys, json; open(sys.argv[1], 'w').write(json.dumps({'rows': 3}))"
    assert stage(code) == ({"rows": 3}, "")


def test_a_stage_that_fails_says_its_last_line(stage):
    result, why = stage("print('working'); raise SystemExit('out of memory')")
    assert (result, why) == (None, "out of memory")


def test_a_stage_that_takes_too_long_ends_with_its_peer(stage, tmp_path):
    alive = tmp_path / "alive"
    peer = (
        f"import time\nwhile True:\n    open({str(alive)!r}, 'a').write('x')\n    time.sleep(0.02)"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {peer!r}])"
    assert stage(code, limit=2.0) == (None, "took more than 2 s")
    length = alive.stat().st_size
    time.sleep(0.3)
    assert alive.stat().st_size == length > 0


@pytest.mark.parametrize("small", [True, False])
def test_the_stages_name_options_that_the_benchmarks_have(check, tmp_path, small, monkeypatch):
    monkeypatch.delenv("RECJAX_DATA", raising=False)
    stages = check.stages(small, "python", tmp_path)
    assert sum(stage.limit for stage in stages) < 1500
    for script in {stage.command[0] for stage in stages}:
        text = (SCRIPTS / script).read_text()
        options = {
            word.partition("=")[0]
            for stage in stages if stage.command[0] == script
            for word in stage.command if word.startswith("--")
        }  # fmt: skip
        assert options and all(f'"{option}"' in text for option in options), options


def test_figures_of_all_benchmarks(check, capsys):
    rows = check.recommender("sasrec", "Beauty")({"rows": [{
        "objective": "bce", "sequences_per_second": 1e5, "loop_step_seconds": 0.002,
        "host_share": 0.07, "ranked_per_second": 5e4,
    }]})  # fmt: skip
    rows += check.language_model({"matmul_gflops": 7e5, "models": {"llama-7b": [
        {"name": "lora:8x512", "ours_tokens_per_second": 13e3, "peer_tokens_per_second": 1e4,
         "matmul_share": 0.55},
        {"name": "generate:mixed64", "ours_tokens_per_second": 5e3},
    ]}})  # fmt: skip
    seconds = {"ours": {"seconds": [0.1, 0.2, 0.3]}, "peer": {"seconds": [0.8]}}
    rows += check.interpreter({"models": {"llama-7b": {"read:residual": seconds}}})
    rows += check.glm({"matmul_share": 0.4, "rows": [
        {"name": "train", "ours_tokens_per_second": 3e4, "peer_tokens_per_second": 1e4},
    ]})  # fmt: skip
    rows += check.memory({"case": "glm-10b lora", "tokens_per_second": 9e3, "measured_gb": 30.0,
                          "estimated_ratio": 0.95, "ratio": 1.12})  # fmt: skip
    rows += check.meshes({"rows": [{"name": "llama full 2,2,2", "difference": 3e-6}]})
    rows.append(check.Figure("llm adapter", None, "", note="no figure: took more than 100 s"))
    check.show(rows)
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert {
        "sasrec (bce, Beauty): training 100,000.0 sequences/s - -",
        "sasrec (bce, Beauty): host's share 7.0% - - NOT reached: at most 0.05",
        "matrix product 700,000.0 GFLOP/s - -",
        "llama-7b lora:8x512 13,000.0 tokens/s 10,000.0 1.30x reached: at least 1.3x",
        "llama-7b lora:8x512: of the matrix rate 55.0% - - reached: at least 0.5",
        "llama-7b generate:mixed64 5,000.0 tokens/s - -",
        "interpreter of llama-7b read:residual 5.0 examples/s 1.2 4.00x reached: at least 1.3x",
        "glm train 30,000.0 tokens/s 10,000.0 3.00x reached: at least 1.3x",
        "glm train: of the matrix rate 40.0% - - NOT reached: at least 0.5",
        "glm-10b lora: memory 30.0 GB - -",
        "glm-10b lora: estimate is off 5.0% - - reached: at most 0.1",
        "glm-10b lora: compiled plan is off 12.0% - - NOT reached: at most 0.1",
        "mesh 1x1x1 against llama full 2,2,2 3.0e-06 relative - - reached: at most 0.0001",
        "llm adapter - - - no figure: took more than 100 s",
    } <= lines


def test_a_run_without_peers(check, monkeypatch, tmp_path, capsys):
    """All stages at once fail or end; rows without a peer say why; JSON has it all."""
    row = {"name": "adapter:2x64", "ours_tokens_per_second": 900.0, "matmul_share": 0.2}
    done = {"matmul_gflops": 100.0, "models": {"stories-15m": [row]}}

    def run_stage(stage, limit, folder):
        return (done, "") if stage.name == "llm" else (None, "boom")

    monkeypatch.setattr(check, "run_stage", run_stage)
    monkeypatch.setattr(check, "missing", list)
    monkeypatch.setattr(check, "absent_peers", lambda python: ["torch", "peft"])
    monkeypatch.setattr(
        check, "machine", lambda: {"platform": "cpu", "device": "1 x cpu", "versions": {"jax": "1"}}
    )
    monkeypatch.setenv("XLA_FLAGS", "")
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", f"--out={out}"])
    check.main()
    text = capsys.readouterr().out
    assert "no peer's figures: torch, peft not installed" in text
    assert "no GPU: small sizes on the CPU" in text
    record = json.loads(out.read_text())
    figures = {row["name"]: row for row in record["figures"]}
    assert figures["stories-15m adapter:2x64"]["note"] == "torch, peft not installed"
    assert figures["stories-15m adapter:2x64"]["met"] is None and record["small"]
    assert figures["interpreter"]["note"] == "no figure: boom"
    assert record["stages"]["interpreter"]["failed"] == "boom"
    assert record["stages"]["llm"]["failed"] is None
    monkeypatch.setattr(check, "missing", lambda: ["flax>=0.12.10"])
    with pytest.raises(SystemExit, match="lacks flax>=0.12.10; a folder with their wheels as WHEE"):
        check.main()
