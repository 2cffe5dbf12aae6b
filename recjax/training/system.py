"""What a system tells the training layer: its configs, its runs, its data.

A config names its system by a word. `SYSTEMS` says where that system stands, as "module:NAME", and
it is imported when a config asks for it: a workdir opens without its kind being known before.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from recjax.config import nearest
from recjax.data.prepare import prepare
from recjax.data.store import Store, open_store
from recjax.errors import InputError

SYSTEMS = {
    "recommender": "recjax.training.recommender:SYSTEM",
    "language_model": "recjax.training.language_model:SYSTEM",
    "finetune": "recjax.training.finetune:SYSTEM",
    "interpreter": "recjax.interpreter.run:SYSTEM",
}


def own_store(config: Any, may_prepare: bool) -> Store:
    """The data set of a config with a section `data`."""
    return prepare(config.data) if may_prepare else open_store(config.data.store)


def own_settled(config: Any, store: Store) -> Any:
    """The config with the absolute path of its data set."""
    data = dataclasses.replace(config.data, store=str(store.path.absolute()))
    return dataclasses.replace(config, data=data)


@dataclasses.dataclass(frozen=True)
class System:
    """What a config's key `system` may name.

    Attributes:
        config: the class of its configs, which have `system`, `train` and `evaluation`.
        run: the class of its runs, of (config, store, workdir).
        complete: fills in all defaults of a config's section.
        store: opens the prepared data, or prepares it: of the config and whether it may. What it
            gives has a `manifest` and a `fingerprint`.
        settled: the config with the paths of what it reads made absolute.
    """

    config: Any
    run: Any
    complete: Callable[[Any], dict[str, Any]]
    store: Callable[[Any, bool], Any] = own_store
    settled: Callable[[Any, Any], Any] = own_settled


def load_system(name: str) -> System:
    """The system of a name; `InputError` with the nearest known one."""
    if not isinstance(name, str) or name not in SYSTEMS:
        raise InputError(f"config.system: no system '{name}'; {nearest(str(name), SYSTEMS)}")
    module, _, attribute = SYSTEMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
