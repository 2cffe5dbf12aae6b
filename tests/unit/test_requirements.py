"""Requirements have an upper bound, or one version; what is installed has versions and hashes."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"].items()
ALL = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
ALL += [requirement for _, extra in EXTRAS for requirement in extra]


@pytest.mark.parametrize("requirement", ALL)
def test_requirements_have_bounds(requirement):
    name, versions = re.fullmatch(r"([\w.-]+(?:\[\w+\])?)([^;]*)(?:;.*)?", requirement).groups()
    if name in ("jax[cuda12]", "jax[tpu]"):  # the version is that of `jax` itself
        assert any(one.startswith("jax==") for one in ALL) and not versions
    else:
        assert "==" in versions or (">=" in versions and "<" in versions), requirement


def sections(file):
    """A file's lines by section; those of a package are one."""
    out, here = {}, None
    for line in file.read_text(encoding="utf-8").replace(" \\\n", " ").splitlines()[1:]:
        if line.startswith("# section "):
            here = out[line.removeprefix("# section ")] = []
        else:
            here.append(line)
    return out


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_package_has_a_version_and_hashes(python):
    found = sections(ROOT / f"scripts/constraints-py{python.replace('.', '')}.txt")
    extras = PROJECT["project"]["optional-dependencies"]
    assert list(found) == ["recjax", "build", *extras]
    versions = {}
    for line in (line for lines in found.values() for line in lines):
        form = r"([a-z0-9-]+)==(\d[\w.]*)( ; [^;]+?)?(( +--hash=sha256:[0-9a-f]{64})+)"
        name, version, _, hashes, _ = re.fullmatch(form, line).groups()
        assert versions.setdefault(name, version) == version, name  # one for all sections
        assert len(set(hashes.split())) == len(hashes.split()), name
    needed = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for requirement in [*needed, *(one for extra in extras.values() for one in extra)]:
        requirement, _, marker = requirement.partition(";")
        if marker and ("<" in marker) != (python == "3.11"):
            continue
        name, bounds = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?(.*)", requirement.strip()).groups()
        version = versions[name.lower().replace("_", "-")]
        for kind, bound in re.findall(r"(==|>=|<)([\d.]+)", bounds):
            given, limit = ([int(n) for n in v.split(".") if n.isdigit()] for v in (version, bound))
            assert {"==": given == limit, ">=": given >= limit, "<": given < limit}[kind], name


def test_the_script_installs_sections_and_each_package_once():
    file = ROOT / "scripts/constraints-py312.txt"
    script = (ROOT / "scripts/_env.sh").read_text(encoding="utf-8")
    function = re.search(r"^_locked\(\) \{.*?^\}\n", script, re.M | re.S)[0]
    given = subprocess.run(
        ["bash", "-c", f'{function}_locked "$@"', "bash", str(file), "recjax,test,text"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    expected = sections(file)
    found = given.replace(" \\\n", " ").splitlines()
    assert found == [*expected["recjax"], *expected["test"]]  # all of `text` is in `test`
    assert {line.split("==")[0] for line in expected["text"]} <= {
        one.split("==")[0] for one in found
    }
