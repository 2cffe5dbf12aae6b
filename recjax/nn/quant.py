"""Frozen layers of few bits: weights alone; products are those of the activations' type.

`recjax.nn.narrow` has the forms. A kernel is made wide again where it is used, forward and
backward: of scanned layers, one layer at a time.

    model = quantize(model, "nf4")                 # a module, abstract ones too
    narrowed = narrower("nf4", shapes)             # arrays of the plain model -> those of that one
    params = narrowed("layers/gate/kernel", array)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax
from flax import nnx

from recjax.errors import InputError
from recjax.nn.lora import Linear
from recjax.nn.narrow import Form, narrow
from recjax.typing import Array, Params

SCALE = "quant_scale"


def check_form(form: Any) -> None:
    """Raises `InputError` for what is neither a form nor None."""
    if form is not None and form not in get_args(Form):
        raise InputError(f"quant '{form}': expected {' or '.join(get_args(Form))}")


def quantize(model: Any, form: Form) -> Any:
    """The layers' linear maps with narrow kernels, an encoder's too; in place, adapters stay.

    Embeddings, heads, norms and biases keep their type.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Linear) and module.kernel.ndim > 2:  # stacked: of layers
            kernel, scale = narrow(module.kernel[...], form)
            module.kernel, module.quant_scale = nnx.Param(kernel), nnx.Param(scale)
    return model


def narrower(
    form: Form, shapes: Mapping[str, Any], placed: Mapping[str, Any] | None = None
) -> Callable[[str, Any], Params]:
    """`(path, array) -> arrays by path`: what a `quantize`d model has in an array's place.

    Of layers that are stacked one at a time is wide in float32, so that a model is narrowed in
    little more memory than it takes.

    Args:
        form: of the kernels.
        shapes: of the quantized model, by path.
        placed: its shardings; by default arrays stay where they are.
    """

    def one(kernel: Array) -> tuple[Array, Array]:
        make = functools.partial(narrow, form=form)
        return jax.lax.map(make, kernel) if kernel.ndim > 2 else make(kernel)

    def arrays(path: str, array: Any) -> Params:
        scale = f"{path.removesuffix('kernel')}{SCALE}"
        if not path.endswith("/kernel") or scale not in shapes:
            return {path: array}
        places = None if placed is None else (placed[path], placed[scale])
        # Waits, or the next wide kernels would come before this one has gone.
        kernel, scales = jax.block_until_ready(jax.jit(one, out_shardings=places)(array))
        return {path: kernel, scale: scales}

    return arrays
