"""One self-contained HTML page of a run: `recjax report`.

The page reads a workdir alone, of any system: config.json, manifest.json, metrics.jsonl and
results.json (see `recjax.report.sections`), whichever are there. It loads nothing, runs no script,
and is the same bytes for the same workdir.
"""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from recjax.errors import InputError
from recjax.out_files import check_out
from recjax.replace import write_text
from recjax.report.html import block, figure, fold, section_html, settings, slug, table
from recjax.report.markup import Html, element, join
from recjax.report.numbers import format_number
from recjax.report.plots import line_chart
from recjax.report.sections import Section, read_results
from recjax.systems import SYSTEMS
from recjax.training.checkpoint import read_json
from recjax.training.criteria import unmet
from recjax.training.metrics import group_metrics, read_metrics
from recjax.training.system import load_system
from recjax.training.workdir import complete

_FILES = ("config.json", "metrics.jsonl", "results.json")
# Nothing is loaded, no script runs, whatever a title says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a run.

    Args:
        workdir: the run's folder.
        out: the page; WORKDIR/report.html where None.

    Returns:
        Where it stands.

    Raises:
        InputError: no run there, or naming the file and key that cannot be read, or a page that
            cannot be written; another file stands there.
    """
    workdir = Path(workdir)
    out = workdir / "report.html" if out is None else Path(out)
    page = make_page(workdir)
    check_out(out, (".html", ".htm"), overwrite=True, ours=_is_page)
    write_text(out, page)
    return out


def _is_page(path: Path) -> bool:
    """Whether `write_report` wrote a file."""
    try:
        with path.open("rb") as file:
            return str(_policy()).encode() in file.read(1000)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def make_page(workdir: Path) -> str:
    """The page of a run as text; see `write_report`."""
    if not any((workdir / name).exists() for name in _FILES):
        raise InputError(f"{workdir}: no run; expected one of {', '.join(_FILES)} in it")
    record = _read(workdir / "config.json", "the run's config")
    if "config" not in record and {"model_type", "architectures"} & record.keys():
        raise InputError(
            f"{workdir}: the folder of a language model; expected the workdir of a run"
        )
    manifest = _read(workdir / "manifest.json", "the data's manifest")
    lines = read_metrics(workdir / "metrics.jsonl")
    results: tuple[Section, ...] = ()
    if (workdir / "results.json").exists():
        results = read_results(workdir / "results.json")
    config = record.get("config")
    config = config if isinstance(config, dict) else {}
    name = workdir.resolve().name
    title = " · ".join(filter(None, (_model(config), name)))
    parts = [element("header", *_heading(title, config, manifest, lines))]
    parts += [_settings(record), _manifest(manifest)]
    goals = _section(_section(config, "train"), "goals")
    blocks = [
        *_final_metrics(lines, goals),
        *_curves(lines, str(_section(config, "train").get("metric"))),
    ]
    blocks += [(section.title, section_html(section)) for section in results]
    ids = [slug(heading, number) for number, (heading, _) in enumerate(blocks, start=1)]
    if len(blocks) > 2:
        links = [element("a", to, href=f"#{id}") for (to, _), id in zip(blocks, ids, strict=True)]
        items = [element("li", link) for link in links]
        parts.append(element("nav", element("ul", *items), aria_label="On this page"))
    parts += [block(*content, id=id) for content, id in zip(blocks, ids, strict=True)]
    return _document(title, element("main", *parts))


def _policy() -> Html:
    """The tag that every page has, and hardly another one."""
    return element("meta", http_equiv="Content-Security-Policy", content=_POLICY)


def _document(title: str, body: Html) -> str:
    style = resources.files("recjax.report").joinpath("page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        _policy(),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    return join(
        Html("<!doctype html>\n"), element("html", head, element("body", body), lang="en"), "\n"
    )


def _model(config: Mapping[str, Any]) -> str:
    """The name of what was trained; "" where it has none, or the system is not known here."""
    system = config.get("system", "recommender")
    learns = load_system(system).learns if isinstance(system, str) and system in SYSTEMS else ""
    name = _section(config, learns).get("name")
    return name if isinstance(name, str) else ""


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _heading(
    title: str,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    lines: list[dict[str, Any]],
) -> list[Html]:
    system = config.get("system")
    above = system.replace("_", " ") if isinstance(system, str) else "run"
    counts = _section(manifest, "counts").items()
    facts = [f"{format_number(n)} {what}" for what, n in counts if isinstance(n, int)]
    if lines:
        facts.append(f"{format_number(max(line['step'] for line in lines))} steps")
    parts = [element("p", above, class_="above"), element("h1", title)]
    return [*parts, element("p", " · ".join(facts), class_="facts")] if facts else parts


def _defaults(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config with its sections at their defaults, but the data's and the model's name; None
    for a system that is not known here, and for a config of another version."""
    given = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    if "data" in config:
        given["data"] = config["data"]
    if "model" in config:
        given["model"] = {"name": _section(config, "model").get("name")}
    try:
        return complete(given)
    except ValueError:  # InputError too
        return None


def _settings(record: Mapping[str, Any]) -> Html:
    config = record.get("config")
    if not isinstance(config, Mapping):
        return fold("Settings", settings(record)) if record else Html("")
    defaults = json.loads(json.dumps(_defaults(config)))  # tuples are lists there, as in config
    others = {key: value for key, value in record.items() if key != "config"}
    note = "what differs from its default is set in bold" if defaults else ""
    parts = [fold("Settings", settings(config, defaults), note=note)]
    return join(*parts, fold("Versions", settings(others)) if others else "")


def _manifest(manifest: Mapping[str, Any]) -> Html:
    return fold("Data", settings(manifest)) if manifest else Html("")


def _final_metrics(lines: list[dict[str, Any]], goals: Mapping[str, Any]) -> list[tuple[str, Html]]:
    """The final line's metrics; of a run that has not ended, those of its last validation."""
    final = [line for line in lines if line.get("final")]
    for line in reversed(final or lines):
        part = "" if final else "validation/"  # a loss of a part of the training is none of them
        values = {k: v for k, v in line.items() if "/" in k and k.startswith(part)}
        values = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        if values:
            break
    else:
        return []
    step = format_number(line["step"])
    said = f"Of the best checkpoint, step {step}."
    if not final:
        said = f"The run has not ended; these are of its last validation, step {step}."
    elif final[-1].get("goals_met") is False:
        said += f" Training ended at its cap before its goals held: {_missed(lines, goals)}. Raise "
        said += "config.train.epochs and rerun the command to go on."
    groups = group_metrics(values)
    cutoffs = {k for rows in groups.values() for row in rows.values() for k in row}
    if cutoffs <= {""}:  # protocols have few metrics each: one table
        names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
        rows = [[head, *(row.get(n, {}).get("") for n in names)] for head, row in groups.items()]
        tables = [table(["", *names], rows)]
    else:
        tables = []
        for head, group in groups.items():
            ks = list(dict.fromkeys(k for row in group.values() for k in row))
            rows = [[name, *(row.get(k) for k in ks)] for name, row in group.items()]
            tables.append(table([head, *(f"@{k}" if k else "" for k in ks)], rows))
    return [("Metrics", join(element("p", said, class_="note"), *tables))]


def _missed(lines: list[dict[str, Any]], goals: Mapping[str, Any]) -> str:
    """The goals that the last validation did not meet."""
    last: dict[str, Any] = next((line for line in reversed(lines) if not line.get("final")), {})
    return "; ".join(unmet({k: v for k, v in goals.items() if k in last}, last))


# One chart for all prompts: NAME/prompt0/MEASURE, and the training loss of loss/TASK/prompt0.
_BY_PROMPT = re.compile(r"(?P<of>.+)/(?P<prompt>prompt\d+|worst)(?:/(?P<measure>[^/]+))?")


def _curves(lines: list[dict[str, Any]], metric: str) -> list[tuple[str, Html]]:
    """Loss and validation metric; the other numbers folded, the cutoffs of one in one chart."""
    training = [line for line in lines if not line.get("final")]
    final = next((line["step"] for line in lines if line.get("final")), None)
    series: dict[str, list[tuple[Any, Any]]] = {}
    for line in training:
        for key, value in line.items():
            if key not in ("step", "epoch") and not isinstance(value, (str, bool)):
                series.setdefault(key, []).append((line["step"], value))
    if not series:
        return []
    charts = {key: {key: series[key]} for key in ("loss", metric) if key in series}
    others: dict[str, dict[str, list[tuple[Any, Any]]]] = {}
    for key, points in series.items():
        head, _, last = key.rpartition("/")
        name, cut, cutoff = key.partition("@")
        chart, label = (name, f"@{cutoff}") if cut else (last, head or key)
        if prompt := _BY_PROMPT.fullmatch(key):
            chart, label = "/".join(filter(None, prompt.group("of", "measure"))), prompt["prompt"]
        others.setdefault(chart, {})[label] = points
    caption = ""
    if final is not None:
        caption = f"Dashed: step {format_number(final)}, the best checkpoint."
    shown = [figure(line_chart(key, "step", key, chart, at=final)) for key, chart in charts.items()]
    repeated = [points for chart in charts.values() for points in chart.values()]
    hidden = [
        figure(line_chart(key, "step", key, chart))
        for key, chart in others.items()
        if not (len(chart) == 1 and next(iter(chart.values())) in repeated)
    ]
    grid = element("div", *shown, class_="charts")
    more = element("div", *hidden, class_="charts")
    content = [grid, element("p", caption, class_="note") if caption else ""] if shown else []
    if hidden:
        content.append(fold("More curves", more, open=not shown))
    return [("Training", join(*content))]


def _read(path: Path, what: str) -> dict[str, Any]:
    return read_json(path, what) if path.exists() else {}
