"""Reads compiled programs."""

import math
import re

import pytest

_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) (?P<kind>[\w-]+)\((?P<operands>[^)]*)\)"
)
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def _size(shape):
    return math.prod(int(n) for n in re.search(r"\[([\d,]*)\]", shape)[1].split(",") if n)


class Program:
    """What one device does in a compiled program.

    Attributes:
        products: multiplications of all matrix products; a loop counts as often as it runs.
        gathered: elements of the largest array that is gathered from several devices.
    """

    def __init__(self, compiled):
        self._bodies, body = {}, []
        self.gathered = 0
        for line in compiled.as_text().splitlines():
            if line.endswith("{") and not line.startswith(" "):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                self._bodies[name] = body = []
                main = name if line.startswith("ENTRY") else None
                self._main = main or getattr(self, "_main", None)
            elif found := _INSTRUCTION.match(line):
                body.append((found, line))
                if found["kind"].startswith("all-gather"):
                    sizes = [_size(shape) for shape in re.findall(r"\w+\[[\d,]*\]", found["shape"])]
                    self.gathered = max(self.gathered, *sizes)
        self.products = self._count(self._main)

    def _count(self, name):
        shapes = {found["name"]: found["shape"] for found, _ in self._bodies[name]}
        total = 0
        for found, line in self._bodies[name]:
            if found["kind"] == "dot":
                left = shapes[found["operands"].split(",")[0].split()[-1].lstrip("%")]
                sizes = re.search(r"\[([\d,]*)\]", left)[1].split(",")
                over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1].split(",")
                total += _size(found["shape"]) * math.prod(int(sizes[int(k)]) for k in over if k)
            trips = int(_TRIPS.search(line)[1]) if found["kind"] == "while" else 1
            total += trips * sum(map(self._count, _CALLED.findall(line)))
        return total


@pytest.fixture
def program():
    """`program(function, *given, **named)`: a call on one device."""
    return lambda function, *given, **named: Program(function.lower(*given, **named).compile())
