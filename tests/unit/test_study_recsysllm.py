"""scripts/study_recsysllm.py: its variants, runs shared by processes, effects with intervals."""

import json
import os
import re
import signal

import numpy as np
import pytest

from recjax.training.workdir import build_config
from tests.unit.test_study_guided import script

study = script("study_recsysllm")


@pytest.fixture
def args(tmp_path):
    return study.parse(["effects", f"--out={tmp_path / 'rows.jsonl'}", "--epochs=0.1"])


def test_each_variant_has_a_switch_more(args):
    def switches(variant):
        config = build_config(study.variant_section(args, variant, 1))
        text = config.text
        entities = text["entities"]
        assert config.seed == 1 and config.model["layers"] == 4
        return [entities["whole"], not config.blanks.shuffle, entities["positions"]]

    found = [switches(variant) for variant in study.VARIANTS]
    assert found == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]


def test_a_run_is_taken_once(tmp_path):
    places = [tmp_path / "runs" / name for name in "aba"]
    assert [study.taken(place) for place in places] == [True, True, False]


def test_a_deadline_stops_once_and_puts_the_handler_back():
    import time

    before, heard = signal.getsignal(signal.SIGTERM), []
    with study.stopped_after(0.05):
        signal.signal(signal.SIGTERM, lambda *_: heard.append(time.perf_counter()))
        time.sleep(0.3)
    assert len(heard) == 1 and signal.getsignal(signal.SIGTERM) == before


def test_effects_are_beside_the_variant_before(args, capsys):
    rng = np.random.default_rng(0)
    for seed in range(2):
        base = rng.integers(2, 30, 300)
        for variant, ranks in (("GLM", base), ("+ entities", base - 1)):
            line = {"study": "ablation", "variant": variant, "seed": seed, "prompt": "2-3"}
            known = [int(r) if r < 25 else None for r in ranks]
            study.write(args, **line, ranks=known)
    args.out.open("a").write(json.dumps({"study": "titles", "prompt": "2-3"}) + "\n")
    capsys.readouterr()
    study.main(["effects", f"--out={args.out}"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| GLM", "| + entities"]
    low, high = map(float, re.search(r"\((\S+) to (\S+)\)", rows[3]).groups())
    assert 0 < low < high < 0.1


def test_a_run_ends_by_its_time_or_by_the_signal_of_someone_else():
    with study.stopped_after(0.01) as over:
        assert over.wait(10)  # its own signal is no end outside of training
    with pytest.raises(SystemExit) as ended, study.stopped_after(60) as over:
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait(10)
    assert ended.value.code == 128 + signal.SIGTERM and not over.is_set()
