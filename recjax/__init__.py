"""recjax: large language models for sequential recommendation in JAX and Flax.

From a config to recommendations:

>>> import recjax
>>> config = {
...     "data": {"source": "simulated", "store": "prepared/sample", "options": {"users": 60}},
...     "model": {"name": "sasrec", "dim": 8, "max_length": 12},
...     "train": {"epochs": 2.0},
... }
>>> recjax.train(config, "runs/sample")["finished"]  # prepares the data, trains, tests
True
>>> run = recjax.open_run("runs/sample")
>>> user = run.store.user_keys[0]
>>> len(run.recommend([user], k=3).titles[0])
3

`dir(recjax)` lists the public names: functions and classes, and the namespaces `recjax.data` and
`recjax.models`. All are imported when they are asked for: `import recjax` alone loads no JAX.
"""

from typing import TYPE_CHECKING, Any

from recjax.lazy import find

if TYPE_CHECKING:  # for type checkers: the same names as in `_PUBLIC`
    from recjax import data as data
    from recjax import models as models
    from recjax.api import evaluate as evaluate
    from recjax.api import prepare as prepare
    from recjax.api import train as train
    from recjax.errors import InputError as InputError
    from recjax.errors import TrainingStopped as TrainingStopped
    from recjax.interpreter.api import Interpreter as Interpreter
    from recjax.llm_folders import load_llm as load_llm
    from recjax.training.workdir import open_run as open_run

__version__ = "0.1.0"
_PUBLIC = {
    "InputError": "recjax.errors",
    "Interpreter": "recjax.interpreter.api",
    "TrainingStopped": "recjax.errors",
    "data": "",
    "evaluate": "recjax.api",
    "load_llm": "recjax.llm_folders",
    "models": "",
    "open_run": "recjax.training.workdir",
    "prepare": "recjax.api",
    "train": "recjax.api",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    return find(__name__, name, _PUBLIC)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
