"""The rows of `check_gpu.py`'s table: of each benchmark's JSON, with the targets."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

FASTER, MATMUL, HOST = 1.3, 0.5, 0.05  # times the peer; of the matrix rate, at least; at most
PLAN, MESH = 0.1, 1e-4  # relative differences, at most


@dataclasses.dataclass(frozen=True)
class Figure:
    """A row of the table.

    Attributes:
        name, value, unit: the measurement; value None where there is none, and `note` says why.
        peer: the peer's value.
        target: "at least" or "at most", and a number: of the ratio to the peer where there is one,
            else of the value.
    """

    name: str
    value: float | None
    unit: str
    peer: float | None = None
    target: tuple[str, float] | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer if self.value and self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one, or without a figure."""
        against_peer = self.target == ("at least", FASTER)
        measured = self.ratio if against_peer else self.value
        if self.target is None or measured is None:
            return None
        kind, bound = self.target
        return measured >= bound if kind == "at least" else measured <= bound


def recommender(spec: str, source: str) -> Callable[[dict[str, Any]], list[Figure]]:
    def rows(found: dict[str, Any]) -> list[Figure]:
        row = found["rows"][0]
        what = f"{spec} ({row['objective']}, {source})"
        return [
            Figure(f"{what}: training", row["sequences_per_second"], "sequences/s"),
            Figure(f"{what}: a step", 1e3 * row["loop_step_seconds"], "ms"),
            Figure(f"{what}: host's share", row["host_share"], "of a step", None,
                   ("at most", HOST)),
            Figure(f"{what}: ranking", row["ranked_per_second"], "users/s"),
        ]  # fmt: skip

    return rows


def language_model(found: dict[str, Any]) -> list[Figure]:
    out = [Figure("matrix product", found["matmul_gflops"], "GFLOP/s")]
    for size, rows in found["models"].items():
        for row in rows:
            what, peer = f"{size} {row['name']}", row.get("peer_tokens_per_second")
            ours = row["ours_tokens_per_second"]
            out.append(Figure(what, ours, "tokens/s", peer, ("at least", FASTER)))
            if "matmul_share" in row:
                share = row["matmul_share"]
                out.append(Figure(f"{what}: of the matrix rate", share, "share", None,
                                  ("at least", MATMUL)))  # fmt: skip
    return out


def interpreter(found: dict[str, Any]) -> list[Figure]:
    out = []
    for size, rows in found["models"].items():
        for what, row in rows.items():
            ours, peer = (
                1 / statistics.median(row[who]["seconds"]) if row[who]["seconds"] else None
                for who in ("ours", "peer")
            )
            name = f"interpreter of {size} {what}"
            out.append(Figure(name, ours, "examples/s", peer, ("at least", FASTER)))
    return out


def scores(found: list[dict[str, Any]]) -> list[Figure]:
    return [
        Figure(f"scoring, {row['way']}, batch {row['batch']}", row["items_per_second"], "items/s")
        for row in found
    ]


def policy(found: dict[str, Any]) -> list[Figure]:
    name = f"policy of {found['preset']}, {found['users']} users x {found['answers']} answers"
    out = [
        Figure(f"{name}: a step", 1e3 * found["step_seconds"], "ms"),
        Figure(f"{name}: training", found["users_per_second"], "users/s"),
    ]
    if found["peak_bytes"]:
        out.append(Figure(f"{name}: memory", found["peak_bytes"] / 1e9, "GB"))
    return out


def glm(found: dict[str, Any]) -> list[Figure]:
    out = []
    for row in found["rows"]:
        peer = row.get("peer_tokens_per_second")
        name = f"glm {row['name']}"
        out.append(Figure(name, row["ours_tokens_per_second"], "tokens/s", peer,
                          ("at least", FASTER)))  # fmt: skip
    if "matmul_share" in found:
        share = found["matmul_share"]
        out.append(Figure("glm train: of the matrix rate", share, "share", None,
                          ("at least", MATMUL)))  # fmt: skip
    return out


def memory(found: dict[str, Any]) -> list[Figure]:
    case = found["case"]
    off = ("estimated_ratio", "estimate"), ("ratio", "compiled plan")
    return [
        Figure(f"{case}: training", found["tokens_per_second"], "tokens/s"),
        Figure(f"{case}: memory", found["measured_gb"], "GB"),
        *(Figure(f"{case}: {what} is off", abs(found[key] - 1), "share", None, ("at most", PLAN))
          for key, what in off),
    ]  # fmt: skip


def meshes(found: dict[str, Any]) -> list[Figure]:
    return [
        Figure(f"mesh 1x1x1 against {row['name']}", row["difference"], "relative", None,
               ("at most", MESH))
        for row in found["rows"]
    ]  # fmt: skip


def show(figures: list[Figure]) -> None:
    layout = "{:<58}{:>13}  {:<12}{:>11}{:>8}  {}"
    print(layout.format("", "ours", "", "peer's", "ratio", ""))
    for row in figures:
        share = row.unit in ("share", "of a step")
        value = "-" if row.value is None else f"{row.value:.1%}" if share else f"{row.value:,.1f}"
        if row.unit == "relative":
            value = f"{row.value:.1e}"
        peer = "-" if row.peer is None else f"{row.peer:,.1f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}x"
        notes = [row.note] if row.note else []
        if row.met is not None and row.target:
            against = "x" if row.ratio is not None else ""
            aim = f"{row.target[0]} {row.target[1]:g}{against}"
            notes.append(f"{'reached' if row.met else 'NOT reached'}: {aim}")
        unit = "" if share else row.unit
        print(layout.format(row.name, value, unit, peer, ratio, "; ".join(notes)).rstrip())
