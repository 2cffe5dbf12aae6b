"""A tiny frozen language model with its tokenizer, and recommenders to interpret."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.interpreter.adapters import Config as AdapterConfig
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.questions import AskConfig
from recjax.llm_folders import load_llm
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.text.bpe import train_bpe
from recjax.text.prompts import WORDS, question
from recjax.text.tasks import RECOVERY, RESIDUAL
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config, start_run

# By item id; two have one title, and one has the words after an answer's titles.
TITLES = ["", "Alien", "The Omen", "Brazil", "Cat People", "Dune", "Alien", "Paris, Texas",
          "Up in List2 but not in List1"]  # fmt: skip
DIM, LENGTH, EMBED = 6, 4, 64  # wide enough that a vector can steer it


@pytest.fixture(scope="session")
def titles():
    return TITLES


def write_llm(folder, tokenizer, seed=0):
    """A random model and its tokenizer as a Hugging Face folder."""
    config = Config(
        vocab_size=tokenizer.size, dim=EMBED, mlp_dim=96, layers=2, heads=4, kv_heads=2,
        head_dim=16, max_length=192, init_std=0.3,
    )  # fmt: skip
    params = params_of(Llama(config, rngs=nnx.Rngs(seed)))
    write_language_model(folder, language_model(config, params))
    if tokenizer.eos_id is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    texts = [question(p, WORDS["book"]) for p in RESIDUAL.prompts + RECOVERY.prompts]
    return train_bpe([*(f" {title}" for title in TITLES), *texts] * 2, 400)


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory, tokenizer):
    return write_llm(tmp_path_factory.mktemp("llm") / "hf", tokenizer)


@pytest.fixture(scope="session")
def other_llm_folder(tmp_path_factory, tokenizer):
    """Of the same sizes, with other weights."""
    return write_llm(tmp_path_factory.mktemp("llm") / "other", tokenizer, seed=1)


@pytest.fixture(scope="session")
def llm(llm_folder):
    return load_llm(llm_folder)


@pytest.fixture
def make_bridge(llm):
    """`make_bridge(ask fields, adapter fields) -> Bridge` of states [4 6]."""

    def make(ask=None, adapter=None, llm=llm, length=LENGTH):
        ask = {"domain": "book", "window": 4, "residual_tokens": 24, "recovery_tokens": 40} | (
            ask or {}
        )
        config = AdapterConfig(**{"soft": 2} | (adapter or {}))
        return Bridge(llm, AskConfig(**ask), config, length, DIM)

    return make


@pytest.fixture
def states():
    """`states(rows, seed) -> [rows 4 6]`."""

    def make(rows, seed=0):
        rng = np.random.default_rng(seed)
        return jnp.asarray(rng.normal(1.0, 2.0, (rows, LENGTH, DIM)), jnp.float32)

    return make


def recommender(store, name, split="chronological_sequences", seed=0, **model):
    """The config of a tiny recommender."""
    return build_config(
        {
            "data": {
                "source": "simulated",
                "store": str(store.path),
                "options": {"users": 120, "mean_length": 10.0, "max_length": 30},
            },
            "model": {"name": name, "dim": 8, "max_length": 6, **model},
            "split": {"name": split},
            "objective": {"name": "softmax"},
            "seed": seed,
            "train": {"batch_size": 64, "epochs": 1.0, "steps_per_call": 1},
            "evaluation": {"protocols": ("full",)},
        }
    )


@pytest.fixture(scope="session")
def recommender_config(sample_store):
    """`recommender_config(name, **model)`."""
    return functools.partial(recommender, sample_store)


@pytest.fixture(scope="session")
def untrained(sample_store, recommender_config):
    """`untrained(name, **model)`: the run of a recommender, without a folder."""
    return lambda name, **options: RecommenderRun(recommender_config(name, **options), sample_store)


@pytest.fixture(scope="session")
def trained(recommender_config, tmp_path_factory):
    """`trained(name, **model) -> workdir` of a recommender after an epoch, once a session."""
    folders = {}

    def train(name, **options):
        key = (name, *sorted(options.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(name) / "run"
            start_run(recommender_config(name, **options), folders[key]).train()
        return folders[key]

    return train


DREAMREC = {"steps": 20, "schedule": "cosine", "sampler": "ddim", "sampler_steps": 3}


@pytest.fixture(scope="session")
def interpreter_section(trained, llm_folder):
    """`interpreter_section(**changes)`: four steps over a DreamRec, measured after the 2nd."""

    def make(**changes):
        return {
            "system": "interpreter",
            "recommender": str(trained("dreamrec", **DREAMREC)),
            "llm": str(llm_folder),
            "ask": {"domain": "book", "window": 5, "residual_tokens": 8, "recovery_tokens": 8,
                    "recovery": 1.0},
            "adapter": {"soft": 1},
            "train": {"batch_size": 64, "epochs": 0.34, "evaluate_every": 0.17},
            "evaluation": {"max_examples": 5},
        } | changes  # fmt: skip

    return make


@pytest.fixture(scope="session")
def finished(interpreter_section, tmp_path_factory):
    """The workdir of a run that has ended, and its final line."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, start_run(build_config(interpreter_section()), workdir).train()
