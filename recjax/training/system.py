"""A system as the training layer sees it: its configs, its runs, its data.

A config names its system by a word, and `recjax.systems.SYSTEMS` says where that system stands. It
is imported when a config asks for it: a workdir opens without its kind being known before.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from recjax.config import nearest, to_plain
from recjax.data.prepare import prepare, read_options
from recjax.data.store import Store, open_store
from recjax.errors import InputError
from recjax.lazy import resolve
from recjax.own_parts import is_own, own_module
from recjax.systems import SYSTEMS

# Keys of every run's config that may change when it is resumed.
MAY_CHANGE = (
    "train.epochs", "train.patience", "train.mesh", "train.rollbacks", "train.spike",
    "train.rules",
)  # fmt: skip


def filled_in(config: Any, **sections: Any) -> dict[str, Any]:
    """A run's config as plain sections, with the defaults of the data's reader.

    Args:
        config: with a section `data`, which may be None.
        sections: in place of the config's.
    """
    plain = to_plain(config) | sections
    if config.data is not None:
        plain["data"]["options"] = to_plain(read_options(config.data)[1])
    return plain


def own_store(config: Any, may_prepare: bool) -> Store:
    """The data set of a config with a section `data`."""
    return prepare(config.data) if may_prepare else open_store(config.data.store)


def own_settled(config: Any, store: Store) -> Any:
    """The config with the absolute path of its data set."""
    data = dataclasses.replace(config.data, store=str(store.path.absolute()))
    return dataclasses.replace(config, data=data)


@dataclasses.dataclass(frozen=True)
class System:
    """A system that a config's key `system` may name.

    Attributes:
        config: the class of its configs, which have `system`, `train` and `evaluation`.
        run: the class of its runs, of (config, store, workdir).
        complete: fills in all defaults of a config's section.
        store: opens the prepared data, or prepares it: of the config and whether it may. What it
            gives has a `manifest` and a `fingerprint`.
        settled: the config with the paths of what it reads made absolute.
        may_change: keys of its configs that may change when a run is resumed, beside `MAY_CHANGE`.
        plan: what `training.plan.make_plan` is to be told of a config, for rows of a multiple of
            data x fsdp devices: the model's "config", and what else the run knows. None: a plan
            compiles the run's own step (`training.run_plan`).
        learns: the section of its configs that says what is trained. Its `name` heads the report;
            where memory is short, the error names its largest size.
    """

    config: Any
    run: Any
    complete: Callable[[Any], dict[str, Any]]
    store: Callable[[Any, bool], Any] = own_store
    settled: Callable[[Any, Any], Any] = own_settled
    may_change: tuple[str, ...] = ("data.path", "data.store")
    learns: str = "model"
    plan: Callable[[Any, int], dict[str, Any]] | None = None


def load_system(name: str) -> System:
    """The system of a name, or of a module of one's own with a `SYSTEM`; `InputError` with the
    nearest known one."""
    if is_own(name):
        return own_module(name, "config.system", ("SYSTEM",)).SYSTEM
    if not isinstance(name, str) or name not in SYSTEMS:
        raise InputError(f"config.system: no system '{name}'; {nearest(str(name), SYSTEMS)}")
    return resolve(SYSTEMS[name])
