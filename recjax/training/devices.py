"""Accelerators by name: their memory and rates, as their makers publish them."""

import dataclasses
import re

from recjax.config import nearest
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        name: of `DEVICES`, or the given size.
        memory: bytes.
        flops: products a second in bfloat16, dense; 0 = unknown.
        link: bytes a second that it sends to its peers in one direction; 0 = unknown.
    """

    name: str
    memory: float
    flops: float = 0.0
    link: float = 0.0

    def seconds(self, flops: float, sent: float) -> tuple[float, float]:
        """The least seconds that a step needs for its products, and for its collectives."""
        return flops / self.flops, sent / self.link


# NVIDIA: data sheets of A100 80GB, H100 SXM, H200 SXM (NVLink, half of both directions), L4, A10,
# RTX 4090 (PCIe 4 x16). Google: system architecture pages of TPU v4, v5e, v5p, v6e (ICI, half of
# both directions).
DEVICES = {
    device.name: device
    for device in (
        Device("a10", 24e9, 125e12, 32e9),
        Device("a100", 80e9, 312e12, 300e9),
        Device("h100", 80e9, 989e12, 450e9),
        Device("h200", 141e9, 989e12, 450e9),
        Device("l4", 24e9, 121e12, 32e9),
        Device("rtx4090", 24e9, 165e12, 32e9),
        Device("v4", 32e9, 275e12, 150e9),
        Device("v5e", 16e9, 197e12, 100e9),
        Device("v5p", 95e9, 459e12, 300e9),
        Device("v6e", 32e9, 918e12, 224e9),
    )
}


def find_device(name: str) -> Device:
    """A device by its name or its memory ("24GB"); `InputError` naming the nearest one."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*GB", name, re.IGNORECASE)
    if size and float(size[1]) > 0:
        return Device(name, float(size[1]) * 1e9)
    if name.lower() not in DEVICES:
        raise InputError(f"device {name}: {nearest(name.lower(), DEVICES)}, or a size as 24GB")
    return DEVICES[name.lower()]
