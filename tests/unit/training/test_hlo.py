"""What compiled programs do: products, collectives, memory."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recjax.errors import InputError
from recjax.training.compiled import use_devices
from recjax.training.devices import DEVICES, find_device
from recjax.training.hlo import Program
from recjax.training.parallel import make_mesh

MESH = make_mesh((2, 4, 1))


def array(shape, *spec):
    sharding = NamedSharding(MESH, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def program(function, *args, out):
    where = NamedSharding(MESH, PartitionSpec(*out))
    return Program(jax.jit(function, out_shardings=where).lower(*args).compile())


def test_what_is_gathered_reduced_and_multiplied():
    rows, whole = array((64, 32), ("data", "fsdp")), array((32, 16), "fsdp")
    found = program(lambda x, w: x @ w, rows, whole, out=(("data", "fsdp"),))
    assert found.flops == 2 * 8 * 32 * 16
    # Each of four devices gets what the three others have of 32 x 16 numbers.
    assert found.collectives == {"all-gather": 32 * 16 * 4 * 3 // 4}
    assert found.gathered == 32 * 16
    found = program(lambda x: x.sum(0), rows, out=())
    assert found.collectives == {"all-reduce": 2 * 32 * 4 * 7 // 8}
    assert found.argument_bytes == 8 * 32 * 4 and found.peak_bytes >= found.argument_bytes


def test_loops_count_as_often_as_they_run():
    weights = array((5, 32, 32), None, "fsdp")

    def layers(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    found = program(layers, array((64, 32), ("data", "fsdp")), weights, out=(("data", "fsdp"),))
    assert found.flops == 5 * 2 * 8 * 32 * 32
    assert found.collectives["all-gather"] == pytest.approx(5 * 32 * 32 * 4 * 3 / 4, rel=0.3)


def test_of_branches_the_one_with_most_products_counts():
    def some(x, stack):
        def body(x, w):
            return jax.lax.cond(w[0, 0] > 0, lambda: jnp.tanh(x @ w), lambda: x), None

        return jax.lax.scan(body, x, stack)[0]

    found = program(some, array((64, 32)), array((5, 32, 32)), out=())
    assert found.flops == 5 * 2 * 64 * 32 * 32


@pytest.mark.devices
def test_devices_by_name():
    assert find_device("H100") is DEVICES["h100"]
    assert find_device("24gb").memory == 24e9
    products, links = DEVICES["h100"].seconds(989e12, 900e9)
    assert (products, links) == (1.0, 2.0)
    with pytest.raises(InputError, match=r"device h10: did you mean 'h100'.*24GB"):
        find_device("h10")
    use_devices(jax.device_count())
    with pytest.raises(InputError, match="3 devices, but this process has 8"):
        use_devices(3)
