"""Charts as inline SVG, without scripts: lines and grouped bars.

Positions are shares of the plot, so a chart takes any width and its texts keep their size. Colours
and dashes come from the page's style sheet (classes s0 .. s5). What is no finite number is left
out, and said to be.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recjax.report.markup import Html, element, join
from recjax.report.numbers import axis, finite, format_number, format_percent, format_short

_STYLES = 6  # of series, in page.css
_MOST_POINTS = 800  # of a line; more are thinned
_MOST_DOTS = 60  # a line of so many points shows them one by one
_MOST_VALUES = 80  # so many bars have their values written on them
_CHARACTER = 6.2  # px, of a chart's text
_SLOT = 11.0  # px, of a bar with its value written upwards
_GROUP = 0.82  # of a group's width is bars
_RINGS = (0.25, 0.5, 0.75, 1.0)  # of a radar, from its centre to its rim
_EMPTY = "There is no finite number to draw."

Point = tuple[float, float]


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most `most` of the points, the lowest and the highest of each stretch among them."""
    if len(points) <= most:
        return list(points)
    stretches = max(1, (most - 2) // 2)
    kept = {0, len(points) - 1}
    for number in range(stretches):
        here = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        kept |= {min(here, key=lambda i: points[i][1]), max(here, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def line_chart(
    title: str,
    x: str,
    y: str,
    series: Mapping[str, Sequence[Sequence[Any]]],
    *,
    at: float | None = None,
) -> Html:
    """Lines over numbers.

    Args:
        title: for those who do not see the chart.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        series: points `(x, y)` of each line, in drawing order.
        at: where an upright dashed line stands, if any.
    """
    lines: dict[str, list[Point]] = {}
    left_out = 0
    for name, given in series.items():
        pairs = [(finite(a), finite(b)) for a, b in given]
        points = [(a, b) for a, b in pairs if a is not None and b is not None]
        left_out += len(pairs) - len(points)
        if points:
            lines[name] = points
    if not lines:
        return element("p", _EMPTY, class_="empty")
    every = [point for points in lines.values() for point in points]
    xs = [a for a, _ in every] + ([at] if at is not None else [])
    across = _Scale(min(xs), max(xs), exact=True)
    up = _Scale(min(b for _, b in every), max(b for _, b in every))
    parts = [_grid(up)]
    for tick, label in zip(across.ticks, across.labels, strict=True):
        share = across.share(tick)
        if -1e-6 <= share <= 1 + 1e-6:
            parts.append(_text(label, share, 1.0, dy="1.6em", text_anchor="middle"))
    if at is not None:
        place = _percent(across.share(at))
        parts.append(element("line", x1=place, x2=place, y1="0", y2="100%", class_="at"))
    styles = {name: f"s{number % _STYLES}" for number, name in enumerate(series)}
    paths = []
    for name, points in lines.items():
        spots = [(1000 * across.share(a), 1000 - 1000 * up.share(b)) for a, b in thin(points)]
        if len(spots) > 1:
            path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in spots)
            paths.append(element("path", d=path, class_=styles[name]))
    parts.append(
        element(
            "svg", *paths, viewBox="0 0 1000 1000", preserveAspectRatio="none",
            width="100%", height="100%",
        )
    )  # fmt: skip
    for name, points in lines.items():
        if len(points) <= _MOST_DOTS:
            parts += [
                element(
                    "circle",
                    element("title", f"{name}: {x} {format_short(a)}, {format_number(b)}"),
                    cx=_percent(across.share(a)), cy=_percent(1 - up.share(b)), r="2.5",
                    class_=styles[name],
                )
                for a, b in points
            ]  # fmt: skip
    last = {
        name: format_number(lines[name][-1][1]) if name in lines else "no number" for name in series
    }
    return join(
        _legend(list(series), last, line=True),
        element("div", y, class_="axis") if list(series) != [y] else "",
        _plot(title, up, parts),
        element("div", x, class_="axis x"),
        _left_out(left_out),
    )


def bar_chart(
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Any]],
    *,
    percent: bool = False,
) -> Html:
    """Grouped upright bars with their values, over or under zero.

    Args:
        title: for those who do not see the chart.
        labels: one a group.
        series: one number a group, or None; series stand side by side in their order.
        percent: the numbers are shares of one.
    """
    bars = {name: [finite(value) for value in values] for name, values in series.items()}
    values = [value for row in bars.values() for value in row if value is not None]
    if not values:
        return element("p", _EMPTY, class_="empty")
    write = format_percent if percent else format_short
    low, high = min(0.0, *values), max(0.0, *values)
    up = _Scale(low, high if low < high else 1.0, factor=100 if percent else 1)
    count = len(labels) * len(bars)
    widest = _CHARACTER * max(len(write(value)) for value in values) + 6
    upwards = count * widest / _GROUP > 520
    word = max((len(word) for label in labels for word in label.split()), default=0)
    width = max(
        count * (_SLOT if upwards else widest) / _GROUP, len(labels) * min(_CHARACTER * word, 90)
    )
    parts = [_grid(up)]
    group = 1 / len(labels)
    step = group * _GROUP / len(bars)
    zero = 1 - up.share(0.0)
    for number, (name, row) in enumerate(bars.items()):
        for place, value in enumerate(row):
            if value is None:
                continue
            start = place * group + (1 - _GROUP) / 2 * group + number * step
            end = 1 - up.share(value)
            hint = f"{labels[place]}, {name}: {write(value)}"
            parts.append(
                element(
                    "rect", element("title", hint), class_=f"s{number % _STYLES}",
                    x=_percent(start + 0.04 * step), width=_percent(0.92 * step),
                    y=_percent(min(zero, end)), height=_percent(abs(end - zero)),
                )
            )  # fmt: skip
            if count <= _MOST_VALUES:
                parts.append(_value(write(value), start + step / 2, end, value < 0, upwards))
    parts.append(element("line", x1="0", x2="100%", y1=_percent(zero), y2=_percent(zero)))
    under = element("div", *(element("span", label) for label in labels), class_="labels")
    room = widest if upwards and count <= _MOST_VALUES else 14
    return join(
        _legend(list(series), {}, line=False) if len(series) > 1 else "",
        _plot(title, up, parts, under, width=width, top=room, bottom=room if low < 0 else 0),
        _left_out(sum(value is None for row in bars.values() for value in row)),
    )


def radar_chart(
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Any]],
    low: float,
    high: float,
) -> Html:
    """Closed lines around a centre, an axis a label.

    Args:
        title: for those who do not see the chart.
        labels: one an axis, clockwise from the top.
        series: one number a label, or None; what lies outside of `low` and `high` is drawn there.
        low, high: at the centre and at the rim; rings have their values written on them.
    """
    lines = {name: [finite(value) for value in row] for name, row in series.items()}
    if not any(value is not None for row in lines.values() for value in row):
        return element("p", _EMPTY, class_="empty")
    turns = [2 * math.pi * place / len(labels) for place in range(len(labels))]

    def spot(turn: float, share: float) -> Point:
        return 320 + 150 * share * math.sin(turn), 200 - 150 * share * math.cos(turn)

    def corner(turn: float, share: float) -> str:
        x, y = spot(turn, share)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for share in _RINGS:
        path = f"M{'L'.join(corner(turn, share) for turn in turns)}Z"
        parts.append(element("path", d=path, class_="grid"))
        value = format_short(low + share * (high - low))
        parts.append(element("text", value, x="324", y=f"{spot(0, share)[1]:.1f}", dy="1em"))
    for turn, label in zip(turns, labels, strict=True):
        (x, y), (end_x, end_y) = spot(turn, 1), spot(turn, 1.08)
        parts.append(
            element("line", x1="320", y1="200", x2=f"{x:.1f}", y2=f"{y:.1f}", class_="grid")
        )
        side = "middle" if abs(end_x - 320) < 20 else "start" if end_x > 320 else "end"
        parts.append(
            element(
                "text", label, x=f"{end_x:.1f}", y=f"{end_y:.1f}", dy="0.35em", text_anchor=side
            )
        )
    for number, row in enumerate(lines.values()):
        spots = [
            "" if value is None else corner(turn, min(1.0, max(0.0, (value - low) / (high - low))))
            for turn, value in zip(turns, row, strict=True)
        ]
        # From each to the next; beside a value that is left out there is no line.
        sides = zip(spots, spots[1:] + spots[:1], strict=True)
        path = "".join(f"M{a}L{b}" for a, b in sides if a and b)
        parts.append(element("path", d=path, class_=f"s{number % _STYLES}"))
    picture = element("svg", *parts, viewBox="0 0 640 400", role="img", aria_label=title)
    left_out = sum(value is None for row in lines.values() for value in row)
    return join(
        _legend(list(series), {}, line=True),
        element("div", picture, class_="radar"),
        _left_out(left_out),
    )


class _Scale:
    """An axis: where numbers stand on it (0 to 1), and its ticks.

    Args:
        low, high: what it must hold.
        exact: it ends there, not at the next tick.
        factor: what labels multiply numbers by; 100 writes shares in per cent.
    """

    def __init__(self, low: float, high: float, *, exact: bool = False, factor: float = 1):
        ticks, self.labels = axis(low * factor, high * factor)
        self.ticks = [tick / factor for tick in ticks]
        if factor == 100:
            self.labels = [f"{label}%" for label in self.labels]
        ends = (low, high) if exact and low < high else (self.ticks[0], self.ticks[-1])
        self._low, self._reach = ends[0], ends[1] - ends[0]

    def share(self, value: float) -> float:
        return (value - self._low) / self._reach


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%".replace("-0.00", "0.00")


def _text(text: str, x: float, y: float, **attributes: Any) -> Html:
    return element("text", text, x=_percent(x), y=_percent(y), **attributes)


def _grid(up: _Scale) -> Html:
    parts = []
    for tick, label in zip(up.ticks, up.labels, strict=True):
        place = _percent(1 - up.share(tick))
        parts.append(element("line", x1="0", x2="100%", y1=place, y2=place, class_="grid"))
        parts.append(element("text", label, x="-8", y=place, dy="0.35em", text_anchor="end"))
    return join(*parts)


def _value(text: str, x: float, y: float, below: bool, upwards: bool) -> Html:
    """A bar's value at its end."""
    if not upwards:
        dy = "1.1em" if below else "-0.4em"
        return _text(text, x, y, dy=dy, text_anchor="middle", class_="value")
    side = "end" if below else "start"
    turned = element(
        "text", text, x=-4 if below else 4, dy="0.35em", text_anchor=side, transform="rotate(-90)",
        class_="value",
    )  # fmt: skip
    return element("svg", turned, x=_percent(x), y=_percent(y), class_="turned")


def _plot(
    title: str,
    up: _Scale,
    parts: Sequence[Html],
    under: Html | str = "",
    *,
    width: float = 0,
    top: float = 8,
    bottom: float = 0,
) -> Html:
    """The plot with its margins; narrower than `width` px, it scrolls."""
    left = 14 + _CHARACTER * max(map(len, up.labels))
    style = f"--left:{left:.0f}px;--top:{top:.0f}px;--bottom:{bottom:.0f}px;"
    style += f"min-width:{left + width + 24:.0f}px"
    picture = element("svg", *parts, role="img", aria_label=title)
    return element("div", element("div", picture, under, class_="plot", style=style), class_="wide")


def _legend(names: Sequence[str], last: Mapping[str, str], *, line: bool) -> Html:
    entries = []
    for number, name in enumerate(names):
        style = f"s{number % _STYLES}"
        if line:
            mark = element("line", x1="0", x2="26", y1="6", y2="6", class_=style)
        else:
            mark = element("rect", width="12", height="12", class_=style)
        swatch = element("svg", mark, width="26" if line else "12", height="12", aria_hidden="true")
        value = element("b", last[name]) if name in last else ""
        entries.append(element("li", swatch, element("span", name), value))
    return element("ul", *entries, class_="legend")


def _left_out(count: int) -> Html:
    if not count:
        return Html("")
    what = "1 value that is" if count == 1 else f"{count:,} values that are"
    return element("p", f"Left out: {what} no finite number.", class_="note")
