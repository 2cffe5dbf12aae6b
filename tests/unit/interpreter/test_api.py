"""`Interpreter` over plain arrays: fit, ask, save, load, and what is refused."""

import json
import shutil

import numpy as np
import pytest

import recjax
from recjax.errors import InputError
from recjax.interpreter.adapters import Config
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.questions import AskConfig
from recjax.interpreter.starting import StartConfig
from recjax.text.tasks import RECOVERY, RESIDUAL
from recjax.training.optim import OptimConfig

RNG = np.random.default_rng(0)
NAMED = ["Alien", "Dune", "Brazil", "Cat People"]
ADDED = [NAMED[n % 4] for n in range(16)]
HISTORIES = [[NAMED[(n + 1) % 4], NAMED[n % 4]] for n in range(16)]
# What was added is in the states: one direction an item.
AFTER = RNG.normal(size=(16, 3, 6)) * 0.1
AFTER[np.arange(16), -1, np.arange(16) % 4] += 3.0
BEFORE = RNG.normal(size=(16, 3, 6)) * 0.1
SHORT = AskConfig(domain="book", residual_tokens=32, recovery_tokens=32)


def fit(llm, before=BEFORE, after=AFTER, titles=ADDED, **options):
    options = {"ask": SHORT, "epochs": 1.0, "batch_size": 16} | options
    return recjax.Interpreter.fit(before, after, titles, llm=llm, **options)


@pytest.fixture(scope="module")
def interpreter(llm):
    """Over [n L D], with the adapter's usual rate."""
    return fit(llm, epochs=60.0, optim=OptimConfig(learning_rate=3e-2), adapter=Config(soft=4))


def texts(answers):
    return [answer.text for answer in answers]


def test_it_learns(interpreter):
    assert len(interpreter.losses) == 60
    assert np.mean(interpreter.losses[-5:]) < 0.6 * interpreter.losses[0]
    assert interpreter.titles == ["", *NAMED]


def test_answers_name_titles(interpreter):
    answers = interpreter.residual(BEFORE, AFTER, decoding="constrained")
    assert len(answers) == 16 and all(answer.known for answer in answers)
    for answer in answers:
        (one,) = answer.named
        assert all(interpreter.titles[item] == one.text for item in one.items)
    # Before comes first: swapped, the question is another one.
    pairs = np.stack([BEFORE, AFTER], axis=1).astype(np.float32)
    same, swapped = (
        interpreter._reader.read(one, RESIDUAL, decoding="constrained")
        for one in (pairs, pairs[:, ::-1])
    )
    assert answers == same != swapped
    # Rows are independent of each other, and dtypes of no matter.
    half = interpreter.residual(BEFORE[8:].astype(np.float16), AFTER[8:], decoding="constrained")
    assert texts(half) == texts(answers)[8:]


def test_one_vector_a_history_and_recovery(llm_folder):
    """[n D], a folder for the model, histories: both tasks are asked in training."""
    mine = fit(
        str(llm_folder), BEFORE[:, -1], AFTER[:, -1].tolist(), histories=HISTORIES, ask=None,
        domain="book", catalogue=["Paris, Texas", "Dune"], epochs=0.1,
    )  # fmt: skip
    assert mine.bridge.questions.config.tasks == (RESIDUAL, RECOVERY)
    assert mine.bridge.questions.words.item == "book"
    assert (mine.bridge.length, mine.bridge.dim, len(mine.losses)) == (1, 6, 1)
    assert mine.titles == ["", "Paris, Texas", "Dune", "Alien", "Brazil", "Cat People"]
    shown = AFTER[:3, -1]
    answers = mine.recover(shown)
    assert len(answers) == 3 and texts(answers) == texts(mine.recover(shown[:, None]))
    assert len(mine.residual(shown, shown)) == 3


def test_two_items_of_one_title(llm):
    """Titles of one spelling are one; those of one normal form count together."""
    mine = fit(llm, titles=["Alien", "ALIEN", " Alien\n", "Alien"] * 4, epochs=0.1)
    assert mine.titles == ["", "Alien", "ALIEN"]
    (answer, *_) = mine.residual(BEFORE[:1], AFTER[:1], decoding="constrained")
    assert answer.items == {1, 2}


def test_a_task_that_was_not_trained_is_refused(interpreter, llm):
    with pytest.raises(InputError, match="recovery: the adapter was trained for residual alone"):
        interpreter.recover(AFTER)
    ask = AskConfig(domain="book", residual=0.0, recovery=1.0, recovery_tokens=8)
    mine = fit(llm, ask=ask, histories=HISTORIES, epochs=0.1)
    assert len(mine.recover(AFTER)) == 16
    with pytest.raises(InputError, match="residual: the adapter was trained for recovery alone"):
        mine.residual(BEFORE, AFTER)


def test_the_same_fit_is_the_same(llm):
    one, same, other = (fit(llm, seed=seed) for seed in (0, 0, 1))
    assert one.losses == same.losses != other.losses
    for path, value in one.params.items():
        np.testing.assert_array_equal(value, same.params[path])


# Files.


@pytest.fixture(scope="module")
def saved(interpreter, tmp_path_factory):
    return interpreter.save(tmp_path_factory.mktemp("saved") / "mine")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_what_was_saved_answers_alike(interpreter, saved, copy, llm):
    expected = texts(interpreter.residual(BEFORE, AFTER))
    for again in (recjax.Interpreter.load(saved), recjax.Interpreter.load(str(copy), llm=llm)):
        assert texts(again.residual(BEFORE, AFTER)) == expected
        assert again.titles == interpreter.titles
        assert again.bridge.questions.config == SHORT and again.bridge.config == Config(soft=4)
        for path, value in interpreter.params.items():
            np.testing.assert_array_equal(again.params[path], value)
    names = {file.name for file in saved.iterdir()}
    assert names == {"interpreter.json", "adapter.safetensors", ".recjax"}


@pytest.mark.parametrize("read", [{"quant": "int8"}, {"dtype": "bfloat16"}], ids=str)
def test_the_language_model_is_read_again_as_it_was(interpreter, llm_folder, tmp_path, read):
    before = interpreter.bridge
    bridge = Bridge(
        recjax.load_llm(llm_folder, **read), before.questions.config, before.config,
        before.length, before.dim,
    )  # fmt: skip
    folder = recjax.Interpreter(bridge, interpreter.params, interpreter.titles).save(tmp_path / "x")
    again, path = recjax.Interpreter.load(folder).bridge.llm, "layers/gate/kernel"
    assert again.params[path].dtype == bridge.llm.params[path].dtype != np.float32


def test_a_file_of_prompts_is_found_from_anywhere(llm, tmp_path, monkeypatch):
    added = {"question": "{soft} and {soft}?", "answer": "{titles}"}
    (tmp_path / "prompts.json").write_text(json.dumps({"residual": [added]}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    ask = AskConfig(domain="book", prompts="prompts.json", residual_tokens=8)
    folder = fit(llm, ask=ask, epochs=0.1).save(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = recjax.Interpreter.load(folder, llm=llm)
    assert again.bridge.questions.forms(RESIDUAL) == 4


def test_a_folder_is_replaced_only_if_asked(interpreter, copy):
    with pytest.raises(InputError, match="exists"):
        interpreter.save(copy)
    assert interpreter.save(copy, overwrite=True) == copy


def test_other_folders_are_never_replaced(interpreter, copy, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    (copy / "notes.txt").write_text("mine")
    for folder, message in ((tmp_path / "home", "did not write"), (copy, "holds 'notes.txt'")):
        with pytest.raises(InputError, match=message):
            interpreter.save(folder, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists() and (copy / "notes.txt").exists()


def test_another_language_model(copy, other_llm_folder):
    with pytest.raises(
        InputError, match=f"copy: was trained with another language model than {other_llm_folder}"
    ):
        recjax.Interpreter.load(copy, llm=other_llm_folder)


def test_a_language_model_that_is_gone(copy, tmp_path, llm_folder):
    record = json.loads((copy / "interpreter.json").read_text())
    record["llm"] = str(tmp_path / "gone")
    (copy / "interpreter.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="gone: no such folder"):
        recjax.Interpreter.load(copy)
    assert recjax.Interpreter.load(copy, llm=llm_folder).titles == ["", *NAMED]


@pytest.mark.parametrize("name", ["interpreter.json", "adapter.safetensors"])
def test_missing_and_damaged_files(copy, llm, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{name}: (damaged|not a readable JSON)"):
        recjax.Interpreter.load(copy, llm=llm)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing; expected a file of Interpreter.save"):
        recjax.Interpreter.load(copy, llm=llm)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.pop("llm_fingerprint"),
            "interpreter.json: config section 'interpreter' lacks the key 'llm_f",
        ),
        (lambda r: r["ask"].update(widow=3), "ask.widow"),
        (lambda r: r["adapter"].update(soft=2), "adapter.safetensors: arrays of another adapter"),
        (
            lambda r: r.update(ask=[1]),
            "interpreter.json: interpreter.ask: expected a section",
        ),
        (
            lambda r: r.update(dim="7"),
            "interpreter.json: interpreter.dim: expected int",
        ),
        (lambda r: r.update(dim=10**12), "interpreter.json: interpreter.dim: expected"),
        (lambda r: r.update(titles=[1]), "interpreter.json: interpreter.titles: expected"),
        (lambda r: r.update(llm=None), "interpreter.json: interpreter.llm: expected"),
        (lambda r: r.update(dim=7), "adapter.safetensors: arrays of another adapter"),
    ],
)
def test_changed_records(copy, llm, change, message):
    record = json.loads((copy / "interpreter.json").read_text())
    change(record)
    (copy / "interpreter.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        recjax.Interpreter.load(copy, llm=llm)


def test_a_record_that_is_no_object(copy, llm):
    (copy / "interpreter.json").write_text("[1]")
    with pytest.raises(InputError, match="interpreter.json: expected a JSON object"):
        recjax.Interpreter.load(copy, llm=llm)


def test_a_model_without_a_folder_cannot_be_named(llm, tmp_path):
    from recjax.llm import LanguageModel

    loose = LanguageModel(
        llm.definition, llm.params, llm.config, tokenizer=llm.tokenizer, stop=llm.stop
    )
    with pytest.raises(InputError, match="save: the language model has no folder"):
        fit(loose, epochs=0.1).save(tmp_path / "mine")


# Bad input.


def damaged(row, value):
    h = AFTER.copy()
    h[row, 0, 0] = value
    return h


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": damaged(7, np.nan)}, "hidden_after: row 7 has NaN or infinity"),
        ({"before": BEFORE[..., :5]}, "hidden_before: width 5, expected 6"),
        ({"before": BEFORE[:9]}, "hidden_before: 9 rows, expected 16"),
        ({"titles": ADDED[:3]}, "titles: 3 rows, expected 16"),
        ({"titles": [""] * 16}, "titles: row 0 is ''"),
        ({"histories": [[]] * 16}, "histories: row 0 is empty"),
        ({"ask": None, "domain": "sonk"}, "no words for the domain 'sonk'"),
        ({"ask": AskConfig(recovery=1.0)}, "ask.recovery: needs the titles of histories"),
        ({"start": StartConfig(9, 0.5)}, "start.fade: needs the titles of histories"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"after": AFTER * 0}, "states: all of them are zero"),
    ],
)
def test_bad_input_to_fit(llm, arguments, message):
    with pytest.raises(InputError, match=message):
        fit(llm, **arguments)


def test_bad_states_to_read(interpreter):
    for call, message in (
        (lambda: interpreter.residual(BEFORE, AFTER[:3]), "hidden_before: 16 rows, hidden_a"),
        (lambda: interpreter.residual(BEFORE[:, :2], AFTER), "hidden_before: positions 2, expecte"),
        (lambda: interpreter.recover(AFTER[..., :4]), "hidden: width 4, expected 6"),
        (lambda: interpreter.recover(damaged(2, np.inf)), "hidden: row 2 has NaN"),
        (lambda: interpreter.residual(BEFORE, AFTER, decoding="greed"), "no decoding 'greed'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            call()
