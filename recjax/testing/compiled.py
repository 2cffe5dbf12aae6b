"""A module whose calls are compiled: called directly, each of its operations is a program."""

import functools
from typing import Any

import jax
from flax import nnx


class Compiled:
    """`module`, whose methods run as one program for each shape of their arguments.

    Attributes that are no methods are the module's. What the module reads beside its arrays, e.g. a
    patched function, is read when a shape is met first: a changed module wants its own object.

    Args:
        module: its arrays are arguments of the programs, not constants.
        methods: names of those that take and give arrays; `__call__` is one without being named.
    """

    def __init__(
        self, module: nnx.Module, methods: tuple[str, ...] = ("hidden", "logits", "embed")
    ):
        self.module = module
        graph, self._state = nnx.split(module)

        def program(name: str) -> Any:
            return jax.jit(
                lambda state, *args, **named: getattr(nnx.merge(graph, state), name)(*args, **named)
            )

        self._programs = {name: program(name) for name in ("__call__", *methods)}

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._programs["__call__"](self._state, *args, **named)

    def __getattr__(self, name: str) -> Any:
        if name in self._programs:
            return functools.partial(self._programs[name], self._state)
        return getattr(self.module, name)
