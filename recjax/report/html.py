"""Sections, settings and metrics as HTML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recjax.report.markup import Html, element, join
from recjax.report.numbers import format_number
from recjax.report.plots import bar_chart, line_chart, radar_chart
from recjax.report.sections import Bars, Case, Cases, Item, Lines, Radar, Section, Table, Text

MARKS = {"hit": "✓", "miss": "✗", "unknown": "?"}
_LONG = 18  # characters; cells of longer texts keep some width on a phone


def slug(title: str, number: int) -> str:
    """A heading's id, from its title and its number on the page."""
    words = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")[:40]
    return f"{words or 'section'}-{number}"


def block(title: str, *content: str, id: str) -> Html:
    """A part of the page under a heading."""
    return element("section", element("h2", title), *content, id=id)


def fold(title: str, *content: str, note: str = "", open: bool = False) -> Html:
    """Content that is shown on demand."""
    summary = element("summary", title, " " if note else "", element("small", note) if note else "")
    return element("details", summary, *content, open="" if open else None)


def paragraphs(text: str, class_: str | None = None) -> Html:
    """Text with blank lines between its paragraphs."""
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return join(*(element("p", part, class_=class_) for part in parts if part))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """A table that scrolls where it is too wide; numbers stand at the right."""
    kinds = [_kind([row[k] for row in rows]) for k in range(len(columns))]
    head = (
        element("th", name, scope="col", class_=kind)
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = (
        element("tr", *(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    )
    whole = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", whole, class_="wide")


def _kind(cells: Sequence[Any]) -> str | None:
    """A column's class: numbers, long texts, or neither."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    if not texts:
        return "n"
    return "long" if max(map(len, texts)) > _LONG else None


def _cell(value: Any, kind: str | None) -> Html:
    if isinstance(value, str):
        return element("td", value, dir="auto", class_=kind)
    return element("td", format_number(value), class_=kind if value is None else "n")


def section_html(section: Section) -> Html:
    """The content under a section's heading."""
    if isinstance(section, Text):
        return element("div", paragraphs(section.text), class_="text")
    note = paragraphs(section.note, "note")
    if isinstance(section, Table):
        if not section.rows:
            return join(note, element("p", "The table has no rows.", class_="empty"))
        return join(note, table(section.columns, section.rows))
    if isinstance(section, Bars):
        return join(note, _bars(section))
    if isinstance(section, Radar):
        return join(note, _radar(section))
    if isinstance(section, Lines):
        return join(note, figure(line_chart(section.title, section.x, section.y, section.series)))
    return join(note, _cases(section))


def figure(*content: str) -> Html:
    """A chart, and the numbers below it."""
    return element("figure", *content)


def _bars(section: Bars) -> Html:
    chart = bar_chart(section.title, section.labels, section.series, percent=section.percent)
    if not section.labels or not section.series:
        return figure(chart)
    factor, unit = (100.0, "in per cent") if section.percent else (1, "")
    rows = [
        [label, *(None if number is None else factor * number for number in numbers)]
        for label, *numbers in zip(section.labels, *section.series.values(), strict=True)
    ]
    return figure(chart, fold("Numbers", table(["", *section.series], rows), note=unit))


def _radar(section: Radar) -> Html:
    ends = section.low, section.high
    chart = radar_chart(section.title, section.labels, section.series, *ends)
    rows = [list(row) for row in zip(section.labels, *section.series.values(), strict=True)]
    return figure(chart, fold("Numbers", table(["", *section.series], rows)))


def _cases(section: Cases) -> Html:
    if not section.cases:
        return element("p", "There are no cases.", class_="empty")
    items = [item for case in section.cases for item in (*case.history, *case.answer)]
    used = [mark for mark in MARKS if any(item.mark == mark for item in items)]
    legend = element(
        "ul",
        *(element("li", _mark(mark), " ", mark, class_=mark) for mark in used),
        class_="legend marks",
    )
    cases = element("div", *map(_case, section.cases), class_="cases")
    return join(legend if used else "", cases)


def _case(case: Case) -> Html:
    parts = [element("h3", case.heading, dir="auto")]
    if case.right is not None:
        mark = "hit" if case.right else "miss"
        word = "right" if case.right else "wrong"
        parts.append(element("span", MARKS[mark], " ", word, class_=f"verdict {mark}"))
    sides = element(
        "div",
        _side("History", case.history),
        _side("What the model said", case.answer),
        class_="sides",
    )
    return element("article", element("header", *parts), sides, class_="case")


def _side(title: str, items: Sequence[Item]) -> Html:
    marked = [item for item in items if item.mark]
    hits = sum(item.mark == "hit" for item in items)
    count = element("small", f"{hits} of {len(items)} hit") if marked else ""
    listed = [
        element(
            "li",
            _mark(item.mark) if item.mark else "",
            element("span", item.text, dir="auto"),
            class_=item.mark or None,
        )
        for item in items
    ]
    body = element("ol", *listed) if items else element("p", "Nothing.", class_="empty")
    return element("div", element("h4", title, " " if marked else "", count), body)


def _mark(mark: str) -> Html:
    return element("span", MARKS[mark], class_="mark", role="img", aria_label=mark)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested JSON with their dotted names; a list of plain values is one leaf."""
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from flatten(entry, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(entry, (Mapping, list)) for entry in value):
        for number, entry in enumerate(value):
            yield from flatten(entry, f"{name}[{number}]")
    else:
        yield name, value


def leaf(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, list):
        return ", ".join(map(leaf, value)) or "none"
    if value is None or value == "" or value == {}:
        return "none" if value is None else "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings(values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Html:
    """Nested settings as a table a section; what differs from its default is marked.

    Args:
        values: nested, as JSON.
        defaults: the same keys, where known.
    """
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    groups = {"": plain} | {key: value for key, value in values.items() if key not in plain}
    known = dict(flatten(defaults)) if defaults else {}
    parts = []
    for group, entries in groups.items():
        rows = []
        for name, value in flatten(entries):
            default = known.get(f"{group}.{name}" if group else name, value)
            cells = [element("th", name, scope="row"), element("td", leaf(value), dir="auto")]
            if default != value:
                was = element("small", f"default {leaf(default)}")
                cells[1] = element("td", element("b", leaf(value)), " ", was, dir="auto")
            rows.append(element("tr", *cells))
        if entries:
            caption = element("caption", group) if group else ""
            parts.append(element("table", caption, element("tbody", *rows)))
    return element("div", *parts, class_="settings")
