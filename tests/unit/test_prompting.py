"""`recjax generate`: what it reads, writes and refuses."""

import json

import numpy as np
import pytest
from flax import nnx

from recjax.convert.language_model import language_model, read_language_model
from recjax.convert.peft import adapted, write_adapter
from recjax.convert.writing import write_language_model
from recjax.llm_folders import load_llm
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.nn.lora import LoRAConfig, is_lora
from recjax.text.bpe import train_bpe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_bpe(["the film is a long film, 1995"] * 3, 280)
    place = tmp_path_factory.mktemp("llm")
    tokenizer.save(place / "tokenizer")
    config = Config(tokenizer.size, 16, 24, 2, 2, 1, 8, init_std=0.5)
    params = params_of(Llama(config, rngs=nnx.Rngs(0)))
    write_language_model(place / "hf", language_model(config, params, place / "tokenizer"))
    return place / "hf"


def test_prompts_of_files_and_answers_in_one(recjax, folder, tmp_path):
    prompts = ["the film", "is a", "long", "film, 1995", "the"]
    text, lines, out = tmp_path / "p.txt", tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    text.write_text("\n".join(prompts) + "\n\n")
    lines.write_text("".join(json.dumps({"prompt": p, "id": 3}) + "\n" for p in prompts))
    flags = ("generate", f"--llm={folder}", "--max-new-tokens=6")
    status, said, err = recjax(*flags, f"--prompts={text}", f"--out={out}", "--batch-size=2")
    assert status == 0 and said is None and "5 answers in" in err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts and [*tmp_path.glob("*.part")] == []
    made = load_llm(folder).generate(prompts, max_new_tokens=6)
    assert [row["answer"] for row in rows] == made.texts
    assert [row["tokens"] for row in rows] == made.lengths.tolist()
    status, said, _ = recjax(*flags, f"--prompts={lines}", "--json")
    assert status == 0 and said["answers"] == rows
    status, _, err = recjax(*flags, f"--prompts={text}", f"--out={out}")
    assert status == 2 and "exists already; --overwrite replaces it" in err
    status, _, err = recjax(*flags, f"--prompts={lines}", f"--out={lines}", "--overwrite")
    assert status == 2 and "p.jsonl: another file is there, and recjax never" in err
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows


@pytest.mark.devices
@pytest.mark.parametrize("mesh", [(), ("--mesh=2,2,2",)], ids=["rows", "parameters"])
def test_several_devices(recjax, folder, tmp_path, mesh):
    file = tmp_path / "p.txt"
    file.write_text("the film\nis a\nlong\nfilm, 1995\n" * 2)
    flags = (f"--llm={folder}", f"--prompts={file}", "--max-new-tokens=6", "--json", *mesh)
    status, said, err = recjax("generate", *flags)
    assert status == 0, err
    made = load_llm(folder).generate(file.read_text().splitlines(), max_new_tokens=6)
    assert [row["answer"] for row in said["answers"]] == made.texts
    if mesh:
        status, _, err = recjax("generate", *flags[:-1], "--mesh=3,1,1")
        assert status == 2 and "--mesh (3, 1, 1) does not fit 8 devices" in err


def test_draws_do_not_depend_on_the_batch(recjax, folder, tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("the film\nis a\nlong\n")
    found = []
    for size in (1, 3):
        flags = (f"--llm={folder}", f"--prompts={file}", f"--batch-size={size}", "--json")
        drawn = ("--temperature=2.0", "--top-k=50", "--seed=3", "--max-new-tokens=6")
        found.append(recjax("generate", *flags, *drawn)[1]["answers"])
    assert found[0] == found[1]
    assert len({row["answer"] for row in found[0]}) == 3


def test_an_adapter_and_control_characters(recjax, folder, tmp_path, capsys, monkeypatch):
    """An adapter is merged; what the model writes cannot reach the terminal as commands."""
    base = read_language_model(folder)
    lora = LoRAConfig(rank=2, targets=("head",))
    rng = np.random.default_rng(0)
    both = adapted(base, lora, {})
    params = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in both.definition.shapes.items()
        if is_lora(path)
    }
    write_adapter(tmp_path / "a", base, lora, params)
    flags = ("generate", f"--llm={folder}", "--prompt=the", "--max-new-tokens=4", "--json")
    plain = recjax(*flags)[1]["answers"][0]
    tuned = recjax(*flags, f"--adapter={tmp_path / 'a'}")[1]["answers"][0]
    assert plain["answer"] != tuned["answer"]
    same = load_llm(folder, adapter=tmp_path / "a").generate(["the"], max_new_tokens=4)
    assert tuned["answer"] == same.texts[0]
    rows = iter([{"prompt": "a", "answer": "x\x1b[2J\ny", "tokens": 3}])
    monkeypatch.setattr("recjax.prompting.answers", lambda *args: rows)
    from recjax.cli import main

    assert main(["generate", f"--llm={folder}", "--prompt=the"]) == 0
    assert capsys.readouterr().out == "x\\x1b[2J\ny\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-new-tokens=0"], "--max-new-tokens: expected 1 to 1048576, got 0"),
        (["--temperature=-1"], "--temperature: expected 0 to"),
        (["--temperature=nan"], "--temperature: expected 0 to"),
        (
            ["--top-p=1.5", "--temperature=1"],
            "--top-p: expected more than 0 and at most 1, got 1.5",
        ),
        (["--top-p=0", "--temperature=1"], "--top-p: expected more than 0 and at most 1, got 0.0"),
        (["--top-k=5"], "--top-k needs --temperature above 0"),
        (["--beams=0"], "--beams: expected 1 to"),
        (
            ["--beams=2", "--temperature=1"],
            "--beams excludes --temperature: beam search does not sample",
        ),
        (["--seed=-1"], "--seed: expected 0 to"),
        (["--batch-size=0"], "--batch-size: expected 1 to"),
        (["--top-k=much"], "argument --top-k: invalid int value: 'much'"),
        (["--special", "--chat"], "--special excludes --chat"),
        (["--out=a.csv"], "--out a.csv: expected a name that ends in .jsonl"),
        (["--out=none/a.jsonl"], "--out none/a.jsonl: there is no folder"),
        (["--dtype=int8"], "dtype int8: expected one of float32"),
        (["--adapter=none"], "none/adapter_config.json: no such file"),
        (["--config.a=1"], "generate takes no --config.KEY"),
    ],
)
def test_flags_are_checked(recjax, folder, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = recjax("generate", f"--llm={folder}", "--prompt=the", *flags)
    assert status == 2 and message in err and err.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "a", "expected a name that ends in .txt or .jsonl"),
        ("p.txt", "\n \n", "p.txt: the file is empty"),
        ("p.jsonl", '{"text": "a"}', "p.jsonl:1: lacks the key 'prompt'; it has 'text'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}', "p.jsonl:2: 'prompt' is int, expected text"),
        ("p.jsonl", '{"prompt": "a"}\n[]', "p.jsonl:2: expected an object with 'prompt'"),
        ("none.txt", None, "none.txt: no such file"),
    ],
)
def test_files_of_prompts(recjax, folder, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    status, _, err = recjax("generate", f"--llm={folder}", f"--prompts={tmp_path / name}")
    assert status == 2 and message in err and err.count("\n") == 1


def test_a_model_is_needed(recjax, tmp_path):
    assert recjax("generate", "--prompt=a")[0] == 2
    status, _, err = recjax("generate", f"--llm={tmp_path / 'none'}", "--prompt=a")
    assert status == 2 and "no such folder" in err
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{"config": {"system": "finetune"}}')
    status, _, err = recjax("generate", f"--llm={run}", "--prompt=a")
    assert status == 2 and "a run without a finished language model" in err
