"""recjax: large language models for sequential recommendation in JAX and Flax."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Interpreter", "load_llm"]


def __getattr__(name: str) -> Any:
    """The public doors, loaded when they are asked for: `import recjax` alone loads no JAX."""
    if name == "Interpreter":
        from recjax.interpreter.api import Interpreter

        return Interpreter
    if name == "load_llm":
        from recjax.llm import load_llm

        return load_llm
    raise AttributeError(f"module 'recjax' has no attribute '{name}'")
