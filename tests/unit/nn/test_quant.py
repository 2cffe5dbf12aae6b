"""Kernels in few bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.models.t5 import T5
from recjax.models.t5 import Config as T5Config
from recjax.nn.lora import LoRAConfig, add_lora, merge_lora
from recjax.nn.narrow import NF4, narrow, product, widened
from recjax.nn.quant import narrower, quantize
from recjax.testing.compiled import Compiled
from recjax.training import parallel

narrowed = jax.jit(narrow, static_argnums=1)
wide_again = jax.jit(widened, static_argnums=2)
KERNEL = np.random.default_rng(0).normal(size=(3, 128, 24)).astype(np.float32)


def test_int8_is_within_half_a_step():
    kernel, scale = map(np.asarray, narrowed(KERNEL, "int8"))
    assert kernel.dtype == jnp.int8 and kernel.shape == KERNEL.shape and scale.shape == (3, 1, 24)
    off = np.abs(np.asarray(wide_again(kernel, scale, jnp.float32)) - KERNEL)
    assert (off <= scale / 2 * 1.001).all()
    assert np.abs(kernel).max(axis=1).min() == 127


def test_nf4_takes_the_nearest_of_its_values():
    kernel, scale = narrowed(KERNEL, "nf4")
    assert kernel.dtype == jnp.uint8 and kernel.shape == (3, 64, 24) and scale.shape == (3, 2, 24)
    blocks = KERNEL.reshape(3, 2, 64, 24)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    nearest = NF4[np.abs(blocks[..., None] / largest[..., None] - NF4).argmin(axis=-1)] * largest
    found = np.asarray(wide_again(kernel, scale, jnp.float32))
    np.testing.assert_allclose(found, nearest.reshape(KERNEL.shape), atol=1e-6)
    with pytest.raises(InputError, match="nf4: a map of 100 inputs; expected a multiple of 64"):
        narrow(jnp.ones((100, 4)), "nf4")


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_the_backward_pass_keeps_no_wide_kernel(form):
    """Of eight layers: the gradient is that of wide kernels, in less memory than those take."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(8, 128, 128)).astype(np.float32) / 12
    few = jax.device_get(narrowed(wide, form))
    x = rng.normal(size=(2, 3, 128)).astype(np.float32)

    def loss(x, kernels, by):
        return (jax.lax.scan(lambda h, k: (jnp.tanh(by(h, *k)), None), x, kernels)[0] ** 2).sum()

    found = jax.jit(jax.grad(lambda x, k: loss(x, k, product))).lower(x, few).compile()
    plain = jax.jit(jax.grad(lambda x, k: loss(x, k, lambda h, w: h @ w)))
    expected = plain(x, (wide_again(*few, jnp.float32),))
    np.testing.assert_allclose(found(x, few), expected, rtol=1e-4, atol=1e-6)
    assert found.memory_analysis().temp_size_in_bytes < wide.nbytes / 2
    out = jax.jit(product)(x.astype(jnp.bfloat16), *(a[0] for a in few))
    assert out.dtype == jnp.bfloat16 and out.shape == x.shape


CONFIG = Config(
    vocab_size=64, dim=64, mlp_dim=128, layers=2, heads=4, kv_heads=2, head_dim=16, init_std=0.1
)


@pytest.mark.devices
@pytest.mark.parametrize(("form", "off"), [("int8", 0.03), ("nf4", 0.3)])
def test_a_model_of_narrow_kernels_under_lora(form, off):
    """It computes nearly the same; its kernels take fewer bytes, and adapters have gradients."""

    lora = LoRAConfig(4, targets=(r"layers/attention/(query|value)",))

    def plain(rngs):
        return add_lora(Llama(CONFIG, rngs=rngs), lora, rngs)

    params = jax.jit(lambda: params_of(plain(nnx.Rngs(0))))()
    definition = define(lambda rngs: quantize(plain(rngs), form))
    fewer, found = narrower(form, definition.shapes), {}
    for path, array in params.items():
        found |= fewer(path, array)
    assert {p: (a.shape, a.dtype) for p, a in found.items()} == {
        p: (a.shape, a.dtype) for p, a in definition.shapes.items()
    }
    sizes = [
        sum(a.nbytes for p, a in ps.items() if p.startswith("layers")) for ps in (params, found)
    ]
    assert sizes[1] < sizes[0] * (0.3 if form == "int8" else 0.2)
    with pytest.raises(InputError, match="takes no adapter; expected one without quant"):
        merge_lora(found, lora)  # a sum in few bits would be another model
    tokens = np.arange(24).reshape(2, 12)
    expected, logits = (
        np.asarray(Compiled(of.merge(arrays))(tokens)[0])
        for of, arrays in ((define(plain), params), (definition, found))
    )
    assert 0 < np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean()) < off

    def loss(own):
        return (definition.merge({**found, **own})(tokens)[0] ** 2).mean()

    own = {p: a for p, a in found.items() if p.endswith("lora/b")}
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.jit(jax.grad(loss))(own).values())
    mesh = parallel.make_mesh((2, 2, 2))
    placed = parallel.param_shardings(definition.shapes, PARAM_AXES, mesh)
    assert placed["layers/gate/quant_scale"].spec[-1] == "tensor"


def test_an_encoder_s_layers_are_narrow_too():
    config = T5Config(vocab_size=32, dim=16, mlp_dim=32, layers=2, encoder_layers=3, tied=False)
    shapes = define(lambda rngs: quantize(T5(config, rngs=rngs), "int8")).shapes
    kernels = {p: a.dtype for p, a in shapes.items() if p.endswith("/kernel")}
    assert [p for p, dtype in kernels.items() if dtype != jnp.int8] == ["head/kernel"]
    assert len(kernels) > 12
