"""Charts: where things stand, and that no data breaks them."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest

from recjax.report.plots import bar_chart, line_chart, radar_chart, thin

EVIL = "<script>'\"&"


def parse(chart):
    """The chart as a tree; an error where it is not well-formed."""
    return ET.fromstring(f"<div>{chart}</div>")


def share(text):
    return float(text.removesuffix("%")) / 100


def texts(tree, name="text"):
    return [element.text for element in tree.iter(name)]


def points(tree):
    """The drawn points of every line, in thousandths of the plot."""
    return [
        [tuple(map(float, pair.split(","))) for pair in path.get("d")[1:].split("L")]
        for path in tree.iter("path")
    ]


def bars(tree):
    """`(class, y, height)` of every bar, as shares of the plot; its legend's squares left out."""
    rects = [rect for rect in tree.iter("rect") if rect.get("x")]
    return [(r.get("class"), share(r.get("y")), share(r.get("height"))) for r in rects]


def test_a_line_stands_where_its_numbers_are():
    tree = parse(line_chart("t", "step", "loss", {"train": [(0, 0.0), (50, 1.0), (100, 0.5)]}))
    assert points(tree) == [[(0.0, 1000.0), (500.0, 0.0), (1000.0, 500.0)]]
    assert texts(tree)[:6] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert texts(tree)[6:] == ["0", "20", "40", "60", "80", "100"]
    centres = [(share(c.get("cx")), share(c.get("cy"))) for c in tree.iter("circle")]
    assert centres == [(0, 1), (0.5, 0), (1, 0.5)]
    assert texts(tree, "title")[1] == "train: step 50, 1.000"
    assert [b.text for b in tree.iter("b")] == ["0.5000"]  # the last value, in the legend


def test_lines_differ_by_class_and_where_the_upright_line_stands():
    tree = parse(line_chart("t", "x", "y", {"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]}, at=0.5))
    assert [path.get("class") for path in tree.iter("path")] == ["s0", "s1"]
    (line,) = (line for line in tree.iter("line") if line.get("class") == "at")
    assert line.get("x1") == line.get("x2") == "50.00%"


@pytest.mark.parametrize(
    "given",
    [[(7, 0.25)], [(7, 0.25), (7, 0.25)], [(0, 3), (1, 3), (2, 3)], [(0, 0), (1, 0)]]
    + [[(0, -3), (1, -4)], [(-1e300, 1e300), (1e300, -1e300)], [(0, 1e-320), (1, 2e-320)]],
)
def test_odd_lines_stay_inside(given):
    tree = parse(line_chart("t", "x", "y", {"s": given}))
    spots = [(share(c.get("cx")), share(c.get("cy"))) for c in tree.iter("circle")]
    assert len(spots) == len(given)
    assert all(0 <= value <= 1 for spot in spots for value in spot)


def test_what_is_not_finite_is_left_out_and_counted():
    given = {"a": [(0, 1), (1, math.nan), (2, 3), (3, None), (math.inf, 5)], "b": [(0, None)]}
    chart = line_chart("t", "x", "y", given)
    tree = parse(chart)
    assert points(tree) == [[(0.0, 1000.0), (1000.0, 0.0)]]
    assert "Left out: 4 values that are no finite number." in chart
    assert [b.text for b in tree.iter("b")] == ["3.000", "no number"]
    assert "nan" not in chart and "inf" not in chart


def test_the_second_line_keeps_its_colour_when_the_first_is_empty():
    tree = parse(line_chart("t", "x", "y", {"a": [], "b": [(0, 1), (1, 2)]}))
    assert [path.get("class") for path in tree.iter("path")] == ["s1"]


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0, None), (1, math.nan)]}])
def test_no_numbers_make_a_sentence(series):
    chart = line_chart("t", "x", "y", series)
    assert chart == '<p class="empty">There is no finite number to draw.</p>'


def test_many_points_are_thinned():
    given = [(k, math.sin(k / 100)) for k in range(10_000)]
    given[5001] = (5001, 9.0)
    chart = line_chart("t", "x", "y", {"s": given})
    (drawn,) = points(parse(chart))
    assert 400 < len(drawn) <= 800 and len(chart) < 20_000
    assert min(y for _, y in drawn) == 83.3  # the spike: 9, on an axis from -2 to 10
    assert not list(parse(chart).iter("circle"))


def test_thin_keeps_ends_extremes_and_order():
    given = [(float(k), float(-(k % 97))) for k in range(5000)]
    kept = thin(given, 100)
    assert len(kept) <= 100 and kept == sorted(kept)
    assert kept[0] == given[0] and kept[-1] == given[-1]
    assert {y for _, y in kept} >= {0.0, -96.0}
    assert thin(given[:100], 100) == given[:100]


def test_bars_stand_on_zero():
    tree = parse(bar_chart("t", ["a", "b"], {"s": [1.0, -0.5], "t": [0.25, None]}))
    # The axis goes from -0.5 to 1: zero stands at two thirds.
    assert bars(tree) == [
        ("s0", 0.0, pytest.approx(2 / 3, abs=1e-3)),
        ("s0", pytest.approx(2 / 3, abs=1e-3), pytest.approx(1 / 3, abs=1e-3)),
        ("s1", pytest.approx(0.5, abs=1e-3), pytest.approx(1 / 6, abs=1e-3)),
    ]
    assert texts(tree)[-3:] == ["1", "-0.5", "0.25"]
    assert texts(tree, "title") == ["a, s: 1", "b, s: -0.5", "a, t: 0.25"]
    assert [span.text for span in tree.iter("span")] == ["s", "t", "a", "b"]
    assert "Left out: 1 value that is no finite number." in "".join(tree.itertext())


def test_shares_are_shown_in_per_cent():
    tree = parse(bar_chart("t", ["a"], {"s": [0.7474]}, percent=True))
    assert texts(tree) == ["0%", "20%", "40%", "60%", "80%", "74.7%"]
    assert bars(tree) == [
        ("s0", pytest.approx(1 - 0.7474 / 0.8, abs=1e-3), pytest.approx(0.934, abs=1e-3))
    ]


def test_bars_do_not_overlap():
    tree = parse(bar_chart("t", list("abc"), {name: [1, 2, 3] for name in "wxyz"}))
    rects = [rect for rect in tree.iter("rect") if rect.get("x")]
    spans = sorted((share(r.get("x")), share(r.get("width"))) for r in rects)
    assert len(spans) == 12 and spans[-1][0] + spans[-1][1] <= 1
    assert all(x + width <= after for (x, width), (after, _) in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("labels", "series"),
    [
        (["a"], {"s": [0]}),
        (["a", "b"], {"s": [0.0, 0.0]}),
        (["a"], {"s": [5]}),
        (["a"], {"s": [-5]}),
    ]
    + [(["a"], {"s": [1e300], "t": [-1e300]}), ([""], {"": [0.3]})],
)
def test_odd_bars_stay_inside(labels, series):
    drawn = bars(parse(bar_chart("t", labels, series)))
    assert len(drawn) == len(series) * len(labels)
    assert all(0 <= y <= y + height <= 1.0001 for _, y, height in drawn)


@pytest.mark.parametrize(
    ("labels", "series"), [([], {}), (["a"], {}), ([], {"s": []}), (["a"], {"s": [None]})]
)
def test_no_bars_make_a_sentence(labels, series):
    assert "There is no finite number to draw." in bar_chart("t", labels, series)


def width(chart):
    return float(re.search("min-width:([0-9]+)px", chart)[1])


def test_many_bars_write_upwards_and_ask_for_room():
    few = bar_chart("t", ["a", "b"], {"s": [0.5, 0.25]})
    many = bar_chart("t", list("0123456789"), {name: [0.1234] * 10 for name in "abcde"})
    assert "rotate(-90)" in many and "rotate(-90)" not in few
    assert width(few) < 300 and 50 * 10 < width(many) < 900
    crowd = parse(bar_chart("t", list("0123456789"), {f"{k}": [0.1] * 10 for k in range(30)}))
    assert len(bars(crowd)) == 300
    assert "0.1" not in [t for t in texts(crowd)[6:]]  # too many to write


def test_a_radar_has_a_ring_of_the_mean_and_no_line_to_what_is_missing():
    given = {"user": [0.0, 5.0, -2.5, 2.5], "item": [1.25, None, 0.0, 0.0]}
    tree = parse(radar_chart("t", list("abcd"), given, -2.5, 2.5))
    assert texts(tree)[:4] == ["-1.25", "0", "1.25", "2.5"]
    rings = [path.get("d") for path in tree.iter("path") if path.get("class") == "grid"]
    assert rings[1] == "M320.0,125.0L395.0,200.0L320.0,275.0L245.0,200.0Z"  # 0, half way out
    user, item = (path.get("d") for path in tree.iter("path") if path.get("class") != "grid")
    assert user.startswith("M320.0,125.0L470.0,200.0M470.0,200.0L320.0,200.0M")  # 5 at the rim
    assert item == "M320.0,275.0L245.0,200.0M245.0,200.0L320.0,87.5"
    assert "Left out: 1 value that is no finite number." in "".join(tree.itertext())


@pytest.mark.parametrize("chart", ["line", "bar", "radar"])
def test_every_text_is_escaped(chart):
    if chart == "radar":
        made = radar_chart(EVIL, [EVIL, "b", "c"], {EVIL: [1, 2, 3]}, 0, 4)
    elif chart == "line":
        made = line_chart(EVIL, EVIL, "y" + EVIL, {EVIL: [(0, 1)]})
    else:
        made = bar_chart(EVIL, [EVIL], {EVIL: [1], "other": [2]})
    assert "<script" not in made
    assert "".join(parse(made).itertext()).count(EVIL) >= 2
