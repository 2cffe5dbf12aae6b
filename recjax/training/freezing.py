"""Which parameters are trained, which are kept, and which are frozen.

An ordered list of `(regex, role)` over parameter paths: the first rule that matches a path in full
decides. Three roles:

- "trained": in the state, with optimiser state and a gradient;
- "kept": in the state and saved with it, but it stays as it starts (whitening, which is measured);
- "frozen": comes from elsewhere at every start (a language model, a table), and is never saved. The
  step takes it as an argument; it is no constant of the compiled program.

Only trained parameters cost a gradient and optimiser state.

    roles = roles_of(params, LORA)
    own, frozen = split_params(params, LORA)
    state = state_of(own, optimizer, axes, mesh)             # of recjax.training.state
    steps = make_steps(with_frozen(loss_fn), optimizer)
    state, metrics = steps(state, batches, (frozen, data), key)
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from recjax.errors import InputError
from recjax.typing import Array, Params

Role = Literal["trained", "kept", "frozen"]
Rules = Sequence[tuple[str, Role]]

FULL: Rules = ((r".*", "trained"),)
LORA: Rules = ((r".*/lora/[ab]", "trained"), (r".*", "frozen"))

T = TypeVar("T")
Out = TypeVar("Out")


def roles_of(paths: Iterable[str], rules: Rules) -> dict[str, Role]:
    """The role of every parameter.

    Args:
        paths: of the parameters.
        rules: `(regex, role)`.

    Raises:
        InputError: a parameter that no rule matches, or nothing is trained.
    """
    roles: dict[str, Role] = {}
    for path in paths:
        role = next((role for pattern, role in rules if re.fullmatch(pattern, path)), None)
        if role is None:
            raise InputError(f"no freezing rule covers parameter {path}")
        roles[path] = role
    if "trained" not in roles.values():
        raise InputError(f"nothing is trained: no parameter matches {_patterns(rules)}")
    return roles


def split_params(params: Mapping[str, T], rules: Rules) -> tuple[dict[str, T], dict[str, T]]:
    """`(own, frozen)` parameters: those in the state, and the others, in their order.

    Args:
        params: by path; abstract ones, too.
        rules: `(regex, role)`.

    Raises:
        InputError: see `roles_of`.
    """
    roles = roles_of(params, rules)
    own = {path: value for path, value in params.items() if roles[path] != "frozen"}
    return own, {path: value for path, value in params.items() if path not in own}


def _patterns(rules: Rules) -> str:
    return ", ".join(f"'{pattern}'" for pattern, role in rules if role == "trained") or "any rule"


def with_frozen(function: Callable[..., Out]) -> Callable[..., Out]:
    """Wraps a function of all parameters as one of the state's: its `data` is `(frozen, data)`.

    Args:
        function: `(params, batch, data, key)`, a loss or a step's draws.
    """

    def called(params: Params, batch: Any, data: tuple[Params, Any], key: Array) -> Out:
        frozen, rest = data
        return function({**frozen, **params}, batch, rest, key)

    return called
