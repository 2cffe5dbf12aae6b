"""Which parameters are trained, and which are frozen.

An ordered list of `(regex, trained)` over parameter paths: the first rule that matches a path in
full decides. Only what is trained has optimiser state and is donated to the step; what is frozen
is an argument of the step (never a constant in its program) and costs no gradient.

    trained, frozen = split_params(params, LORA)
    state = state_of(trained, optimizer, axes, mesh)         # of recjax.training.state
    steps = make_steps(with_frozen(loss_fn), optimizer)
    state, metrics = steps(state, batches, (frozen, data), key)
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from recjax.errors import InputError
from recjax.training.step import LossFn
from recjax.typing import Array, Params

Rules = Sequence[tuple[str, bool]]

FULL: Rules = ((r".*", True),)
LORA: Rules = ((r".*/lora/[ab]", True), (r".*", False))

T = TypeVar("T")


def split_params(params: Mapping[str, T], rules: Rules) -> tuple[dict[str, T], dict[str, T]]:
    """`(trained, frozen)` parameters; their order stays.

    Args:
        params: by path; abstract ones, too.
        rules: `(regex, trained)`.

    Raises:
        InputError: a parameter that no rule matches, or nothing is trained.
    """
    trained: dict[str, T] = {}
    frozen: dict[str, T] = {}
    for path, value in params.items():
        found = next((on for pattern, on in rules if re.fullmatch(pattern, path)), None)
        if found is None:
            raise InputError(f"no freezing rule covers parameter {path}")
        (trained if found else frozen)[path] = value
    if not trained:
        raise InputError(f"nothing is trained: no parameter matches {_patterns(rules)}")
    return trained, frozen


def _patterns(rules: Rules) -> str:
    return ", ".join(f"'{pattern}'" for pattern, on in rules if on) or "any rule"


def with_frozen(loss_fn: LossFn) -> LossFn:
    """A loss of the trained parameters alone: its `data` is `(frozen, the loss's own data)`."""

    def loss(params: Params, batch: Any, data: tuple[Params, Any], key: Array):
        frozen, rest = data
        return loss_fn({**frozen, **params}, batch, rest, key)

    return loss
