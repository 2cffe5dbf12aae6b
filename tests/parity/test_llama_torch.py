"""Live: what transformers and peft write is read here, and what is written here is read there."""

import dataclasses
import filecmp
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.convert import peft as ours
from recjax.convert.language_model import read_language_model
from recjax.convert.llama_meta import PARAMS
from recjax.convert.tensors import INDEX
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.nn.lora import LoRAConfig

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
SCALED = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
MODELS = {
    "multi-head": {"num_key_value_heads": 4},
    "grouped": {"num_key_value_heads": 2, "rms_norm_eps": 1e-3, "rope_parameters": SCALED},
    "one key": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "wide heads": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
}


def torch_model(**changes):
    """A random LLaMA of transformers whose logits vary."""
    sizes = {
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | changes)))
    for name, value in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(value, 1.0, 0.2)
    return model.eval()


def tokens(length=256):
    return np.random.default_rng(1).integers(0, 100, (2, length))


def theirs(model):
    with torch.no_grad():
        return model(torch.tensor(tokens())).logits.numpy()


def logits(loaded):
    return np.asarray(loaded.definition.merge(loaded.params)(jnp.asarray(tokens()))[0])


def difference(a, b):
    assert a.std() > 0.5, "logits that hardly vary agree with anything"
    return np.abs(a - b).max() / max(1.0, np.abs(b).max())


@pytest.fixture
def base(tmp_path):
    model = torch_model(**MODELS["grouped"])
    model.save_pretrained(tmp_path / "base")
    return model, read_language_model(tmp_path / "base")


@pytest.mark.parametrize("name", MODELS)
def test_transformers_models_are_read_and_returned(tmp_path, name):
    model = torch_model(**MODELS[name])
    model.save_pretrained(tmp_path / "in")
    loaded = read_language_model(tmp_path / "in")
    assert difference(logits(loaded), theirs(model)) < TOLERANCE
    write_language_model(tmp_path / "out", loaded)
    for file in ("config.json", "model.safetensors", "generation_config.json"):
        assert filecmp.cmp(tmp_path / "in" / file, tmp_path / "out" / file, shallow=False)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_what_is_written_anew(tmp_path, name):
    """Without a config to hand on."""
    model = torch_model(**MODELS[name])
    model.save_pretrained(tmp_path / "in")
    loaded = dataclasses.replace(read_language_model(tmp_path / "in"), folder=None)
    write_language_model(tmp_path / "out", loaded, shard_bytes=100_000)
    assert (tmp_path / "out" / INDEX).exists()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(theirs(again.eval()), theirs(model))
    assert again.config.rope_parameters == model.config.rope_parameters


def test_its_shards_are_read(tmp_path):
    model = torch_model()
    model.save_pretrained(tmp_path / "in", max_shard_size="100KB")
    assert (tmp_path / "in" / INDEX).exists()
    assert difference(logits(read_language_model(tmp_path / "in")), theirs(model)) < TOLERANCE


def test_bfloat16_files(tmp_path):
    torch_model().to(torch.bfloat16).save_pretrained(tmp_path / "in")
    loaded = read_language_model(tmp_path / "in")
    assert loaded.params["embedding"].dtype == jnp.bfloat16
    write_language_model(tmp_path / "out", loaded)
    name = "model.safetensors"
    assert filecmp.cmp(tmp_path / "in" / name, tmp_path / "out" / name, shallow=False)


def test_pickles_are_refused_with_advice_that_works(tmp_path):
    model = torch_model()
    os.makedirs(tmp_path / "in")
    model.config.save_pretrained(tmp_path / "in")
    torch.save(model.state_dict(), tmp_path / "in" / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin: a pickle can run code"):
        read_language_model(tmp_path / "in")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    again.save_pretrained(tmp_path / "new")
    assert difference(logits(read_language_model(tmp_path / "new")), theirs(model)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("parts", "table"), [(1, 0), (2, 0), (2, 1)])
def test_metas_files(tmp_path, dtype, parts, table):
    """`.pth` in model-parallel parts, split as LLaMA 3 splits its table, and as 2 does."""
    model = torch_model(num_key_value_heads=2)
    model.save_pretrained(tmp_path / "hf")
    loaded = read_language_model(tmp_path / "hf")
    write_language_model(tmp_path / "meta", loaded, form="meta")
    file = tmp_path / "meta" / "consolidated.00.safetensors"
    from safetensors.torch import load_file

    whole = load_file(file)
    file.unlink()
    whole["rope.freqs"] = torch.ones(8)
    axes = {"wo": 1, "w2": 1, "tok_embeddings": table}
    for part in range(parts):
        state = {}
        for key, value in whole.items():
            name = key.split(".")[-2]
            split = value.ndim == 2 and parts > 1
            piece = value.chunk(parts, axes.get(name, 0))[part] if split else value
            state[key] = piece.clone().to(dtype)
        torch.save(state, tmp_path / "meta" / f"consolidated.{part:02d}.pth")
    values = json.loads((tmp_path / "meta" / PARAMS).read_text()) | {"vocab_size": -1}
    (tmp_path / "meta" / PARAMS).write_text(json.dumps(values))
    found = read_language_model(tmp_path / "meta", dtype="float32")
    assert found.config == dataclasses.replace(loaded.config, init_std=0.02)
    for path, value in loaded.params.items():
        expected = value if dtype == torch.float32 else value.astype("bfloat16")
        np.testing.assert_array_equal(found.params[path], expected)


def torch_adapter(model, **changes):
    """An adapter of peft whose B is not 0."""
    options = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    config = peft.LoraConfig(task_type="CAUSAL_LM", **(options | changes))
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, 0.0, 0.1)
    return adapted.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": r"model\.layers\.\d+\.(self_attn\.[qk]_proj|mlp\.up_proj)"},
        {"target_modules": ["k_proj", "lm_head"]},
        {
            "rank_pattern": {"^q_proj": 3, r"layers\.[12]\.self_attn\.q_proj": 2, "v_proj": 3},
            "alpha_pattern": {r"^model\.layers\.0\..*": 40, "0.mlp.down_proj": 1},
            "use_rslora": True,
        },
    ],
    ids=["rslora", "all", "regex", "head", "patterns"],
)
def test_an_adapter_of_peft(tmp_path, base, changes):
    model, loaded = base
    plain = theirs(model)
    adapter = torch_adapter(model, **changes)
    adapter.save_pretrained(tmp_path / "adapter")
    expected = theirs(adapter)
    assert difference(plain, expected) > 0.01
    lora, params = ours.read_adapter(tmp_path / "adapter", loaded)
    assert (lora.rank, lora.alpha) == (4, 12.0)  # the patterns' ranks are lower
    both = ours.adapted(loaded, lora, params)
    assert difference(logits(both), expected) < 1e-5
    wrong = ours.adapted(loaded, dataclasses.replace(lora, alpha=4.0), params)
    assert difference(logits(wrong), expected) > 1e-3
    # Merged, it is a model of transformers.
    one = ours.merged(loaded, lora, params)
    assert one.params.keys() == loaded.params.keys()
    write_language_model(tmp_path / "merged", one)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert difference(theirs(again.eval()), expected) < 1e-5


def test_a_head_that_was_trained_too_is_refused(tmp_path, base):
    model, loaded = base
    adapter = torch_adapter(model, target_modules=["lm_head"])
    with torch.no_grad():
        adapter.base_model.model.lm_head.base_layer.weight[3, 4] += 1
    adapter.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="lm_head.base_layer.weight' differs from the base model"):
        ours.read_adapter(tmp_path / "adapter", loaded)


@pytest.mark.parametrize("head", [False, True])
def test_an_adapter_written_here(tmp_path, base, head):
    model, loaded = base
    targets = (r"layers/(attention/(query|out)|gate)", *(["head"] if head else []))
    lora = LoRAConfig(rank=3, alpha=7.5, dropout=0.1, targets=targets)
    shapes = ours.adapted(loaded, lora, {}).definition.shapes
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {
        path: jax.random.normal(key, shapes[path].shape) * 0.1
        for key, path in zip(keys, shapes, strict=True)
        if "/lora/" in path
    }
    assert len(params) == 6 + 2 * head
    ours.write_adapter(tmp_path / "adapter", loaded, lora, loaded.params | params)
    plain = theirs(model)
    adapter = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    expected = logits(ours.adapted(loaded, lora, params))
    assert difference(expected, plain) > 0.01
    assert difference(expected, theirs(adapter)) < 1e-5
    again, returned = ours.read_adapter(tmp_path / "adapter", loaded)
    assert (again.rank, again.alpha, again.dropout) == (3, 7.5, 0.1)
    for path, value in params.items():
        np.testing.assert_array_equal(returned[path], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "'use_dora' is True; only False is implemented"),
        ({"bias": "all"}, "'bias' is 'all'; only 'none' is implemented"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head']; only None"),
        ({"layers_to_transform": [0]}, "'layers_to_transform' is [0]; only None"),
    ],
)
def test_adapters_of_other_kinds_are_refused(tmp_path, base, changes, message):
    model, loaded = base
    torch_adapter(model, **changes).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError) as error:
        ours.read_adapter(tmp_path / "adapter", loaded)
    assert f"adapter_config.json: {message}" in str(error.value)


@pytest.mark.parametrize("form", ["hf", "meta", "flax", "recjax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_check_of_the_command(tmp_path, base, recjax, form, dtype):
    torch_adapter(base[0]).save_pretrained(tmp_path / "adapter")
    if form == "meta":  # which knows LLaMA 3's scaling alone
        torch_model(num_key_value_heads=2).save_pretrained(tmp_path / "base")
    status, out, err = recjax(
        "convert", f"--from={tmp_path / 'base'}", f"--to={tmp_path / 'out'}", f"--form={form}",
        f"--dtype={dtype}", f"--adapter={tmp_path / 'adapter'}", "--check", "--json",
    )  # fmt: skip
    assert status == 0, err
    assert 0 < out["max_difference"] <= out["tolerance"] * out["largest_logit"]
    assert "logits differ from those of transformers by" in err


def test_the_check_sees_a_difference(tmp_path, base, recjax, monkeypatch):
    """transformers reads another epsilon than we do."""
    assert recjax("convert", f"--from={tmp_path / 'base'}", "--check")[0] == 0
    from recjax.convert import transfer

    def wrong(path, **options):
        found = read_language_model(path, **options)
        config = dataclasses.replace(found.config, norm_eps=1e-2)
        return dataclasses.replace(found, config=config)

    monkeypatch.setattr(transfer, "read_language_model", wrong)
    status, _, err = recjax("convert", f"--from={tmp_path / 'base'}", "--check")
    assert status == 1 and "Mismatch: logits differ from those of transformers by" in err
