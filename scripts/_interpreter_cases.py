"""The cases of `bench_interpreter.py`: language models, and states with their histories."""

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _bench import llama_tokenizer, make_params, preset, write_config_alone

WINDOW, LENGTH, WIDTH = 10, 10, 256  # L and D of the recommender
CATALOGUE = "catalogue"  # the size of the model of configs/llm/catalogue.py


def histories(folder: Path) -> tuple[list[str], Any]:
    """Titles by item id, and the windows of all sequences."""
    from recjax.data.prepare import DataConfig, prepare, resolve
    from recjax.data.splits import Spans
    from recjax.errors import InputError
    from recjax.frozen import windows_of
    from recjax.text.prompts import WORDS
    from recjax.text.textualize import item_titles

    store = str(folder / "store")
    try:
        resolve("ml-100k")
        config = DataConfig(source="movielens", path="ml-100k", store=store)
    except InputError:
        print("no ml-100k below RECJAX_DATA: simulated titles")
        config = DataConfig(source="simulated", store=store)
    data = prepare(config)
    users = np.arange(len(data.offsets) - 1)
    spans = Spans(users, data.offsets[:-1], data.offsets[1:])
    windows = windows_of(np.asarray(data.items), spans, WINDOW, newest=False)
    return item_titles(data.catalog, WORDS["movie"]), windows


def make_model(name: str, args: argparse.Namespace, titles: list[str], folder: Path) -> Any:
    """A language model, and its folder `model` for the peer."""
    from recjax.llm import LanguageModel
    from recjax.models.definition import define
    from recjax.models.llama import PRESETS, Config, Llama
    from recjax.text.bpe import train_bpe
    from recjax.text.prompts import WORDS, answer, question
    from recjax.text.tasks import RECOVERY, RESIDUAL
    from recjax.text.tokenizers import load_tokenizer

    small = Config(
        vocab_size=3000, dim=512, mlp_dim=1024, layers=2, heads=4, kv_heads=4, head_dim=64,
        max_length=256, tied=True,
    )  # fmt: skip
    config = small if name == CATALOGUE else preset(name, PRESETS)
    words = WORDS["movie"]
    texts = [question(p, words) for p in RESIDUAL.prompts + RECOVERY.prompts]
    texts += [answer(p, words, ["A", "B"]) for p in RESIDUAL.prompts + RECOVERY.prompts]
    published = llama_tokenizer() if name != CATALOGUE else None
    tokenizer = load_tokenizer(published) if published else train_bpe(titles + texts * 5, 3000)
    params = make_params(config, args.dtype)
    definition = define(lambda rngs: Llama(config, rngs=rngs))
    llm = LanguageModel(definition, params, config, tokenizer=tokenizer)
    if args.device == "cpu":
        llm.save(folder / "model")
    else:
        write_config_alone(config, folder / "model")
    if published:  # the file alone: Transformers makes the rest of it
        shutil.copy(published / "tokenizer.model", folder / "model")
    else:
        tokenizer.save(folder / "model")
    return llm


@dataclasses.dataclass(frozen=True)
class Case:
    """The models and data of one task's measurement."""

    bridge: Any  # adapter, language model and questions
    examples: Any  # `States`
    titles: list[str]  # by item id
    adapter: Any | None = None  # its parameters; None: as training begins


def random_cases(llm: Any, titles: list[str], windows: Any, count: int) -> dict[str, Case]:
    """Random states, and the histories of a data set."""
    from recjax.interpreter.adapters import Config
    from recjax.interpreter.bridge import Bridge
    from recjax.interpreter.examples import States
    from recjax.interpreter.questions import TASKS, AskConfig

    rng = np.random.default_rng(0)
    chosen = windows[rng.choice(len(windows), count, replace=False)]
    before, after = rng.standard_normal((2, count, LENGTH, WIDTH)).astype(np.float32)
    added = [titles[item] for item in chosen.newest]
    seen = [[titles[item] for item in row if item] for row in chosen.ids()]
    bridge = Bridge(llm, AskConfig(recovery=1.0), Config(), LENGTH, WIDTH)
    return dict.fromkeys(TASKS, Case(bridge, States(before, after, added, seen), titles))


def trained_cases(workdirs: Sequence[str], count: int, folder: Path) -> dict[str, Case]:
    """Interpreters, and validation histories; their language model goes to `folder/model`."""
    from recjax.errors import InputError
    from recjax.interpreter.examples import States
    from recjax.interpreter.workdirs import open_interpreter
    from recjax.text.tasks import RECOVERY, RESIDUAL

    cases = {}
    for task, workdir in zip((RESIDUAL, RECOVERY), workdirs, strict=True):
        run = open_interpreter(workdir)
        try:
            run.bridge.questions.config.check_trained(task)
        except InputError as error:
            raise SystemExit(f"--runs: {workdir}: {error}") from None
        windows = run.windows("validation", newest=False)
        if len(windows) < count:
            raise SystemExit(f"--answers, --steps: {workdir} has {len(windows)} validation windows")
        rows = np.random.default_rng(0).choice(len(windows), count, replace=False)
        histories, every = run.histories(windows[np.sort(rows)]), np.arange(count)
        before, after = np.moveaxis(np.asarray(histories.states(every, (1, 0))), 1, 0)
        added = [one for (one,) in histories.titles(every)]
        seen = [row[::-1] for row in histories.titles(every, lists=True)]
        examples = States(before, after, added, seen)
        cases[task.name] = Case(run.bridge, examples, run.names, run.restore(run.best_step()))
    one, other = (case.bridge for case in cases.values())
    if one.llm.folder.resolve() != other.llm.folder.resolve():
        raise SystemExit("--runs: expected two interpreters over one language model")
    if {one.config.name, other.config.name} != {"linear"}:
        raise SystemExit("--runs: expected linear adapters, which the peer has")
    shutil.copytree(one.llm.folder, folder / "model")
    return cases
