"""Every family of language models against the contract; a new one joins by a line in CASES."""

import dataclasses

import pytest

from recjax.errors import InputError
from recjax.interpreter.bridge import Bridge
from recjax.llm import LanguageModel
from recjax.models import chatglm, glm, glm4, gpt2, language, llama, qwen3, t5
from recjax.models.definition import define
from recjax.nn.positions import RopeScaling
from recjax.scoring.form_tokens import Form
from recjax.scoring.forms import FormFiller
from recjax.scoring.options import OptionScorer
from recjax.testing import language_contracts, two_way
from recjax.text.bpe import train_bpe
from recjax.training.new_model import read_model
from recjax.training.plan import find_config

LLAMA = llama.Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=3, heads=4, kv_heads=2, head_dim=6, init_std=0.4
)
TWO_WAY = two_way.Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=2, heads=4, kv_heads=2, head_dim=8, init_std=0.4
)
GLM = glm.Config(
    vocab_size=23, dim=12, mlp_dim=48, layers=2, heads=2, kv_heads=2, head_dim=6, max_length=64,
    init_std=0.4,
)  # fmt: skip
CHATGLM = chatglm.Config(
    vocab_size=23, dim=16, mlp_dim=24, layers=2, heads=2, kv_heads=2, head_dim=8, max_length=64,
    init_std=0.4,
)  # fmt: skip
QWEN3 = qwen3.Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=3, heads=4, kv_heads=2, head_dim=6, init_std=0.4,
    max_length=64, tied=True, attention_bias=True,
)  # fmt: skip
GLM4 = glm4.Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=3, heads=4, kv_heads=2, head_dim=8, init_std=0.4,
    max_length=64, post_norms=True,
)  # fmt: skip
GPT2 = gpt2.Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=3, heads=2, kv_heads=2, head_dim=6, init_std=0.4,
    max_length=64,
)  # fmt: skip
T5 = t5.Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=2, encoder_layers=3, heads=2, kv_heads=2, head_dim=8,
    buckets=8, max_distance=16, gated=True, tied=False,
)  # fmt: skip
CASES = {
    "llama": LLAMA,
    "llama-mha-tied": dataclasses.replace(LLAMA, kv_heads=4, tied=True),
    "llama-mqa-scaled": dataclasses.replace(
        LLAMA, kv_heads=1, rope_scaling=RopeScaling(4.0, 1.0, 4.0, 16)
    ),
    "glm": GLM,
    "chatglm": CHATGLM,
    "qwen3": QWEN3,
    "glm4": GLM4,
    "gpt2": GPT2,
    "t5": T5,
    "two_way": TWO_WAY,
    "two_way-tied": dataclasses.replace(TWO_WAY, kv_heads=4, tied=True),
}


@pytest.fixture(autouse=True)
def second_family(monkeypatch):
    monkeypatch.setitem(language.FAMILIES, "two_way", two_way.FAMILY)


@pytest.mark.parametrize(
    "assertion",
    [
        getattr(language_contracts, name)
        for name in dir(language_contracts)
        if name.startswith("assert_")
    ],
    ids=lambda f: f.__name__.removeprefix("assert_"),
)
# Below the other: all assertions of a config stand side by side, in one worker.
@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_contract(assertion, config):
    assertion(config)


def test_all_families_are_here():
    assert {language.family_for(config).name for config in CASES.values()} == {*language.FAMILIES}


def test_presets_of_all_families():
    every = language.presets()
    assert len(every) == sum(len(family.presets) for family in language.FAMILIES.values())
    for family in language.FAMILIES.values():
        for name, config in family.presets.items():
            assert find_config(name) == config and language.family_for(config) == family
            section = {"name": family.name, "preset": name}
            assert read_model(section, config.vocab_size) == config
    with pytest.raises(InputError, match="preset 'two-way-tinny': unknown; did you mean 'two-way-"):
        find_config("two-way-tinny")
    with pytest.raises(InputError, match="no preset 'two-way-tiny' of llama; "):
        read_model({"name": "llama", "preset": "two-way-tiny"}, 300)


def test_positions_of_the_wrong_kind_are_refused():
    """One row for a model of two would be read as something else."""
    model = language_contracts.build(TWO_WAY)
    tokens = language_contracts._tokens(TWO_WAY)
    with pytest.raises(ValueError, match=r"positions of shape \(3, 11\); expected \[B 2 T\]"):
        model(tokens, positions=model.reading(tokens > -1)["positions"][:, 0])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (two_way.PRESETS["two-way-tiny"], "two_way reads prompts both"),
        (T5, "t5 reads prompts by an"),
    ],
    ids=["two-way", "t5"],
)
def test_what_needs_a_causal_model_refuses_others(config, told):
    build = language.family_for(config).build
    definition, tokenizer = define(lambda rngs: build(config, rngs=rngs)), train_bpe(["ab"], 259)
    lm = LanguageModel(definition, {}, config, tokenizer=tokenizer)
    users = {
        "a scorer of options": lambda: OptionScorer(lm),
        "an interpreter": lambda: Bridge(lm, None, None, 1, 1),
        "a form": lambda: FormFiller(lm, Form(("a:",), ("1", "2"))),
    }
    if not build.shares_prefix:
        users["a reused beginning of prompts"] = lambda: lm.prefix_cache([1, 2])
    for name, use in users.items():
        message = f"{name} needs a causal language model; the family {told}"
        with pytest.raises(InputError, match=message):
            use()
