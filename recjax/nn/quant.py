"""Frozen layers of few bits: weights alone; products are those of the activations' type.

`recjax.nn.narrow` has the forms. A kernel is made wide again where it is used, forward and
backward: of scanned layers, one layer at a time.

    model = quantize(model, "nf4")                 # a module, abstract ones too
    params = quantized(params, "nf4", shapes)      # arrays of the plain model -> those of that one
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from recjax.nn.lora import Linear
from recjax.nn.narrow import Form, narrow
from recjax.typing import Params

SCALE = "quant_scale"


def quantize(model: Any, form: Form) -> Any:
    """The layers' linear maps of a model with narrow kernels; changed in place, adapters stay.

    Embeddings, heads, norms and biases keep their type.
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Linear) and "layers" in map(str, path):
            kernel, scale = narrow(module.kernel[...], form)
            module.kernel, module.quant_scale = nnx.Param(kernel), nnx.Param(scale)
    return model


def quantized(params: Mapping[str, Any], form: Form, shapes: Mapping[str, Any]) -> Params:
    """Arrays of a model as those of `quantize`d one; each is narrowed by itself, where it lies.

    Args:
        params: by path.
        form: of the kernels.
        shapes: of the quantized model, by path.
    """
    out: Params = {}
    make = jax.jit(functools.partial(narrow, form=form))
    for path, array in params.items():
        scale = f"{path.removesuffix('kernel')}{SCALE}"
        if path.endswith("/kernel") and scale in shapes:
            out[path], out[scale] = make(array)
        else:
            out[path] = array
    return out
