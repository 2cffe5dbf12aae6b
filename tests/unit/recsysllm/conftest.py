"""A small catalogue with a tokenizer that knows the command tokens; a run of all families."""

import json

import numpy as np
import pytest

from recjax.config import build
from recjax.data.prepare import DataConfig, prepare
from recjax.data.simulate import SimulateConfig, simulate, write_raw
from recjax.recsysllm.blanks import sentence_ends
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.passages import PieceEncoder
from recjax.recsysllm.run import BlankRun
from recjax.recsysllm.settings import BlankRunConfig
from recjax.recsysllm.spans import Marks
from recjax.text.tokenizers import load_tokenizer
from recjax.training.workdir import open_run

# "Alien" is the beginning of another title, "Heat" names two films, one title is a sentence.
TITLES = ["", "Alien", "Heat", "Alien Resurrection", "What About Bob?", "Heat", "Dune", "Big"]
NAMES = ["[CLS]", "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>"]
NAMES += ["[MASK]", "[sMASK]", "[gMASK]", "[dBLOCK]"]


@pytest.fixture(scope="session")
def glm_tokenizer(tmp_path_factory):
    """A byte-level BPE whose vocabulary ends with the command tokens."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Engine

    from recjax.text.bpe import train_bpe

    folder = tmp_path_factory.mktemp("glm-tokenizer")
    corpus = [f"This user has watched {title}." for title in TITLES[1:]] * 3
    train_bpe(corpus, 285).save(folder / "plain")
    engine = Engine.from_file(str(folder / "plain" / "tokenizer.json"))
    engine.add_special_tokens([AddedToken(name, special=True) for name in NAMES])
    engine.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def marks(glm_tokenizer):
    return Marks.of(glm_tokenizer)


@pytest.fixture(scope="session")
def encoder(glm_tokenizer):
    return PieceEncoder(glm_tokenizer)


@pytest.fixture(scope="session")
def pool(encoder, marks):
    return Names(TITLES).pool(encoder, marks, 64)


@pytest.fixture(scope="session")
def ends(glm_tokenizer):
    return sentence_ends(glm_tokenizer, glm_tokenizer.size)


@pytest.fixture(scope="session")
def runs():
    """Items of three users, seven interactions each."""
    rng = np.random.default_rng(0)
    items = np.concatenate([1 + rng.permutation(7) for _ in range(3)]).astype(np.int32)
    return items, np.array([0, 7, 14, 21])


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Few items; two have one title."""
    config = SimulateConfig(users=40, items=30, mean_length=7, max_length=10)
    log, catalog = simulate(config)
    keys = list(catalog)
    catalog[keys[1]]["title"] = catalog[keys[0]]["title"]
    folder = tmp_path_factory.mktemp("answers")
    write_raw(log, catalog, folder / "raw")
    options = {"file": "interactions.csv", "rating": "rating", "items": "items.jsonl"}
    data = {"source": "table", "path": str(folder / "raw"), "store": str(folder / "store")}
    return prepare(build(DataConfig, {**data, "options": options}, "config.data"))


@pytest.fixture(scope="session")
def reviews(store, tmp_path_factory):
    """A review of every interaction, in ten sentences that ratings go with."""
    file = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    lines = []
    for user, key in enumerate(store.user_keys):
        for place in range(store.offsets[user], store.offsets[user + 1]):
            record = store.catalog[store.items[place]]
            words = ("sturdy", "boring", "funny", "gloomy", "clever", "dated")
            body = f"It is a {words[place % 6]} book indeed. More."
            lines.append({"user": key, "item": record["key"], "text": body, "headline": body[5:12]})
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture(scope="session")
def section(store, reviews):
    options = {"file": "interactions.csv", "rating": "rating", "items": "items.jsonl"}
    raw = store.path.parent / "raw"
    data = {"source": "table", "path": str(raw), "store": str(store.path), "options": options}

    def section(**text):
        return {
            "data": data,
            "model": {
                "name": "glm", "dim": 32, "mlp_dim": 128, "layers": 1, "heads": 2, "kv_heads": 2,
                "head_dim": 16, "max_length": 160, "tied": True,
            },
            "tokenizer": {"vocab_size": 500},
            "text": {
                "source": "tasks",
                "behaviour": {"domain": "book"},
                "tasks": {
                    "rating": 1.0, "explanation": 1.0, "review": 1.0, "direct": 1.0,
                    "candidates": 5, "history": 4, "reviews": str(reviews),
                },
                "answers": {"max_examples": 6, "free": 3, "beams": 4, "batch_size": 6, "tokens": 8},
                **text,
            },
            "blanks": {"shuffle": False},
            "optim": {"learning_rate": 3e-3},
            "train": {"batch_size": 32, "epochs": 0.3},
            "evaluation": {"max_examples": 8},
        }  # fmt: skip

    return section


@pytest.fixture(scope="session")
def trained(section, tmp_path_factory):
    from recjax.api import train

    workdir = tmp_path_factory.mktemp("run") / "run"
    rest = "hr@5 and ndcg@5, hr@10 and ndcg@10"
    lists = rf"answers.beams: 4 beams find no longer lists; {rest} of lists are left .* least 10 "
    rest = "hr@10 and ndcg@10"
    choices = rf"tasks.candidates: 5 are never ranked lower; {rest} of choices are .* least 10 "
    with (  # before the first step
        pytest.warns(UserWarning, match=lists),
        pytest.warns(UserWarning, match=choices),
    ):
        result = train({"system": "recsysllm", **section()}, workdir)
    return open_run(workdir), result


@pytest.fixture(scope="session")
def untrained(section, store):
    return BlankRun(build(BlankRunConfig, section(), "config"), store)
