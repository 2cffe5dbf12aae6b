"""Numbers for readers: in tables, on axes, in charts."""

import math
from collections.abc import Sequence
from typing import Any

_LARGEST = 1e300  # beyond it, differences of two numbers overflow
_SMALLEST = 1e-280  # below it, quotients do
_TICKS = 5  # of an axis


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None: for null, NaN, infinity, and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # An integer is compared exactly, so this holds for those that no float can hold.
    return float(value) if abs(value) <= _LARGEST else None


def format_number(value: int | float | None) -> str:
    """Integers with thousands separators, other numbers with 4 significant digits."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size != 0 and not 1e-4 <= size < 1e15:
        return f"{value:.3e}"
    return f"{value:,.0f}" if size >= 999.95 else f"{value or 0.0:#.4g}"


def format_short(value: float) -> str:
    """A number that fits on a bar: 3 significant digits, whole numbers below a million whole."""
    if abs(value) < 1e6 and (value == int(value) or abs(value) >= 999.5):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_percent(value: float) -> str:
    """A share of one in per cent: one decimal, none where it says nothing."""
    text = f"{100 * value:.1f}".removesuffix(".0")
    return ("0" if text == "-0" else text) + "%"


def axis(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round positions for about `_TICKS` ticks that span `low` to `high`, and their labels."""
    size = max(abs(low), abs(high))
    if high - low <= 1e-12 * max(size, _SMALLEST):  # all equal
        reach = size / 10 if size > _SMALLEST else 1.0
        low, high = low - reach, high + reach
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return ticks, _labels(ticks, step)


def _labels(ticks: Sequence[float], step: float) -> list[str]:
    if not 1e-4 <= max(map(abs, ticks)) < 1e7:
        return [f"{tick:.3g}" for tick in ticks]
    decimals = next((d for d in range(7) if abs(round(step, d) - step) < step * 1e-6), 7)
    return [f"{0.0 if abs(tick) < step / 2 else tick:,.{decimals}f}" for tick in ticks]
