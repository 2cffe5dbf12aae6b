#!/usr/bin/env python
"""Writes the versions and hashes that `_env.sh` installs: `constraints-py311.txt`, `-py312.txt`.

    python scripts/lock.py            # after a change of requirements; needs uv and packaging
    python scripts/lock.py --upgrade  # newer versions, too

A section of a file has what recjax needs (`recjax`), what builds packages (`build`), or what an
extra needs beyond recjax. Each package has the hashes of its source and of its wheels for Linux and
macOS. The second file is that of Python 3.12 and newer.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
FILES = {  # by the oldest Python of a file: its name, and the tags of its wheels
    "3.11": ("constraints-py311.txt", r"cp311-cp311-|py3|py2\.py3|cp3\d+-abi3"),
    "3.12": ("constraints-py312.txt", r"cp31[2-4]-cp31[2-4]-|py3|py2\.py3|cp3\d+-abi3"),
}
PYTHONS = {"3.11": ("3.11",), "3.12": ("3.12", "3.13", "3.14")}
MACHINES = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
ONLY = {"cuda": MACHINES[:2], "tpu": MACHINES[:1]}  # extras
SYSTEMS = r"-(any|[\w.]*manylinux[\w.]*_(x86_64|aarch64)|macosx[\w.]*_(arm64|universal2))\.whl"
BUILD = ("setuptools", "editables")  # of packages that come as their source; of `pip install -e`


def resolve(
    given: list[str], python: str, known: Path | None, machines: list[tuple[str, str]]
) -> dict[str, Any]:
    """Packages by name, that `given` (requirements of recjax, or uv's options) needs."""
    with tempfile.TemporaryDirectory() as folder:
        out, project = Path(folder, "pylock.toml"), Path(folder, "pyproject.toml")
        until = f"python_version < '3.{int(PYTHONS[python][-1][2:]) + 1}'"
        where = ", ".join(
            f"\"sys_platform == '{system}' and platform_machine == '{machine}' and {until}\""
            for system, machine in machines
        )
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        project.write_text(f"{text}\n[tool.uv]\nenvironments = [{where}]\n")
        file = project
        if given and not given[0].startswith("-"):
            file = Path(folder, "requirements.in")
            file.write_text("\n".join(given))
            given = []
        options = ["-c", str(known)] if known is not None else []
        subprocess.run(
            ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", python,
             "--output-file", str(out), *options, str(file), *given],
            check=True, cwd=folder,
        )  # fmt: skip
        return {p["name"]: p for p in tomllib.loads(out.read_text())["packages"]}


def marker_of(package: dict[str, Any], python: str) -> str:
    """Where a package is needed; "" = everywhere."""
    marker = package.get("marker", "")
    places = [
        {"sys_platform": system, "platform_system": system.title(), "platform_machine": machine,
         "python_version": version, "python_full_version": f"{version}.0"}
        for version in PYTHONS[python] for system, machine in MACHINES
    ]  # fmt: skip
    if not marker or all(Marker(marker).evaluate(place) for place in places):
        return ""
    only = [system for system in ("linux", "darwin") if all(
        Marker(marker).evaluate(place) == (place["sys_platform"] == system) for place in places
    )]  # fmt: skip
    return f" ; sys_platform == '{only[0]}'" if only else f" ; {marker}"


def lines_of(package: dict[str, Any], python: str) -> list[str]:
    """A package's version, marker and hashes, as pip reads them."""
    tags = FILES[python][1]
    files = [
        wheel
        for wheel in package.get("wheels", [])
        if re.search(rf"-({tags})", wheel["url"]) and re.search(SYSTEMS, wheel["url"])
    ]
    files += [package["sdist"]] if "sdist" in package else []
    hashes = sorted({file["hashes"]["sha256"] for file in files})
    if not hashes:
        sys.exit(f"lock.py: {package['name']} {package['version']}: no file for Linux or macOS")
    first = f"{package['name']}=={package['version']}{marker_of(package, python)}"
    return [first, *(f"    --hash=sha256:{one}" for one in hashes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="to the newest versions")
    args = parser.parse_args()
    if shutil.which("uv") is None:
        parser.error("uv is not on the PATH; `pip install uv` brings it")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for python, (name, _) in FILES.items():
        file = ROOT / "scripts" / name
        known = None if args.upgrade or not file.exists() else file
        ours = resolve([], python, known, MACHINES)
        sections = {
            "recjax": ours,
            "build": resolve(
                [*project["build-system"]["requires"], *BUILD], python, known, MACHINES
            ),
        }
        for extra in extras:
            found = resolve(["--extra", extra], python, known, ONLY.get(extra, MACHINES))
            sections[extra] = {k: v for k, v in found.items() if k not in ours}
        text = [f"# Written by scripts/lock.py, for Python {python}."]
        for section, packages in sections.items():
            text.append(f"# section {section}")
            for key in sorted(packages):
                text.append(" \\\n".join(lines_of(packages[key], python)))
        file.write_text("\n".join(text) + "\n", encoding="utf-8")
        print(f"{file}: {len(set().union(*sections.values()))} packages")


if __name__ == "__main__":
    main()
