"""The contract of results.json: what is written is read, and what does not fit is named."""

import json
import math

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.report.sections import (
    Bars,
    Case,
    Cases,
    Item,
    Lines,
    Table,
    Text,
    read_results,
    section_from_json,
    section_to_json,
    write_results,
)

SECTIONS = (
    Text("Summary", "One.\n\nTwo."),
    Table("Accuracy", ("data", "n", "x"), (("ml", 95, 0.5), ("steam", None, None)), "A note."),
    Bars("Recovered", ("0", "1"), {"SASRec": (0.25, 0.75), "Pop": (1.0, None)}, percent=True),
    Lines("Loss", "step", "nats", {"train": ((0, 1.5), (10, None))}),
    Cases(
        "Cases",
        (
            Case("user 1", (Item("Fargo", "hit"), Item("三国志")), (Item("Fargo", "hit"),), True),
            Case("user 2", (), (Item("Alein", "unknown"), Item("Scream", "miss"))),
        ),
    ),
)


def test_what_is_written_is_read(tmp_path):
    write_results(tmp_path / "results.json", SECTIONS)
    assert read_results(tmp_path / "results.json") == SECTIONS
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_file_is_the_contract(tmp_path):
    write_results(tmp_path / "results.json", [SECTIONS[4]])
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "sections": [
            {
                "kind": "cases",
                "title": "Cases",
                "note": "",
                "cases": [
                    {
                        "heading": "user 1",
                        "history": [
                            {"text": "Fargo", "mark": "hit"},
                            {"text": "三国志", "mark": ""},
                        ],
                        "answer": [{"text": "Fargo", "mark": "hit"}],
                        "right": True,
                    },
                    {
                        "heading": "user 2",
                        "history": [],
                        "answer": [
                            {"text": "Alein", "mark": "unknown"},
                            {"text": "Scream", "mark": "miss"},
                        ],
                        "right": None,
                    },
                ],
            }
        ]
    }


def test_optional_keys_may_be_left_out():
    value = {"kind": "bars", "title": "t", "labels": ["a"], "series": {"s": [1]}}
    assert section_from_json(value, "x") == Bars("t", ("a",), {"s": (1,)}, False, "")
    value = {
        "kind": "cases",
        "title": "t",
        "cases": [{"heading": "h", "history": [], "answer": []}],
    }
    assert section_from_json(value, "x") == Cases("t", (Case("h", (), (), None),), "")


def test_numbers_of_numpy_and_what_is_not_finite():
    table = Table("t", ["a"], [[np.float32(0.5)], [np.int64(7)], [math.nan], [-math.inf]])
    assert section_to_json(table)["rows"] == [[0.5], [7], [None], [None]]
    bars = Bars("t", ["a", "b"], {"s": np.array([1.0, np.nan])})
    assert section_to_json(bars)["series"] == {"s": [1.0, None]}
    cases = Cases("t", [Case("h", [], [], np.bool_(True))])
    assert section_to_json(cases)["cases"][0]["right"] is True


TABLE = {"kind": "table", "title": "t", "columns": ["a", "b"], "rows": [[1, 2]]}
BARS = {"kind": "bars", "title": "t", "labels": ["a", "b"], "series": {"s": [1, 2]}}
LINES = {"kind": "lines", "title": "t", "x": "x", "y": "y", "series": {"s": [[1, 2]]}}
CASE = {"heading": "h", "history": [{"text": "a"}], "answer": []}
CASES = {"kind": "cases", "title": "t", "cases": [CASE]}
TEXT = {"kind": "text", "title": "t", "text": "x"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("text", "sections[1]: expected an object, got 'text'"),
        (
            {"title": "t"},
            "sections[1].kind: expected one of text, table, bars, lines, radar, cases",
        ),
        ({**TEXT, "kind": "tabel"}, "sections[1].kind: expected one of text,"),
        ({**TEXT, "kind": ["text"]}, "sections[1].kind: expected one of text,"),
        ({**TEXT, "note": "n"}, "sections[1]: unknown key 'note'; known: title, text"),
        ({"kind": "text", "title": "t"}, "sections[1]: no key 'text'; expected title, text"),
        ({**TEXT, "text": 3}, "sections[1].text: expected a string, got 3"),
        ({**TABLE, "columns": "ab"}, "sections[1].columns: expected a list, got 'ab'"),
        ({**TABLE, "columns": ["a", 1]}, "sections[1].columns[1]: expected a string, got 1"),
        ({**TABLE, "rows": [[1, 2], [3]]}, "rows[1]: expected 2 cells, as many as columns, got 1"),
        ({**TABLE, "rows": [[1, True]]}, "rows[0][1]: expected a string, a number or null"),
        ({**TABLE, "rows": [[1, []]]}, "rows[0][1]: expected a string, a number or null, got []"),
        ({**BARS, "percent": 1}, "sections[1].percent: expected true or false, got 1"),
        ({**BARS, "series": [[1, 2]]}, "sections[1].series: expected an object"),
        ({**BARS, "series": {"s": [1]}}, "series.s: expected 2 numbers, as many as labels, got 1"),
        ({**BARS, "series": {"s": [1, "2"]}}, "series.s[1]: expected a number or null, got '2'"),
        ({**LINES, "series": {"s": [[1, 2, 3]]}}, "series.s[0]: expected [x, y], got [1, 2, 3]"),
        ({**LINES, "series": {"s": [[1, "a"]]}}, "series.s[0][1]: expected a number or null"),
        ({**CASES, "cases": [{**CASE, "right": "yes"}]}, "cases[0].right: expected true, false or"),
        (
            {**CASES, "cases": [{**CASE, "answer": [{"text": "a", "mark": "hot"}]}]},
            "sections[1].cases[0].answer[0].mark: expected one of '', 'hit', 'miss', 'unknown', "
            "got 'hot'",
        ),
        (
            {**CASES, "cases": [{**CASE, "history": ["Fargo"]}]},
            "cases[0].history[0]: expected an object, got 'Fargo'",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, section, message):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"sections": [TEXT, section]}))
    with pytest.raises(InputError) as error:
        read_results(path)
    assert str(error.value).startswith(f"{path}: sections[1]") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "expected a JSON object, got list"),
        ("{}", 'expected {"sections": [...]} and no other key'),
        ('{"sections": [], "more": 1}', 'expected {"sections": [...]} and no other key'),
        ('{"sections": {}}', "sections: expected a list, got {}"),
    ],
)
def test_what_is_no_results_file_is_named(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match="results.json") as error:
        read_results(path)
    assert message in str(error.value)


def test_no_results_file(tmp_path):
    with pytest.raises(InputError, match="nothing.json: no such file"):
        read_results(tmp_path / "nothing.json")


def test_a_bad_section_is_not_written(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(InputError) as error:
        write_results(path, [SECTIONS[0], Table("t", ["a", "b"], [[1]])])
    assert str(error.value) == (
        f"{path}: sections[1]: table.rows[0]: expected 2 cells, as many as columns, got 1"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot write .*results.json: No such file"):
        write_results(tmp_path / "gone" / "results.json", SECTIONS)


def test_halves_of_surrogate_pairs_are_replaced(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [Bars("a\ud83d", ["\udc00"], {"b\ud83d": [1]})])
    assert read_results(path) == (Bars("a\ufffd", ("\ufffd",), {"b\ufffd": (1,)}),)
