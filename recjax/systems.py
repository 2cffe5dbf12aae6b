"""The systems by name: a new system is one entry of `SYSTEMS`, and of `COMMANDS` for a command.

The entries are "module:NAME". `recjax.lazy.resolve` imports the module when a config or the command
line asks for it.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

# Each is a `recjax.training.system.System`.
SYSTEMS = {
    "recommender": "recjax.training.recommender:SYSTEM",
    "rating": "recjax.training.rating:SYSTEM",
    "explanation": "recjax.training.explanation:SYSTEM",
    "reference": "recjax.training.reference:SYSTEM",
    "language_model": "recjax.training.language_model:SYSTEM",
    "finetune": "recjax.training.finetune:SYSTEM",
    "interpreter": "recjax.interpreter.run:SYSTEM",
    "recsysllm": "recjax.recsysllm.run:SYSTEM",
    "p5": "recjax.recsysllm.p5:SYSTEM",
    "guided": "recjax.guided.refine:SYSTEM",
    "fused": "recjax.guided.fusion:SYSTEM",
    "policy": "recjax.guided.policy:SYSTEM",
}
# Each is a `Command`; its module imports nothing heavy before the command runs.
COMMANDS = {
    "interpret": "recjax.interpreter.command:COMMAND",
    "score": "recjax.guided.command:COMMAND",
    "explain": "recjax.guided.explaining:COMMAND",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand of `recjax` that reads a run of one system.

    Attributes:
        help: one line.
        add_flags: adds its flags to a parser.
        run: `(arguments, say) -> result`: `say` gets lines for people, `--json` prints the result.
    """

    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Callable[..., Any]], dict[str, Any]]
