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

from typing import Any

from recjax.lazy import find

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
