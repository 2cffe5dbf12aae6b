"""PyTorch's SASRec in and out: both ways, every error, and the command."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from recjax.convert import seqrec_torch
from recjax.convert.files import read_state, write_state
from recjax.errors import InputError
from recjax.models.sasrec import Config
from recjax.training.metrics import read_metrics
from recjax.training.workdir import open_run

D, ROWS, ITEMS = 6, 13, 9


def make_state(items=ITEMS, seed=0):
    """A state dict in PyTorch's order; `pos_emb` has a row of zeros first, as since 2024."""
    shapes = {"item_emb.weight": (items, D), "pos_emb.weight": (ROWS, D)}
    for layer in range(2):
        shapes |= {f"attention_layernorms.{layer}.{kind}": (D,) for kind in ("weight", "bias")}
    for layer in range(2):
        where = f"attention_layers.{layer}"
        shapes |= {f"{where}.in_proj_weight": (3 * D, D), f"{where}.in_proj_bias": (3 * D,)}
        shapes |= {f"{where}.out_proj.weight": (D, D), f"{where}.out_proj.bias": (D,)}
    for layer in range(2):
        shapes |= {f"forward_layernorms.{layer}.{kind}": (D,) for kind in ("weight", "bias")}
    for layer in range(2):
        for conv in ("conv1", "conv2"):
            where = f"forward_layers.{layer}.{conv}"
            shapes |= {f"{where}.weight": (D, D, 1), f"{where}.bias": (D,)}
    shapes |= {"last_layernorm.weight": (D,), "last_layernorm.bias": (D,)}
    rng = np.random.default_rng(seed)
    state = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    state["pos_emb.weight"][0] = 0
    return state


def write(path, state):
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        safetensors.numpy.save_file(state, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("variant", seqrec_torch.VARIANTS)
def test_there_and_back_is_the_same_file(tmp_path, suffix, variant):
    state = make_state()
    if variant.startswith("2020"):
        state["pos_emb.weight"] += 1
    source = write(tmp_path / f"in{suffix}", state)
    config, params = seqrec_torch.load(source, variant=variant, heads=3)
    length = ROWS if variant.startswith("2020") else ROWS - 1
    assert (config.dim, config.mlp_dim, config.layers) == (D, D, 2)
    assert (config.heads, config.max_length) == (3, length)
    assert seqrec_torch.save(tmp_path / f"out{suffix}", config, params) == variant
    assert (tmp_path / f"out{suffix}").read_bytes() == source.read_bytes()


def test_what_the_file_does_not_tell_comes_from_the_base(tmp_path):
    base = Config(dim=64, heads=4, dropout=0.1, init_std=0.5)
    source = write(tmp_path / "in.npz", make_state())
    config, _ = seqrec_torch.load(source, variant="2024", base=base)
    assert (config.dim, config.heads, config.dropout, config.init_std) == (D, 1, 0.1, 0.5)


def broken(change):
    state = make_state()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("item_emb.weight"), "lacks the key 'item_emb.weight'; expected a state"),
        (lambda s: s.pop("pos_emb.weight"), "lacks the key 'pos_emb.weight'; expected a state"),
        (
            lambda s: s.pop("attention_layers.1.in_proj_bias"),
            "lacks the key 'attention_layers.1.in_proj_bias', expected with shape (18,)",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("attention_layers")],
            "lacks the key 'attention_layers.0.in_proj_weight', expected with shape (18, 6)",
        ),
        (
            lambda s: s.update({"last_layernorm.wight": s["last_layernorm.weight"]}),
            "unknown key 'last_layernorm.wight'; did you mean 'last_layernorm.weight'?",
        ),
        (
            lambda s: s.update({"item_emb.weight": np.zeros(4, np.float32)}),
            "'item_emb.weight' has shape (4,), expected two rows or more [rows D]",
        ),
        (
            lambda s: s.update({"pos_emb.weight": np.zeros((13, 5), np.float32)}),
            "'pos_emb.weight' has shape (13, 5), expected (13, 6)",
        ),
        (
            lambda s: s.update({"forward_layers.1.conv1.weight": np.zeros((D, D, 3), np.float32)}),
            "'forward_layers.1.conv1.weight' has shape (6, 6, 3), expected (6, 6, 1)",
        ),
        (
            lambda s: s.update({"attention_layers.0.in_proj_weight": np.zeros((D, D))}),
            "'attention_layers.0.in_proj_weight' has shape (6, 6), expected (18, 6)",
        ),
        (
            lambda s: s.update({"last_layernorm.bias": np.zeros(D)}),
            "'last_layernorm.bias' is float64, expected float32",
        ),
        (
            lambda s: s["last_layernorm.bias"].fill(np.nan),
            "'last_layernorm.bias' holds NaN, expected finite numbers",
        ),
    ],
)
def test_a_bad_state_dict_is_named(tmp_path, change, message):
    source = write(tmp_path / "in.npz", broken(change))
    with pytest.raises(InputError, match=re.escape(f"{source}: {message}")):
        seqrec_torch.load(source, variant="2024")


def test_bad_arguments(tmp_path):
    source = write(tmp_path / "in.npz", make_state())
    with pytest.raises(InputError, match="variant '2025': unknown; did you mean '2024'?"):
        seqrec_torch.load(source, variant="2025")
    with pytest.raises(InputError, match="row 0 of 'pos_emb.weight' is zero, as in the variants 2"):
        seqrec_torch.load(source, variant="2020")
    for heads in (4, 0, -1):
        with pytest.raises(InputError, match=f"6 wide, which {heads} heads do not divide"):
            seqrec_torch.load(source, variant="2024", heads=heads)


def test_models_that_the_public_code_cannot_hold_are_refused(tmp_path):
    source = write(tmp_path / "in.npz", make_state())
    config, params = seqrec_torch.load(source, variant="2024")
    out = tmp_path / "out.npz"
    wrong = {
        "norm_eps": (1e-6, "the nearest is 2024: norm_eps 1e-06 (expected 1e-08)"),
        "mlp_dim": (12, "the nearest is 2024: mlp_dim 12 (expected 6)"),
        "padding": ("masked", "padding masked (expected "),
    }
    for field, (value, message) in wrong.items():
        with pytest.raises(InputError, match=re.escape(message)):
            seqrec_torch.save(out, dataclasses.replace(config, **{field: value}), params)
        assert not out.exists()


# --- files


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.pt", "a.pth"])
def test_missing_and_damaged_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=f"{path}: no such file"):
        read_state(path)
    path.write_bytes(b"\x80\x04N.")  # a pickle of None
    with pytest.raises(InputError, match=f"{path}: (not |reading .pth? needs torch)"):
        read_state(path)


def test_pickled_arrays_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", bad=np.array([{}], object))
    with pytest.raises(InputError, match="a.npz: bad: an array of objects; expected numbers"):
        read_state(tmp_path / "a.npz")


def test_other_kinds_and_existing_files(tmp_path):
    for act in (read_state, lambda path: write_state(path, {})):
        with pytest.raises(InputError, match="a.bin: expected a name that ends in .safetensors, "):
            act(tmp_path / "a.bin")
    with pytest.raises(InputError, match="ends in .safetensors, .npz$"):
        write_state(tmp_path / "a.pth", {})
    (tmp_path / "text.npz").write_text("mine")
    np.savez(tmp_path / "other.npz", mine=np.ones(2))
    for name in ("text.npz", "other.npz"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(
            InputError, match=f"{name}: another file is there, and recjax never replaces"
        ):
            write_state(tmp_path / name, make_state(), overwrite=True)
        assert (tmp_path / name).read_bytes() == before
    write_state(tmp_path / "a.npz", make_state())
    (tmp_path / "a.npz.tmp").write_text("mine")
    with pytest.raises(InputError, match="a.npz: exists already; --overwrite replaces it"):
        write_state(tmp_path / "a.npz", make_state())
    write_state(tmp_path / "a.npz", make_state(), overwrite=True)
    assert (tmp_path / "a.npz.tmp").read_text() == "mine"
    assert read_state(tmp_path / "a.npz").keys() == make_state().keys()
    with pytest.raises(InputError, match="no/a.npz: there is no folder .*no; make it first"):
        write_state(tmp_path / "no" / "a.npz", {})


def test_without_torch_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="a.pth: .*needs torch.*torch_to_safetensors") as error:
        read_state(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed: .pt files need it"
)
def test_pt_through_torch(tmp_path):
    import torch

    state = make_state()
    torch.save({key: torch.tensor(value) for key, value in state.items()}, tmp_path / "a.pth")
    found = read_state(tmp_path / "a.pth")
    assert list(found) == list(state)
    assert all(found[key].tobytes() == state[key].tobytes() for key in state)
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="b.pt: 'epoch' is a int, expected a tensor"):
        read_state(tmp_path / "b.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "c.pt")
    with pytest.raises(InputError, match="c.pt: not a file of tensors alone"):
        read_state(tmp_path / "c.pt")
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "d.pt")
    with pytest.raises(InputError, match="d.pt: 'a' is torch.float8_e4m3fn, expected float32"):
        read_state(tmp_path / "d.pt")


# --- the command

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({
        "data": {"source": "simulated", "store": STORE,
                 "options": {"users": 60, "mean_length": 10.0, "max_length": 30}},
        "model": {"name": arg or "sasrec", "dim": 8, "max_length": 12},
        "train": {"batch_size": 16, "epochs": 2.0, "steps_per_call": 4},
    })
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a config, its prepared store, and a state dict that fits it."""
    from recjax.cli import main

    monkeypatch.chdir(tmp_path)
    Path("config.py").write_text(CONFIG.replace("STORE", repr(str(tmp_path / "store"))))
    assert main(["prepare", "--config=config.py"]) == 0
    from recjax.data.store import open_store

    write(tmp_path / "in.npz", make_state(open_store("store").n_items))
    return tmp_path


IMPORT = ("convert", "--from=in.npz", "--variant=2025-post", "--config=config.py", "--workdir=run")


def test_import_evaluate_export_train(recjax, place):
    status, made, err = recjax(*IMPORT, "--heads=2", "--config.model.dropout=0.1", "--json")
    assert status == 0, err
    assert "config.model.dim: 8 -> 6" in err and "config.model.block: 'pre' -> 'post'" in err
    assert made["step"] == 0 and made["model"]["dropout"] == 0.1
    status, metrics, err = recjax("evaluate", "--workdir=run", "--json")
    assert status == 0 and "checkpoint: step 0" in err and "test/full/ndcg@10" in metrics
    status, done, err = recjax("convert", "--workdir=run", "--to=out.npz", "--json")
    assert (status, done["variant"], done["heads"], done["step"]) == (0, "2025-post", 2, 0), err
    assert (place / "out.npz").read_bytes() == (place / "in.npz").read_bytes()
    # Training goes on from these weights, with the workdir's own config.
    status, trained, err = recjax("train", "--workdir=run", "--config.train.epochs=1", "--json")
    assert status == 0 and trained["finished"], err
    assert "config.train.epochs: 2.0 -> 1.0" in err
    assert read_metrics(place / "run" / "metrics.jsonl")[0]["step"] == trained["step"] > 0
    assert recjax("convert", "--workdir=run", "--to=trained.safetensors")[0] == 0
    moved = read_state("trained.safetensors")
    for key, value in read_state("in.npz").items():
        assert moved[key].shape == value.shape
        assert np.abs(moved[key] - value).max() < 0.2, "far from where it started"
    assert not moved["pos_emb.weight"][0].any()


def test_an_imported_checkpoint_scores_as_the_file(place, recjax):
    assert recjax(*IMPORT)[0] == 0
    run = open_run("run")
    _, params = seqrec_torch.load("in.npz", variant="2025-post")
    restored = run.restore(0)
    assert restored.keys() == params.keys()
    for path, value in params.items():
        np.testing.assert_array_equal(restored[path], value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from=in.npz", "--to=out.npz"], "convert needs one of --from FILE (in) and --to FILE"),
        ([], "convert needs one of --from FILE (in) and --to FILE (out)"),
        (["--from=in.npz", "--variant=2024"], "convert --from needs --config and --variant"),
        (["--from=in.npz", "--config=config.py"], "convert --from needs --config and --variant"),
        (["--to=out.npz", "--heads=2"], "convert --to takes the run's own config, variant and h"),
        (["--to=out.npz"], "run/config.json: missing; expected a workdir of `recjax train`"),
        (
            ["--from=in.npz", "--variant=2024", "--config=config.py:gru4rec"],
            "config.model.name: 'gru4rec', expected 'sasrec', the model of in.npz",
        ),
        (
            ["--from=other.npz", "--variant=2024", "--config=config.py"],
            "other.npz: 'item_emb.weight' has 9 rows (padding, then a row an item), expected the",
        ),
    ],
)
def test_bad_usage(recjax, place, arguments, message):
    write(place / "other.npz", make_state())
    status, out, err = recjax("convert", "--workdir=run", *arguments)
    assert (status, out) == (2, None) and f"recjax: {message}" in err
    assert not (place / "run").exists()


def test_nothing_is_replaced_without_being_told(recjax, place):
    assert recjax(*IMPORT)[0] == 0
    assert "run: has a run; choose another --workdir, or --overwrite" in recjax(*IMPORT)[2]
    assert recjax(*IMPORT, "--overwrite")[0] == 0
    status, _, err = recjax("convert", "--workdir=run", "--to=in.npz")
    assert status == 2 and "in.npz: exists already" in err


def test_runs_that_cannot_leave_say_why(recjax, place):
    train = ("train", "--config=config.py", "--workdir=run", "--config.train.epochs=1")
    assert recjax(*train)[0] == 0
    status, _, err = recjax("convert", "--workdir=run", "--to=out.npz")
    assert status == 2
    assert "out.npz: no version of pmixer/SASRec.pytorch computes what this model does" in err


def test_training_without_a_config_needs_a_run(recjax, place):
    status, _, err = recjax("train", "--workdir=run")
    assert status == 2
    assert "recjax: run/config.json: missing; expected a workdir of `recjax train`" in err
