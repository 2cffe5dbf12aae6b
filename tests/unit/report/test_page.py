"""The page of a run: whatever its workdir holds, escaped, self-contained, the same each time."""

import json
from html.parser import HTMLParser

import pytest

from recjax.errors import InputError
from recjax.report.page import make_page, write_report
from recjax.report.sections import (
    Bars,
    Case,
    Cases,
    Item,
    Lines,
    Table,
    Text,
    write_results,
)

VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page's elements and texts; an error where elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style" and data.strip():
            self.texts.append(data.strip())

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]

    def after(self, text, count=1):
        """The texts that follow one."""
        place = self.texts.index(text) + 1
        return self.texts[place : place + count]


CONFIG = {
    "config": {
        "system": "recommender",
        "data": {"source": "movielens", "store": "prepared/ml"},
        "model": {"name": "sasrec", "dim": 32, "layers": 2},
        "train": {"metric": "validation/full/ndcg@10", "epochs": 7.0, "mesh": [-1, 1, 1]},
    },
    "versions": {"jax": "0.10.2"},
    "git_commit": "abc",
}
NDCG, HR = "validation/full/ndcg@10", "validation/full/hr@10"
LINES = [
    {"step": 10, "loss": 0.5, "epoch": 1.0, NDCG: 0.25, HR: 0.5},
    {"step": 20, "loss": 0.25, "epoch": 2.0, NDCG: 0.125, HR: 0.5},
    {
        "step": 10,
        "final": True,
        "test/full/ndcg@10": 0.1875,
        "test/full/hr@10": 0.375,
        "test/full/hr@5": 0.25,
    },
]


def sections(text):
    """One of each kind, every text in it made by `text(name)`."""
    return [
        Text(text("title"), f"{text('first')}\n\n\n{text('second')}"),
        Table(text("table"), [text("column"), "n"], [[text("cell"), 1], ["x", None]], text("t")),
        Bars(
            text("bars"),
            [text("label"), "b"],
            {text("bar"): [0.5, 0.25], "s": [1, 0]},
            percent=True,
            note=text("b"),
        ),
        Lines(text("lines"), text("x"), text("y"), {text("line"): [(0, 1.0)], "s": []}, text("l")),
        Cases(
            text("cases"),
            [Case(text("case"), [Item(text("item"), "hit"), Item("b")], [Item(text("said"))])],
            text("c"),
        ),
    ]


SECTIONS = sections(str)


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "manifest.json").write_text(json.dumps({"counts": {"users": 943, "items": 1682}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def test_a_run(workdir):
    page = Page(make_page(workdir))
    assert page.after("recommender") == ["sasrec · my-run"]
    assert "943 users · 1,682 items · 20 steps" in page.texts
    assert page.after("Of the best checkpoint, step 10.", 9) == [
        "test/full", "@10", "@5", "ndcg", "0.1875", "–", "hr", "0.3750", "0.2500"  # noqa: RUF001
    ]  # fmt: skip
    assert "Dashed: step 10, the best checkpoint." in page.texts
    charts = [svg["aria-label"] for svg in page.all("svg", role="img")]
    assert charts == ["loss", "validation/full/ndcg@10", "validation/full/hr"]
    folded = page.texts.index("More curves")
    assert page.texts.index("validation/full/ndcg@10") < folded < page.texts.index("@10", folded)
    assert page.after("versions", 2) == ["jax", "0.10.2"]


def test_nothing_is_loaded_and_no_script_runs(workdir):
    write_results(workdir / "results.json", SECTIONS)
    text = make_page(workdir)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, attributes in page.elements:
        assert not {"src", "onload", "onclick", "xlink:href"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none';")
    assert (
        "url(" not in text
        and "@import" not in text
        and "http" not in text.replace("http-equiv", "")
    )


def test_all_text_is_escaped(workdir):
    given = []

    def evil(name):
        given.append(f"<script>{name}</script> & \"'")
        return given[-1] + "\x1b\u202e"

    write_results(workdir / "results.json", sections(evil))
    record = {"config": {"system": evil("system"), "model": {"name": evil("model")}}}
    record["config"] |= {evil("group"): {evil("key"): [evil("value")]}, evil("top"): evil("level")}
    record["versions"] = {evil("library"): evil("version")}
    (workdir / "config.json").write_text(json.dumps(record))
    manifest = {"counts": {evil("kind"): 3}, "files": [{evil("file"): evil("hash")}]}
    (workdir / "manifest.json").write_text(json.dumps(manifest))
    lines = [{"step": 1, evil("curve"): 0.5}, {"step": 1, "final": True, evil("test/full"): 0.5}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = make_page(workdir)
    assert "<script" not in text
    text.encode("utf-8")
    shown = " ".join(Page(text).texts)
    assert len(given) == 35 and given[-2].startswith("<script>curve")
    for name in given[-2:]:  # metrics are shown in parts, split at their slash
        head, _, last = name.rpartition("/")
        assert head in shown and last in shown
    del given[-2:]
    assert [name for name in given if name + "\ufffd\ufffd" not in shown] == []
    assert "&lt;" not in shown and "&amp;" not in shown  # nor escaped twice


def test_the_contents_lead_to_the_sections(workdir):
    write_results(workdir / "results.json", [*SECTIONS, Text("三国志", "a"), Text("三国志", "b")])
    page = Page(make_page(workdir))
    targets = [a["href"].removeprefix("#") for a in page.all("a")]
    assert len(targets) == len(set(targets)) == 9
    assert targets == [section["id"] for section in page.all("section")]


def test_what_differs_from_its_default_is_marked(workdir):
    page = Page(make_page(workdir))
    assert "what differs from its default is set in bold" in page.texts
    assert page.after("epochs", 2) == ["7.0", "default 200.0"]
    assert page.after("dim", 2) == ["32", "default 64"]
    assert page.after("layers", 2)[1] != "default 2" and page.after("mesh", 1) == ["-1, 1, 1"]
    config = CONFIG["config"] | {"system": "of another version"}
    (workdir / "config.json").write_text(json.dumps({"config": config}))
    page = Page(make_page(workdir))
    assert "what differs from its default is set in bold" not in page.texts
    assert page.after("epochs", 2)[0] == "7.0" and "default 200.0" not in page.texts


def test_the_marks_of_cases_need_no_colour(tmp_path):
    items = [Item("Fargo", "hit"), Item("Alien", "miss"), Item("Alein", "unknown"), Item("Scream")]
    cases = [Case("user 7", items, items[:1], True), Case("user 8", items[3:], [], False)]
    write_results(tmp_path / "results.json", [Cases("Cases", cases)])
    page = Page(make_page(tmp_path))
    assert page.after("user 7", 12) == [
        "✓ right", "History", "1 of 4 hit", "✓", "Fargo", "✗", "Alien", "?", "Alein", "Scream",
        "What the model said", "1 of 1 hit",
    ]  # fmt: skip
    assert page.after("user 8", 5) == [
        "✗ wrong", "History", "Scream", "What the model said", "Nothing."
    ]  # fmt: skip
    assert page.after("Cases", 6) == ["✓", "hit", "✗", "miss", "?", "unknown"]


def test_numbers_of_bars_stand_in_a_table_too(tmp_path):
    bars = Bars("B", ["a", "b"], {"s": [0.5263, None], "t": [1, 0.25]}, percent=True)
    write_results(tmp_path / "results.json", [bars])
    assert Page(make_page(tmp_path)).after("in per cent", 8) == [
        "s", "t", "a", "52.63", "100.0", "b", "–", "25.00"  # noqa: RUF001
    ]  # fmt: skip


def test_numbers_stand_at_the_right(tmp_path):
    rows = [["ml", 1682, 0.5], ["steam", None, None]]
    write_results(tmp_path / "results.json", [Table("T", ["data", "items", "x"], rows)])
    page = Page(make_page(tmp_path))
    assert [td.get("class") for td in page.all("td")] == [None, "n", "n"] * 2
    assert [th.get("class") for th in page.all("th")] == [None, "n", "n"]
    assert page.after("T", 9)[3:6] == ["ml", "1,682", "0.5000"]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (Table("t", ["a"], []), "The table has no rows."),
        (Cases("t", []), "There are no cases."),
        (Bars("t", [], {}), "There is no finite number to draw."),
        (Bars("t", ["a"], {}), "There is no finite number to draw."),
        (Lines("t", "x", "y", {}), "There is no finite number to draw."),
    ],
)
def test_an_empty_section_says_so(tmp_path, section, sentence):
    write_results(tmp_path / "results.json", [section])
    assert sentence in Page(make_page(tmp_path)).texts


def test_an_unfinished_run_shows_its_last_validation(workdir):
    line = LINES[0] | {"loss/residual/prompt0": 2.0}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 2')
    page = Page(make_page(workdir))
    assert not [th for th in page.texts if th == "prompt0" and "loss/residual" in page.texts[:9]]
    sentence = "The run has not ended; these are of its last validation, step 10."
    assert page.after(sentence, 3) == ["validation/full", "@10", "ndcg"]
    assert not [text for text in page.texts if text.startswith("Dashed")]


def test_goals_that_were_not_met_are_told(workdir):
    record = json.loads(json.dumps(CONFIG))
    record["config"]["train"]["goals"] = {NDCG: 0.2, HR: 0.4}
    (workdir / "config.json").write_text(json.dumps(record))
    for met in (True, False):
        lines = [*LINES[:2], LINES[2] | {"goals_met": met}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        note = (
            "Of the best checkpoint, step 10. Training ended at its cap before its goals held: "
            f"{NDCG} is 0.125, expected at least 0.2. Raise config.train.epochs and rerun the "
            "command to go on."
        )
        assert (note in Page(make_page(workdir)).texts) != met


def test_prompts_are_lines_of_one_chart(workdir):
    line = {"step": 10, "loss": 1.0, "loss/residual/prompt0": 2.0, "loss/residual/prompt1": 0.5}
    line |= {f"validation/residual/{k}/exact": 0.5 for k in ("prompt0", "prompt1", "worst")}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    charts = [svg["aria-label"] for svg in Page(make_page(workdir)).all("svg", role="img")]
    assert charts == ["loss", "loss/residual", "validation/residual/exact"]


def test_a_language_models_metrics_are_one_table(workdir):
    line = {"step": 8, "final": True, "test/text/loss": 0.5, "test/items/loss": 1.5}
    line["test/items/exact"] = float("nan")
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    page = Page(make_page(workdir))
    assert page.after("Of the best checkpoint, step 8.", 8) == [
        "loss", "exact", "test/text", "0.5000", "–", "test/items", "1.500", "nan"  # noqa: RUF001
    ]  # fmt: skip


def test_a_folder_with_results_alone(tmp_path):
    write_results(tmp_path / "results.json", SECTIONS[:1])
    page = Page(make_page(tmp_path))
    assert page.after("run") == [tmp_path.name]
    assert not page.all("details") and not page.all("nav")


def test_the_same_run_makes_the_same_bytes(workdir):
    write_results(workdir / "results.json", SECTIONS)
    first = write_report(workdir)
    assert first == workdir / "report.html"
    again = write_report(workdir, workdir.parent / "again.html")
    assert first.read_bytes() == again.read_bytes()
    assert not list(workdir.parent.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json: not a readable JSON file"),
        ("config.json", "[]", "config.json: expected a JSON object, got list"),
        ("manifest.json", "[]", "manifest.json: expected a JSON object, got list"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl:1: expected an object with a whole number as"),
        ("metrics.jsonl", '{"step": 1}\n{"loss": 1}\n', "metrics.jsonl:2: expected an object with"),
        ("results.json", '{"sections": [3]}', "results.json: sections[0]: expected an object"),
    ],
)
def test_a_damaged_file_is_named(workdir, name, text, message):
    (workdir / name).write_text(text)
    with pytest.raises(InputError) as error:
        write_report(workdir)
    assert message in str(error.value) and not (workdir / "report.html").exists()


def test_no_run(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="the folder of a language model; expected the workdir"):
        write_report(tmp_path / "model")
    with pytest.raises(InputError, match="no run; expected one of config.json, metrics.jsonl"):
        make_page(tmp_path)


def test_where_no_page_can_stand(workdir):
    with pytest.raises(InputError, match="--out .*metrics.jsonl: expected a name that ends in"):
        write_report(workdir, workdir / "metrics.jsonl")
    with pytest.raises(
        InputError, match="--out .*page.html: there is no folder .*gone; make it first"
    ):
        write_report(workdir, workdir / "gone" / "page.html")


def test_the_command(recjax, workdir):
    status, out, err = recjax("report", f"--workdir={workdir}", "--json")
    assert status == 0 and out == {"report": str(workdir / "report.html")}
    assert err == f"report: {workdir / 'report.html'}\n"
    status, out, err = recjax("report", f"--workdir={workdir / 'gone'}")
    assert status == 2 and err.startswith("recjax: ") and "no run" in err
    status, out, err = recjax("report", f"--workdir={workdir}", "--config.seed=1")
    assert status == 2 and "report takes no --config.KEY" in err


def test_the_command_knows_the_defaults_of_every_system(recjax, workdir):
    config = {"system": "interpreter", "recommender": "runs/sasrec", "llm": "runs/lm"}
    config["adapter"] = {"name": "linear", "soft": 3}
    (workdir / "config.json").write_text(json.dumps({"config": config}))
    assert recjax("report", f"--workdir={workdir}")[0] == 0
    page = Page((workdir / "report.html").read_text())
    assert page.after("interpreter") == ["linear · my-run"]
    assert page.after("soft", 2) == ["3", "default 1"]
