"""A small catalogue with a tokenizer that knows GLM's command tokens."""

import numpy as np
import pytest

from recjax.recsysllm.blanks import sentence_ends
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.passages import PieceEncoder
from recjax.recsysllm.spans import Marks
from recjax.text.tokenizers import load_tokenizer

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
