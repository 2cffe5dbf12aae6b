"""The work of one device in a compiled program: products, collectives, memory.

    program = Program(jax.jit(step).lower(*args).compile())
    program.flops, program.collectives, program.peak_bytes

Loops count as often as they run, of branches the one with the most products. The bytes of a
collective are those that a device sends when its group is a ring: of n devices, (n - 1) / n of what
is gathered or scattered, twice that of what is reduced everywhere.
"""

import math
import re
from collections import Counter
from typing import Any

_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) (?P<kind>[\w-]+)\((?P<operands>[^)]*)\)"
)
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"(\w+?)\[([\d,]*)\]")
# Groups are lists, a grid, or axes of a mesh ('a'=4), of which a part may be named ('a':(1)2).
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\])")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(.*?\))? \{(.*?)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_NAMED = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def _arrays(shape: str) -> list[tuple[int, int]]:
    """(elements, bytes of an element) of each array in a shape, which may be a tuple."""
    arrays = _ARRAY.findall(shape)
    return [
        (math.prod(int(n) for n in sizes.split(",") if n), _BYTES.get(kind, 4))
        for kind, sizes in arrays
    ]


class Program:
    """The work of one device in a compiled program.

    Attributes:
        flops: of all matrix products, two a multiplication and addition.
        collectives: bytes that the device sends, by kind of `COLLECTIVES`.
        gathered: elements of the largest array that is gathered from several devices.
        peak_bytes: arguments, results and working memory at their largest, by XLA's assignment.
        argument_bytes, working_bytes: arguments alone; what is neither argument nor result.
    """

    def __init__(self, compiled: Any):
        self._bodies: dict[str, list[tuple[re.Match, str]]] = {}
        self._main, self.gathered = "", 0
        body: list[tuple[re.Match, str]] = []
        for line in compiled.as_text().splitlines():
            if line.endswith("{") and not line.startswith(" "):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                self._bodies[name] = body = []
                self._main = name if line.startswith("ENTRY") else self._main
            elif match := _INSTRUCTION.match(line):
                body.append((match, line))
                if match["kind"].startswith("all-gather"):
                    sizes = [elements for elements, _ in _arrays(match["shape"])]
                    self.gathered = max(self.gathered, *sizes)
        counts = self._count(self._main)
        self.flops = 2 * counts.pop("products", 0)
        self.collectives: dict[str, int] = dict(counts)
        memory = compiled.memory_analysis()
        self.argument_bytes = self.working_bytes = self.peak_bytes = 0
        if memory is not None:
            self.argument_bytes = memory.argument_size_in_bytes
            self.working_bytes = memory.temp_size_in_bytes
            results = memory.output_size_in_bytes - memory.alias_size_in_bytes
            self.peak_bytes = self.argument_bytes + results + self.working_bytes

    def _count(self, name: str) -> Counter:
        shapes = {match["name"]: match["shape"] for match, _ in self._bodies[name]}
        total: Counter = Counter()
        for match, line in self._bodies[name]:
            kind = match["kind"].removesuffix("-start")
            if kind == "dot":
                left = shapes[match["operands"].split(",")[0].split()[-1].lstrip("%")]
                sizes = _ARRAY.findall(left)[0][1].split(",")
                over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
                summed = over[1].split(",") if over else []
                result = _arrays(match["shape"])[0][0]
                total["products"] += result * math.prod(int(sizes[int(k)]) for k in summed if k)
            elif kind in COLLECTIVES:
                total[kind] += _sent(kind, match, line)
            known = _TRIPS.search(line)
            trips = int(known[1]) if kind == "while" and known else 1
            for called in _CALLED.findall(line):
                inner = self._count(called)
                total.update({key: trips * n for key, n in inner.items()})
            if branches := _BRANCHES.search(line):
                each = [self._count(called.lstrip("%")) for called in branches[1].split(", ")]
                total.update(max(each, key=lambda counts: counts["products"]))
        return total


def _group(line: str) -> int:
    """The number of devices that take part in a collective together."""
    if groups := _GROUPS.search(line):
        return len(groups[1].split(",")) if groups[1] else int(groups[3])
    if mesh := _MESH.search(line):
        sizes = {name: int(size) for name, size in _AXIS.findall(mesh[1])}
        named = _NAMED.findall(mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in named)
    return 1


def _sent(kind: str, match: re.Match, line: str) -> int:
    """Bytes that a device sends for one collective."""
    devices = _group(line)
    arrays = _arrays(match["shape"])
    if match["kind"].endswith("-start"):  # operands stand before the results
        arrays = arrays[len(arrays) // 2 :]
    size = sum(elements * each for elements, each in arrays)
    if kind == "collective-permute":
        return size
    times = {"all-reduce": 2, "reduce-scatter": devices}.get(kind, 1)
    return round(times * size * (devices - 1) / devices)
