"""Fine-tuning: answers are learned, by adapters alone; a resumed run is the uninterrupted one."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from recjax.cli import main
from recjax.config import build
from recjax.convert.language_model import language_model, outline, read_language_model
from recjax.convert.peft import adapted, merged, read_adapter
from recjax.convert.peft_config import linear_maps
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.llm_folders import load_llm
from recjax.llm_inputs import given_prompts
from recjax.models import glm
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.nn.lora import is_lora
from recjax.recsysllm.spans import COMMANDS, Marks
from recjax.text.bpe import train_bpe
from recjax.text.pairs import PairsConfig, split_pairs
from recjax.training.adapting import LowRankConfig
from recjax.training.finetune import FinetuneConfig, FinetuneRun, complete
from recjax.training.plan import make_plan, planned
from recjax.training.workdir import build_config, open_run

FILMS = ("Alien", "Brazil", "Casino", "Dune", "Eraserhead", "Fargo")
SIZES = {"dim": 32, "mlp_dim": 48, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16}


DATA = Path(__file__).parents[2] / "data"
LAYERS = "layers/(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random LLaMA with a tokenizer, in Hugging Face's form."""
    tokenizer = train_bpe([f"film {k} is {film}" for k, film in enumerate(FILMS)] * 3, 300)
    place = tmp_path_factory.mktemp("llm")
    tokenizer.save(place / "tokenizer")
    config = Config(tokenizer.size, max_length=64, init_std=0.3, **SIZES)
    params = params_of(Llama(config, rngs=nnx.Rngs(0)))
    write_language_model(place / "hf", language_model(config, params, place / "tokenizer"))
    return place / "hf"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"film {k}:", "answer": f" {film}"} for k, film in enumerate(FILMS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    return path


CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({
        "system": "finetune", "llm": "?", "data": {"path": "?", "validation_share": 0.25},
        "lora": {"rank": 4, "dropout": 0.02,
                 "targets": ("q_proj", "v_proj", "up_proj", "down_proj", "lm_head")},
        "optim": {"learning_rate": 0.01},
        "train": {"batch_size": 6, "epochs": 2.0, "evaluate_every": 4.0},
    })
"""


@pytest.fixture(scope="module")
def train(folder, pairs, tmp_path_factory):
    """`train(workdir, *flags)`, by the command."""
    file = tmp_path_factory.mktemp("config") / "config.py"
    file.write_text(CONFIG)

    def run(workdir, *flags):
        own = [f"--config.llm={folder}", f"--config.data.path={pairs}"]
        return main(["train", f"--config={file}", *own, f"--workdir={workdir}", *flags])

    return run


def arrays(run, step):
    state = run.checkpoints.restore(step, run.abstract_state())
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(state)}


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """A run that was interrupted after 2 epochs, and went on to 20."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    assert train(workdir) == 0
    assert train(workdir, "--config.train.epochs=20", "--config.merge=True") == 2  # not its config
    assert train(workdir, "--config.train.epochs=20") == 0
    return workdir


def values(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_answers_are_learned(trained, folder):
    first, *_, last = values(trained)
    assert first["validation/answers/loss"] > 2 and last["final"]
    assert last["validation/answers/loss"] < 0.2 and last["validation/answers/exact"] == 1.0
    prompts = [f"film {k}:" for k in range(len(FILMS))]
    for lm in (
        load_llm(trained),
        load_llm(open_run(trained).config.llm, adapter=trained / "adapter"),
    ):
        assert lm.generate(prompts, max_new_tokens=12).texts == [f" {film}" for film in FILMS]
    with pytest.raises(InputError, match="a run with an adapter of its own"):
        load_llm(trained, adapter=trained / "adapter")


def test_a_resumed_run_is_the_uninterrupted_one(train, trained, tmp_path):
    assert train(tmp_path / "w", "--config.train.epochs=20") == 0
    runs = open_run(trained), open_run(tmp_path / "w")
    steps = [run.latest_step() for run in runs]
    assert steps[0] == steps[1] > 6
    one, other = (arrays(run, steps[0]) for run in runs)
    assert one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def test_adapters_alone_are_trained_and_saved(trained, folder):
    run = open_run(trained)
    state = run.abstract_state()
    assert all(map(is_lora, state.params)) and len(state.params) == 2 * 5
    count = sum(a.size for a in state.params.values())
    assert sum(a.size for a in jax.tree.leaves(state.opt_state)) == 2 * count + 2  # two counters
    base = read_language_model(folder)
    assert f"{count:,} of them trained; 18 train, 6 validation, 0 test pairs" in run.describe()
    params = run.restore(run.best_step())
    lora, written = read_adapter(trained / "adapter", base)
    assert (lora.rank, lora.dropout, lora.rslora) == (4, 0.02, False)
    for path, value in written.items():
        np.testing.assert_array_equal(value, params[path])
    # What the adapters compute beside the base, and merged into it.
    tokens = jnp.arange(24).reshape(2, 12)
    both = adapted(base, lora, written)
    apart = both.definition.merge(both.params)(tokens)[0]
    np.testing.assert_allclose(apart, load_llm(trained)(tokens), atol=2e-4)
    assert np.abs(apart - load_llm(folder)(tokens)).max() > 0.1
    plain = merged(base, lora, written).params["layers/down/kernel"]
    by_hand = 16 / 4 * (written["layers/down/lora/a"] @ written["layers/down/lora/b"])
    np.testing.assert_allclose(plain, base.params["layers/down/kernel"] + by_hand, atol=1e-4)


def test_the_loss_is_of_the_answers(trained):
    """By packed rows, and of each pair alone by the merged model."""
    run = open_run(trained)
    params = run.restore(run.latest_step())
    lm = load_llm(trained)
    total, count = 0.0, 0
    for row in run.rows["validation"]:
        scores = jax.nn.log_softmax(lm(np.pad(row.tokens, (0, 64 - len(row.tokens)))[None])[0])
        places = np.arange(row.learned, len(row.tokens))
        total -= float(scores[places - 1, row.tokens[places]].sum())
        count += len(places)
    measured = run.evaluator("validation").run(params)
    assert run.latest_step() != run.best_step() or measured[
        "validation/answers/loss"
    ] == pytest.approx(total / count, rel=1e-3)


def test_another_base_or_other_pairs_are_refused(trained, folder, pairs, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    model = read_language_model(folder)
    changed = model.params | {"final_norm/scale": model.params["final_norm/scale"] * 2}
    write_language_model(other, dataclasses.replace(model, params=changed), overwrite=True)
    before = (trained / "config.json").read_text()
    assert main(["train", f"--workdir={trained}", f"--config.llm={other}"]) == 2
    assert "a checkpoint of another llm (" in capsys.readouterr().err
    with pytest.raises(InputError, match="an adapter of another base model than .*other "):
        load_llm(other, adapter=trained / "adapter")
    more = tmp_path / "more.jsonl"
    more.write_text(pairs.read_text() + '{"prompt": "a", "answer": "b"}\n')
    assert main(["train", f"--workdir={trained}", f"--config.data.path={more}"]) == 2
    assert "a checkpoint of another data (" in capsys.readouterr().err
    assert (trained / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.lora.targets=('q_proj','gate')", "config.lora.targets: 'gate' is no linear map"),
        ("--config.lora.rank=0", "config.lora.rank: expected 1 to 65536, got 0"),
        ("--config.lora.alpha=-1.0", "config.lora.alpha: expected more than 0, got -1.0"),
        ("--config.lora.dropout=1.0", "config.lora.dropout: expected at least 0 and less than 1"),
        ("--config.data.max_length=4", "tokens, at most 4 fit, and"),
        ("--config.data.max_length=65", "config.data.max_length: 65; the model was trained on 64"),
        ("--config.data.prompt=question", "pairs.jsonl:1: lacks the key 'question'"),
        ("--config.data.test_path=none.jsonl", "none.jsonl: no such file"),
        ("--config.data.form=chat", "no chat template in chat_template.jinja"),
        ("--config.method=half", "config.method: expected one of 'lora', 'full'"),
        ("--config.dtype=int8", "config.dtype: expected one of '', 'float32'"),
        ("--config.train.metric=validation/loss", "no metric 'validation/loss'"),
        ("--config.llm=", "config.llm: is empty"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(train, tmp_path, capsys, flag, message):
    assert train(tmp_path / "w", flag) == 2
    err = capsys.readouterr().err
    assert message in err and not (tmp_path / "w").exists()


def config_of(folder, pairs, **changes):
    section = {
        "llm": str(folder),
        "data": {"path": str(pairs), "validation_share": 0.25, "test_share": 0.25},
        "train": {"batch_size": 8},
    }  # fmt: skip
    return build_config({"system": "finetune", **complete(section | changes)})


def make(folder, pairs, **changes):
    config = config_of(folder, pairs, **changes)
    return FinetuneRun(config, split_pairs(config.data, config.seed))


def stepped(run):
    state, metrics = run.make_steps()(run.init_state(), run.place(0, 1))
    return state, float(metrics["loss"][0])


def test_the_head_may_be_adapted(folder, pairs):
    """Its adapter is in the loss: it learns."""
    run = make(folder, pairs, lora={"targets": ("lm_head",), "rank": 2})
    assert set(run.abstract_state().params) == {"head/lora/a", "head/lora/b"}
    state, _ = stepped(run)
    assert np.abs(np.asarray(state.params["head/lora/b"])).max() > 0


@pytest.mark.devices
def test_a_mesh_computes_the_same(folder, pairs):
    state, loss = stepped(make(folder, pairs))
    mesh = make(folder, pairs, train={"batch_size": 8, "mesh": (2, 2, 2)})
    other, same = stepped(mesh)
    assert same == pytest.approx(loss, rel=1e-5)
    assert other.params["layers/attention/query/lora/a"].sharding.mesh.size == 8
    for path, value in state.params.items():
        np.testing.assert_allclose(value, other.params[path], atol=1e-4)


def test_a_base_in_8_bits(folder, pairs, tmp_path):
    """The frozen kernels are int8; training is nearly that of the plain base, and plan knows it."""
    plain, expected = stepped(make(folder, pairs))
    config = config_of(folder, pairs, quant="int8")
    run = FinetuneRun(config, split_pairs(config.data, 0), tmp_path)
    state, loss = stepped(run)
    assert 0 < abs(loss - expected) < 0.02 * expected
    assert state.params.keys() == plain.params.keys()
    kernel = run.frozen["layers/gate/kernel"]
    assert kernel.dtype == np.int8
    assert run.model_identity["llm"] == make(folder, pairs).model_identity["llm"]
    plan = make_plan(**planned(config))
    assert plan.frozen_bytes == sum(a.nbytes for a in run.frozen.values())
    assert run.identity["lora"]["quant"] == "int8"
    assert "adapter" in run.finish(state.params)
    with pytest.raises(InputError, match="config.quant: expected nothing where all"):
        config_of(folder, pairs, quant="int8", method="full")


def test_all_parameters_can_be_trained(folder, pairs, tmp_path):
    config = config_of(folder, pairs, method="full")
    run = FinetuneRun(config, split_pairs(config.data, 0), tmp_path)
    state, _ = stepped(run)
    assert not any(map(is_lora, state.params)) and run.frozen == {}
    done = run.finish(state.params)
    assert done == {"folder": str(tmp_path / "hf")}
    again = read_language_model(tmp_path / "hf").params
    assert all((np.asarray(again[path]) == state.params[path]).all() for path in again)


@pytest.mark.devices
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_plan_is_what_trains(folder, pairs, method):
    config = config_of(folder, pairs, method=method, lora={"rank": 3, "targets": ("up_proj",)})
    plan = make_plan(mesh="8,1,1", **planned(config, "8,1,1"))
    run = FinetuneRun(config, split_pairs(config.data, config.seed))
    state, batch = run.init_state(), run.batches(0)
    assert plan.trained == sum(a.size for a in state.params.values())
    assert plan.trained_bytes == sum(a.nbytes for a in state.params.values())
    assert plan.optimizer_bytes == sum(a.nbytes for a in jax.tree.leaves(state.opt_state))
    assert plan.frozen_bytes == sum(a.nbytes for a in run.frozen.values())
    assert plan.tokens == batch["tokens"][0].size


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama/llama_gqa", "layers/attention/(query|value)"),
        ("families/qwen3", "layers/attention/(query|value)"),
        ("families/glm4", "layers/attention/(query|value)"),
        ("glm/glm_hf", LAYERS),
        ("glm/chatglm_v1", LAYERS),
    ],
)
def test_the_usual_targets_are_those_of_the_family(name, targets):
    base = outline(DATA / name)
    assert LowRankConfig().on(base).targets == (targets,)
    given = LowRankConfig(targets=("all-linear",)).on(base)
    assert len(given.targets) == sum("{layer}" in name for name in linear_maps(base))


def test_no_state_dict_of_sasrec_is_made_of_it(trained, tmp_path, capsys):
    assert main(["convert", f"--workdir={trained}", f"--to={tmp_path / 'x.npz'}"]) == 2
    assert "a run of another kind; expected one of 'sasrec'" in capsys.readouterr().err


def test_glm_learns_the_text_of_a_blank(pairs, tmp_path):
    """As it is asked by `generate`, and packed as alone."""
    tokenizer = train_bpe(
        [f"film {k} is {f}" for k, f in enumerate(FILMS)], 300, commands=COMMANDS, ends=True
    )
    tokenizer.save(tmp_path / "tokenizer")
    marks = Marks.of(tokenizer)
    sizes = {"dim": 32, "mlp_dim": 128, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16}
    config = glm.Config(tokenizer.size, max_length=64, init_std=0.3, **sizes)
    config = config.with_ids(marks.sop, marks.mask, marks.document, marks.sentence)
    model = language_model(
        config, params_of(glm.GLM(config, rngs=nnx.Rngs(0))), tmp_path / "tokenizer"
    )
    write_language_model(tmp_path / "hf", model)
    section = ConfigDict(
        {"llm": str(tmp_path / "hf"), "data": {"path": str(pairs)}, "method": "full"}
    )
    run = FinetuneRun(
        build(FinetuneConfig, section, "config"), split_pairs(PairsConfig(str(pairs)), 0)
    )
    lm, total, count = load_llm(tmp_path / "hf"), 0.0, 0
    for row in run.rows["validation"]:
        prompt = tokenizer.decode(row.tokens[: row.learned])
        asked = given_prompts(config, lm.tokenizer, [prompt]).rows[0]
        assert row.tokens[: row.learned].tolist() == asked.tolist()
        assert asked[-3:].tolist() == [marks.document, marks.eos, marks.sop]
        assert row.tokens[-1] == marks.eop and row.blank == (len(asked) - 3, len(asked) - 1)
        scores = jax.nn.log_softmax(lm(np.pad(row.tokens, (0, 32 - len(row.tokens)))[None])[0])
        places = np.arange(row.learned, len(row.tokens))
        total -= float(scores[places - 1, row.tokens[places]].sum())
        count += len(places)
    assert (run.batches(0)["segments"] > 1).any()
    found = run.evaluator("validation").run(run.whole(run.init_state().params))
    assert found["validation/answers/loss"] == pytest.approx(total / count, rel=1e-4)
