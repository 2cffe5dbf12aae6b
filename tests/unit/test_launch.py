"""`scripts/launch/`: what the files start, beside commands that only say how they were called."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from recjax.cli import runs
from recjax.flags import make_parser

LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"
DONE, STOPPED = (f'{{"step": 8, "finished": {word}}}' for word in ("true", "false"))


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """`commands(NAME=SCRIPT)` puts them on the path; what they were given is in `NAME.given`."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def make(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(
                f'#!/bin/bash\nprintf "%s\\n" "$@" > {name}.given\n{script}'
            )
            (tmp_path / name).chmod(0o755)
        return tmp_path

    return make


def accepted(words):
    """The arguments of `recjax train`, as the command reads them."""
    args, rest = make_parser(runs()).parse_known_args(words)
    assert not rest
    return args


def gke(command):
    """The JobSet's command; results lie here in place of /tmp."""
    whole = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    job = whole["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert container["command"][:2] == ["bash", "-c"]
    assert f"--processes={job['completions']} " in container["command"][2]
    script = container["command"][2].replace("/tmp/result", "result")
    env = {**os.environ, "HOST": "3"}
    return subprocess.Popen(["bash", "-c", script], env=env, **command)


@pytest.mark.parametrize(
    ("said", "code", "status"), [(DONE, 0, 0), (STOPPED, 0, 1), ("", 1, 1), (DONE, 1, 1)]
)
def test_gke_succeeds_where_the_run_has_finished(commands, said, code, status):
    folder = commands(recjax=f"echo '{said}'; exit {code}")
    assert gke({}).wait(timeout=20) == status
    args = accepted((folder / "recjax.given").read_text().splitlines())
    assert (args.process, args.processes, args.distributed, args.json) == (3, 4, True, True)


def test_gke_hands_sigterm_on(commands):
    saving = f"trap save TERM; save() {{ kill $!; echo '{STOPPED}'; exit 0; }}\n"
    saving += "sleep 0.1; touch going; sleep 9 & wait $!"
    folder = commands(recjax=saving)
    process = gke({"stdout": subprocess.DEVNULL})
    end = time.monotonic() + 10
    while not (folder / "going").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) != 0  # JobSet starts it again
    assert (folder / "result").read_text().strip() == STOPPED


@pytest.mark.parametrize(
    ("said", "code", "status", "again"),
    [(DONE, 0, 0, False), (STOPPED, 0, 0, True), ("", 1, 1, False)],
)
def test_slurm_queues_a_stopped_run_again(commands, said, code, status, again):
    folder = commands(
        srun=f"echo '{said}'; echo $JAX_LOCAL_DEVICE_IDS $SRUN_CPUS_PER_TASK > ids; exit {code}",
        scontrol="",
    )
    env = {**os.environ, "SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "4"}
    env["SLURM_CPUS_PER_TASK"] = "32"
    env.pop("JAX_LOCAL_DEVICE_IDS", None)
    script = ["bash", str(LAUNCH / "slurm.sbatch"), "--config=c.py", "--workdir=a b"]
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == status, done.stderr
    assert (folder / "ids").read_text().strip() == "0,1,2,3 32"
    words = (folder / "srun.given").read_text().splitlines()
    assert words[:2] == ["--kill-on-bad-exit=0", "recjax"]
    assert accepted(words[2:]).workdir == Path("a b")
    given = folder / "scontrol.given"
    assert given.exists() == again
    assert not again or given.read_text().split() == ["requeue", "17"]


def test_tpu_hosts_get_the_arguments_as_they_were(commands):
    folder = commands(gcloud="")
    script = [
        str(LAUNCH / "tpu_pod.sh"),
        "slice",
        "us-1",
        "--workdir=/a b",
        "--config.train.mesh=(4,1)",
    ]
    subprocess.run(["bash", *script], check=True, timeout=20)
    words = (folder / "gcloud.given").read_text().splitlines()
    assert {"slice", "--zone=us-1", "--worker=all"} <= set(words)
    command = words[-1].removeprefix("--command=")
    told = subprocess.run(
        ["bash", "-c", f'python3() {{ printf "%s\\n" "$@"; }}; {command}'],
        capture_output=True, text=True, check=True, timeout=20,
    ).stdout.splitlines()  # fmt: skip
    assert told[:4] == ["-m", "recjax", "train", "--distributed"]
    assert told[4:] == script[3:]
    short = subprocess.run(["bash", *script[:2]], capture_output=True, text=True, timeout=20)
    assert short.returncode == 2 and short.stderr.startswith("usage:")
