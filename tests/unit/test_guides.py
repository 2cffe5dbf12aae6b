"""Guides and docstrings: commands parse, configs take their keys, links lead somewhere."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from recjax.cli import runs
from recjax.config import load_config
from recjax.flags import make_parser, read_overrides
from recjax.training.workdir import build_config, complete

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [
    ROOT / "README.md",
    *(p for p in sorted(ROOT.glob("[!.]*/**/README.md")) if ROOT / "tests/data" not in p.parents),
]
RESULTS = [ROOT / "configs" / "RESULTS.md", *sorted(ROOT.glob("configs/results/*.md"))]
DOCSTRINGS = sorted([*ROOT.glob("configs/**/*.py"), *ROOT.glob("scripts/**/*.py")])
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
PREFIXED = re.compile(r'"\$\{(\w+)\[@\]/#/([^}]*)\}"')
VARIABLES = re.compile(r'"?\$\{?(\w+)(?:\[@\])?\}?"?')


def commands(path):
    """The words of every `recjax` command in a guide's shell blocks."""
    text = path.read_text(encoding="utf-8")
    values = {}
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        block = block.replace("\\\n", " ")
        for name, array, word in re.findall(r"^(\w+)=(?:\(([^)]*)\)|(\S+))$", block, re.MULTILINE):
            values[name] = array or word
        for line in block.splitlines():
            line = PREFIXED.sub(
                lambda found: " ".join(found[2] + word for word in values[found[1]].split()), line
            )
            line = VARIABLES.sub(lambda found: values.get(found[1], found[0]), line)
            words = shlex.split(line, comments=True)
            if "recjax" in words[:2]:
                yield words[words.index("recjax") + 1 :]


COMMANDS = [
    pytest.param(words, id=f"{path.parent.relative_to(ROOT)}-{k}-{words[0]}")
    for path in GUIDES
    for k, words in enumerate(commands(path))
]


def lines_of(path):
    """The lines of a guide's shell blocks, or of the docstring at the head of a Python file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    else:
        text = ast.get_docstring(ast.parse(text)) or ""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines()]


COMMANDS += [
    pytest.param(shlex.split(line)[1:], id=f"{path.relative_to(ROOT)}-{k}")
    for path in DOCSTRINGS
    for k, line in enumerate(lines_of(path))
    if line.startswith("recjax ")
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    args, unknown = make_parser(runs()).parse_known_args(words)
    overrides = read_overrides(unknown)  # an unknown flag is an error
    if getattr(args, "config", None):
        config, changes = load_config(args.config, overrides, complete)
        assert len(changes) <= len(overrides) and build_config(config)


def test_scripts_and_flags_that_are_named_exist():
    (commands,) = (a.choices for a in make_parser(runs())._actions if isinstance(a.choices, dict))
    known = {flag for command in commands.values() for flag in command._option_string_actions}
    sources = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/**/*.*y")}
    flags = {path: set(re.findall(r'"(--[a-z][\w-]*)"', text)) for path, text in sources.items()}
    others = {"--norm_first", "--durations", "--nodes"}  # of PyTorch's SASRec, pytest, Slurm
    known = known.union(others, *flags.values())
    shared = flags[ROOT / "scripts" / "_bench.py"]
    wrong = []
    for path in [*GUIDES, *DOCSTRINGS]:
        for line in lines_of(path):
            script = re.match(r"python (scripts/\S+\.py)", line)
            if script and ROOT / script[1] not in flags:
                wrong.append((path.name, script[1]))
            elif script:
                own = flags[ROOT / script[1]] | shared | {"--config"}
                wrong += [(path.name, flag) for flag in {*FLAG.findall(line)} - own]
        text = path.read_text(encoding="utf-8")
        text = text if path.suffix == ".md" else ast.get_docstring(ast.parse(text)) or ""
        wrong += [(path.name, flag) for flag in {*FLAG.findall(text)} - known]
    assert wrong == []


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_snippets_import_names_that_exist(path):
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("recjax"):
                for name in node.names:
                    assert hasattr(importlib.import_module(node.module), name.name) or (
                        importlib.import_module(f"{node.module}.{name.name}")
                    )


def anchors(path):
    """The anchors of a page's headings, as GitHub writes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", [*GUIDES, *RESULTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target
    for target in re.findall(r"`((?:configs|recjax|scripts|tests)/[\w/.-]+)`", text):
        assert "FOLDER/" in target or (ROOT / target).exists(), target


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert len(COMMANDS) > 30
