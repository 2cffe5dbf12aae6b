"""Guides: their commands parse, their configs take their keys, their links lead somewhere."""

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
    *(path for path in sorted(ROOT.glob("[!.]*/**/README.md")) if "data" not in path.parts[-3:]),
]
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
            line = VARIABLES.sub(lambda found: values.get(found[1], found[0]), line)
            words = shlex.split(line, comments=True)
            if "recjax" in words[:2]:
                yield words[words.index("recjax") + 1 :]


COMMANDS = [
    pytest.param(words, id=f"{path.parent.relative_to(ROOT)}-{k}-{words[0]}")
    for path in GUIDES
    for k, words in enumerate(commands(path))
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    args, unknown = make_parser(runs()).parse_known_args(words)
    overrides = read_overrides(unknown)  # an unknown flag is an error
    if getattr(args, "config", None):
        config, changes = load_config(args.config, overrides, complete)
        assert len(changes) <= len(overrides) and build_config(config)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            assert (path.parent / target.partition("#")[0]).exists(), target
    for target in re.findall(r"`((?:configs|recjax|scripts|tests)/[\w/.-]+)`", text):
        assert "FOLDER/" in target or (ROOT / target).exists(), target


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert len(COMMANDS) > 30
