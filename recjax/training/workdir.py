"""A run's folder: `config.json manifest.json metrics.jsonl checkpoints/ events.*`."""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from recjax.config import build, to_plain
from recjax.data.prepare import is_gone
from recjax.errors import InputError
from recjax.paths import home
from recjax.replace import recovered, write_text
from recjax.signals import stopping
from recjax.training.checkpoint import empty_trash, read_json
from recjax.training.claim import Claim, run_files
from recjax.training.group import current
from recjax.training.system import MAY_CHANGE, System, load_system


def _system(section: Any) -> tuple[str, System, dict[str, Any]]:
    """The name of the system that a config names, the system, and the config's other keys."""
    rest = {key: section[key] for key in section}
    name = rest.pop("system", "recommender")
    return name, load_system(name), rest


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in.

    Raises:
        InputError: naming the key that is unknown, missing or of the wrong type.
    """
    name, system, rest = _system(section)
    return {"system": name, **system.complete(rest)}


def build_config(section: Any) -> Any:
    """The config's dataclass, for the system that it names."""
    _, system, rest = _system(section)
    return build(system.config, rest, "config")


def plain_config(config: Any) -> dict[str, Any]:
    """The section from which `build_config` makes the same config, ready for JSON."""
    return {"system": config.system, **to_plain(config)}


def start_run(config: Any, workdir: Path, *, overwrite: bool = False) -> Any:
    """Opens a run for training: prepares the data where that is missing, sets up the workdir.

    Nothing is written before all checks have passed. The run holds its workdir, alone, until its
    training ends.

    Args:
        config: of `build_config`.
        workdir: the run's folder.
        overwrite: replace the run that stands there, as soon as the new one has a checkpoint.

    Returns:
        The system's `Run`.

    Raises:
        InputError: what the config says cannot be done; the workdir belongs to a run with another
            config or other data, is in use, or cannot be written.
    """
    claim = Claim(workdir, overwrite=overwrite)
    try:
        run = claimed_run(config, claim)
        run.check()
        if jax.process_index() == 0:
            write_records(run, claim.folder)
        return run
    except BaseException:
        claim.abandon()
        raise


def claimed_run(config: Any, claim: Claim) -> Any:
    """The run of a config, in a folder that is claimed for it; writes nothing there."""
    system = load_system(config.system)
    resumes = (claim.folder / "config.json").exists()
    old = _completed(claim.folder) if resumes else {}
    # Several processes would write over each other.
    may_prepare = jax.process_count() == 1 and not _log_is_gone(config, old)
    with stopping() as stop, stop.at_once():
        store = system.store(config, may_prepare)
    config = system.settled(config, store)
    _check_alike(plain_config(config), store.fingerprint, system.may_change)
    if resumes:
        may = (*MAY_CHANGE, *system.may_change)
        new = complete(plain_config(config))
        changed = [k for k in _differences(old, new) if k not in may]
        if changed:
            raise InputError(
                f"{claim.workdir}: belongs to a run with another config ({', '.join(changed)} "
                "differ); choose another --workdir, or --overwrite"
            )
    run = system.run(config, store, claim.folder)
    run.claim = claim
    return run


def _completed(folder: Path) -> dict[str, Any]:
    """The settings in a workdir's config.json, those that an earlier version had not at their
    defaults."""
    plain = plain_config(_read_config(folder))
    with contextlib.suppress(InputError):  # a file that it names is gone
        plain = complete(plain)
    return plain


def _log_is_gone(config: Any, old: dict[str, Any]) -> bool:
    """Whether the raw log of a run that goes on is no longer at its path."""
    path = (old.get("data") or {}).get("path", "")
    return (plain_config(config).get("data") or {}).get("path") == path and is_gone(path)


def _check_alike(plain: dict[str, Any], data: str, paths: Collection[str]) -> None:
    """Raises `InputError` where this process has another config, or other data, than process 0.

    Args:
        plain: the config.
        data: the fingerprint of the data.
        paths: keys that may differ: hosts may have what they read at other places.
    """
    plain, data = json.loads(json.dumps([plain, data]))
    of_processes = current().gather("the config and the data", [plain, data])
    for number, (other, other_data) in enumerate(of_processes):
        changed = [k for k in _differences(of_processes[0][0], other) if k not in paths]
        if changed or other_data != of_processes[0][1]:
            difference = f"another config ({', '.join(changed)})" if changed else "other data"
            raise InputError(
                f"process {number} has {difference} than process 0; start the same command on all "
                "hosts"
            )


def write_records(run: Any, folder: Path) -> None:
    """Writes the run's `config.json` and `manifest.json`, where they do not say so already."""
    empty_trash(folder / "checkpoints")  # first: the disk may be full
    plain = plain_config(run.config)
    record = {"config": plain, "versions": _versions(), "git_commit": _git_commit()}
    for name, value in (("config.json", record), ("manifest.json", run.store.manifest)):
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        file = folder / name
        if not file.exists() or file.read_bytes() != text.encode():
            write_text(file, text)


def open_run(
    workdir: str | Path, mesh: tuple[int, int, int] = (-1, 1, 1), **evaluation: Any
) -> Any:
    """Opens a run of any system from its workdir alone.

    >>> import recjax
    >>> run = recjax.open_run("runs/sample")
    >>> params = run.restore(run.best_step())  # arrays by path
    >>> metrics = run.evaluator("test").run(params)
    >>> recommended = run.recommend([run.store.user_keys[0]], k=3)  # of a recommender
    >>> len(recommended.keys[0])
    3

    Args:
        workdir: the run's folder.
        mesh: sizes of the axes data, fsdp and tensor, of the devices here; -1 is what is left. The
            mesh of training is not kept: any will do.
        **evaluation: keys of the config's `evaluation` section to change.

    Returns:
        The system's `Run`: a `RecommenderRun`, `LanguageRun` or `InterpreterRun`.

    Raises:
        InputError: no run there, or its data set is gone or was replaced by another one.
    """
    workdir = home(workdir)
    plain = plain_config(read_run_config(workdir))
    plain["evaluation"] |= evaluation
    plain["train"]["mesh"] = mesh
    config = build_config(plain)
    system = load_system(config.system)
    return system.run(config, system.store(config, False), workdir)


def read_run_config(workdir: Path) -> Any:
    """The config of the run that a workdir belongs to; `InputError` where there is none."""
    recovered(workdir, run_files)
    return _read_config(workdir)


def _read_config(workdir: Path) -> Any:
    plain = _read_plain(workdir)
    try:
        return build_config(plain)
    except InputError as error:
        raise InputError(f"{workdir / 'config.json'}: {error}") from None


def _read_plain(workdir: Path) -> dict[str, Any]:
    """The settings in a workdir's config.json, unchecked."""
    path = workdir / "config.json"
    plain = read_json(path, "a workdir of `recjax train`").get("config")
    if not isinstance(plain, dict):
        raise InputError(f"{path}: no object 'config'; expected a workdir of `recjax train`")
    return plain


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in [*new, *(k for k in old if k not in new)]:
            missing = object()
            path = f"{where}.{key}" if where else key
            out += _differences(old.get(key, missing), new.get(key, missing), path)
        return out
    return [] if old == new else [where]


def _versions() -> dict[str, str]:
    names = ("recjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
    out = {"python": platform.python_version()}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
