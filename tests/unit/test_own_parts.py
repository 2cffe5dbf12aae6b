"""A reader, a recommender and a system of one's own, by "package.module"."""

import pytest

from recjax.data.prepare import DataConfig, prepare, read_options
from recjax.errors import InputError
from recjax.models.recommender import read_config
from recjax.models.references import read_reference
from recjax.training.system import load_system
from recjax.training.workdir import build_config

MODULES = {
    "reader": """
import dataclasses
from recjax.data.interactions import LogBuilder

@dataclasses.dataclass(frozen=True)
class Options:
    mark: str = "|"

def files(path, options):
    return [path]

def read(path, options, bad):
    log = LogBuilder(timestamps=False, ratings=False)
    for line in path.read_text().splitlines():
        log.add(*line.split(options.mark))
    return log.build(), {}
""",
    "model": """
import dataclasses
from recjax.models import sasrec
from recjax.models.sasrec import PARAM_AXES, Recommender

@dataclasses.dataclass(frozen=True)
class Config(sasrec.Config):
    dim: int = 6
    heads: int = 1
""",
    "system": """
import dataclasses
from recjax.training import recommender

@dataclasses.dataclass(frozen=True)
class Config(recommender.RunConfig):
    system = "shop_parts.system"

SYSTEM = dataclasses.replace(recommender.SYSTEM, config=Config)
""",
    "broken": "1 / 0\n",
}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    folder = tmp_path / "shop_parts"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


def test_parts_of_ones_own(parts, tmp_path):
    (tmp_path / "log.txt").write_text("a;x\na;y\nb;x\nb;z\n")
    data = {"source": "shop_parts.reader", "path": str(tmp_path / "log.txt")}
    data |= {"store": str(tmp_path / "store"), "options": {"mark": ";"}}
    model = {"name": "shop_parts.model", "max_length": 4}
    section = {"system": "shop_parts.system", "data": data, "model": model}
    config = build_config(section)
    store = prepare(config.data)
    assert store.user_keys == ["a", "b"] and store.items.tolist() == [1, 2, 1, 3]
    assert config.system == "shop_parts.system" and load_system(config.system).config is type(
        config
    )
    assert read_config(config.model)[1].dim == 6
    run = load_system(config.system).run(config, store)
    assert run.model.shapes["items/embedding"].shape == (4, 6)


def test_what_is_no_such_part_is_told(parts):
    for call, message in (
        (
            lambda: read_options(DataConfig("shop_parts.none", "x")),
            "config.data.source: cannot imp",
        ),
        (lambda: read_options(DataConfig("shop_parts.model", "x")), "lacks Options, files, read"),
        (
            lambda: read_config({"name": "shop_parts.reader"}),
            "lacks Config, PARAM_AXES, Recommende",
        ),
        (lambda: read_reference({"name": "shop_parts.reader"}), "lacks Config, needed, fit, score"),
        (lambda: load_system("shop_parts.model"), "config.system: module .* lacks SYSTEM"),
        (lambda: load_system("shop_parts.broken"), r"cannot import .*ZeroDivisionError: division"),
    ):
        with pytest.raises(InputError, match=message):
            call()
