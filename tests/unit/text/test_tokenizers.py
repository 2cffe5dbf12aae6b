"""Tokenizers against SentencePiece itself, Transformers, and the rules of the docstrings."""

import json
import shutil
import threading
import types

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.text._token_engines import FastEngine
from recjax.text.bpe import train_bpe
from recjax.text.tokenizers import check_size, load_tokenizer

# Where Transformers 5 differs from SentencePiece, and other odd ones.
TEXTS = [
    "A user has watched Twelve Monkeys, Cat People.",
    " one blank before",
    "  two",
    "two  blanks  between",
    "trailing ",
    "\n line\n\nbreaks \t tab",
    "a title with </s> and <s> in it",
    "日本語のゲーム, Café, 🎮, \x01",
    "1999 - Special Edition  Double Pack",
    " ",
    "",
]


@pytest.fixture(scope="module")
def folders(data_root):
    return {name: data_root / "tokenizers" / name for name in ("llama2", "gpt2")}


@pytest.fixture(scope="module")
def llama(folders):
    return load_tokenizer(folders["llama2"], size=32000)


@pytest.fixture(scope="module")
def gpt2(folders):
    return load_tokenizer(folders["gpt2"])


@pytest.fixture(scope="module")
def pieces(folders):
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(folders["llama2"] / "tokenizer.model"))


@pytest.fixture(scope="module")
def small():
    texts = [f"The Matrix ({1900 + n}), then Heat and the Alien." for n in range(50)]
    return train_bpe(texts, 300)


def odd_titles(data_root):
    games = (data_root / "steam-reviews" / "games.jsonl").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line).get("title")) for line in games]


def test_llama_is_sentencepiece_itself(llama, pieces, data_root):
    texts = TEXTS + odd_titles(data_root)
    expected = pieces.encode(texts)
    assert llama.encode_batch(texts) == expected
    assert [llama.encode(text) for text in TEXTS] == expected[: len(TEXTS)]
    assert (llama.size, llama.bos_id, llama.eos_id, llama.pad_id) == (32000, 1, 2, 0)
    assert llama.encode("a", bos=True, eos=True) == [1, 263, 2]
    assert (llama.token(263), llama.id_of("▁a"), llama.id_of("no such")) == ("▁a", 263, None)


def test_threads_do_not_change_each_other_s_texts():
    """A thread makes training's batches, with names as text, while another reads prompts."""

    class Slow:
        """Answers whether names were text, after another thread had its chance to encode."""

        encode_special_tokens = False

        def encode_batch_fast(self, texts, add_special_tokens):
            if texts == ["prompt"]:
                other = threading.Thread(target=engine.encode, args=(["title"], True, False))
                others.append(other)
                other.start()
                other.join(0.05)
            return [types.SimpleNamespace(ids=self.encode_special_tokens)]

        def get_vocab(self, with_added_tokens):
            return {}

        no_truncation = no_padding = staticmethod(lambda: None)

    others: list[threading.Thread] = []
    engine = FastEngine(Slow())
    assert engine.encode(["prompt"], True, True) == [False]
    others[0].join()


def test_ids_that_no_token_has(small):
    assert small.decode([*small.encode("Heat"), small.size, 1 << 40]) == "Heat"
    assert (small.token(-1), small.token(1 << 40)) == (None, None)
    with pytest.raises(InputError, match="a token's id is -100; expected numbers from 0 on"):
        small.decode(np.array([5, -100]))


@pytest.mark.parametrize("name", ["llama", "gpt2", "small"])
def test_texts_come_back(name, request):
    tokenizer = request.getfixturevalue(name)
    for text in TEXTS:
        ids = tokenizer.encode(text, bos=True, eos=True)
        assert tokenizer.decode(np.array(ids)) == text
        assert max(ids) < tokenizer.size


def test_an_answer_goes_on_after_its_prompt(llama, gpt2):
    for tokenizer in (llama, gpt2):
        whole = tokenizer.encode("Which film? Twelve Monkeys.")
        answer = tokenizer.encode(" Twelve Monkeys.", start=False)
        assert tokenizer.encode("Which film?") + answer == whole
    assert llama.encode(". x", start=False) != llama.encode(". x")


def test_names_of_control_tokens_are_text_unless_asked(llama, small):
    assert 2 not in llama.encode("x</s>y")
    assert llama.encode("x</s>y", special=True) == [921, 2, 29891]
    assert llama.decode([921, 2, 921]) == "x x"
    assert llama.decode([921, 2, 921], skip_special=False) == "x</s> x"
    assert small.eos_id not in small.encode("x</s>")
    assert small.encode("x</s>", special=True)[-1] == small.eos_id


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_placeholder_is_a_word(name, request):
    """The ids around it are those around a word of one token."""
    tokenizer = request.getfixturevalue(name)
    for text in ("A user has watched {soft}. What", "lists: {soft}, {soft} and\n {soft}", "{soft}"):
        ids, is_soft = tokenizer.encode_with_soft(text, bos=True)
        word = tokenizer.encode(" films", start=False)
        worded = tokenizer.encode(text.replace("{soft}", "films"), bos=True)
        if text == "{soft}" and name == "gpt2":  # no blank before a text
            worded = [tokenizer.bos_id, *word]
        assert len(word) == 1 and ids != worded
        assert [word[0] if soft else k for k, soft in zip(ids, is_soft, strict=True)] == worded
        assert {k for k, soft in zip(ids, is_soft, strict=True) if soft} == {tokenizer.pad_id}


def test_several_soft_tokens_a_placeholder(llama):
    one, _ = llama.encode_with_soft("a {soft} b {soft}.")
    ids, is_soft = llama.encode_with_soft("a {soft} b {soft}.", soft=(2, 3))
    assert is_soft == [False, True, True, False, True, True, True, False]
    kept = [k for k, soft in zip(ids, is_soft, strict=True) if not soft]
    assert kept == [one[0], one[2], one[4]]
    with pytest.raises(InputError, match="a prompt has 0 of '{soft}', expected at least 1"):
        llama.encode_with_soft("no placeholder")
    with pytest.raises(InputError, match="a prompt has 1 of '{soft}', expected 2"):
        llama.encode_with_soft("{soft}", soft=(1, 1))


@pytest.mark.parametrize("name", ["llama", "gpt2", "small"])
def test_saved_files_give_the_same_ids_here_and_in_transformers(name, request, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path / "a")
    # A language model's folder has its config too: LlamaTokenizer must not take over.
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a")
    load_tokenizer(tmp_path / "a").save(tmp_path / "b")
    ours = load_tokenizer(tmp_path / "b")
    for text in TEXTS:
        expected = tokenizer.encode(text)
        assert ours.encode(text) == expected
        if "</s>" in text:  # Transformers takes it for the token
            expected = tokenizer.encode(text, special=True)
        if not (name == "llama" and "</s>" in text):  # legacy: a blank after a control token
            assert theirs(text, add_special_tokens=False)["input_ids"] == expected, text
    begun = theirs("x")["input_ids"]
    assert begun == tokenizer.encode("x", bos=name != "gpt2")
    roles = ("bos_id", "eos_id", "pad_id", "size")
    assert [getattr(ours, r) for r in roles] == [getattr(tokenizer, r) for r in roles]
    for file in (tmp_path / "b").iterdir():
        assert file.read_bytes() == (tmp_path / "a" / file.name).read_bytes()
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)


def test_a_tokenizer_json_alone_follows_the_same_rules(llama, tmp_path):
    llama.save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    fast = load_tokenizer(tmp_path)
    prompt = "watched {soft}. Which of [{soft}]?"
    assert fast.encode_with_soft(prompt) == llama.encode_with_soft(prompt)
    for text in TEXTS:
        for start in (True, False):
            assert fast.encode(text, start=start) == llama.encode(text, start=start), text


def test_tokens_added_to_a_sentencepiece_model(folders, tmp_path):
    shutil.copyfile(folders["llama2"] / "tokenizer.model", tmp_path / "tokenizer.model")
    added = {"32000": {"content": "[PAD]", "special": True}, "32001": {"content": "<film>"}}
    config = {"added_tokens_decoder": added, "pad_token": "[PAD]", "chat_template": "kept"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.size, tokenizer.pad_id, tokenizer.token(32001)) == (32002, 32000, "<film>")
    assert tokenizer.encode("a<film> b [PAD]")[:3] == [263, 32001, 289]
    assert 32000 not in tokenizer.encode("a [PAD]")
    assert tokenizer.decode([263, 32001, 289, 32000, 40000]) == "a<film> b"
    tokenizer.save(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").encode("a<film> b") == [263, 32001, 289]
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"]


def test_a_t5_folder_with_spiece_model_alone(tmp_path):
    """As google/t5-v1_1-* and T0 are published: sentinels behind the pieces, </s> at the end."""
    import sentencepiece
    import tokenizers

    texts = [f"The Matrix ({1900 + n}), then Heat and the Alien." for n in range(200)]
    with (tmp_path / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=40, pad_id=0, eos_id=1,
            unk_id=2, bos_id=-1, model_type="unigram", minloglevel=2,
        )  # fmt: skip
    config = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 100}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path, size=140)
    assert (tokenizer.pad_id, tokenizer.begin, tokenizer.end) == (0, (), (1,))
    ids = tokenizer.encode("then <extra_id_0> the Alien.", special=True)
    assert ids.count(139) == 1 and tokenizer.id_of("<extra_id_99>") == 40
    assert tokenizer.decode(ids, skip_special=False) == "then<extra_id_0> the Alien."
    assert tokenizer.encode_prompts(["then Heat"]) == [[*tokenizer.encode("then Heat"), 1]]
    assert 139 not in tokenizer.encode("<extra_id_0>")  # a title may hold it
    tokenizer.save(tmp_path / "out")
    again = load_tokenizer(tmp_path / "out", size=140)
    assert again.encode("then Heat") == tokenizer.encode("then Heat") and again.end == (1,)
    import transformers

    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS[:4], "then <extra_id_0> the Alien."):
        assert [*tokenizer.encode(text, special=True), 1] == theirs(text).input_ids
    for text in ("then Über the <unk> Alien.", "Ünd then Ü"):
        ids = tokenizer.encode(text, special=True)
        assert 2 in ids
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            assert tokenizer.decode(ids, skip_special=skip) == expected
    # What goes on may begin with unknown characters, one piece together with those before it.
    rest = tokenizer.encode("then", start=False)
    assert tokenizer.encode("Üñthen", start=False) == [2, *rest]
    assert tokenizer.encode("<extra_id_0>Üthen", special=True) == [139, 2, *rest]
    # As t5-small and T0 have it beside: cut at blanks, which a blank before each word replaces.
    backend = theirs.backend_tokenizer
    pre = tokenizers.pre_tokenizers
    backend.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()])
    backend.save(str(tmp_path / "tokenizer.json"))
    fast = load_tokenizer(tmp_path)
    for text in (" then Heat", "then  the\tAlien ", ", Heat\nand", " "):
        for start in (True, False):
            assert fast.encode(text, start=start) == tokenizer.encode(text, start=start), text
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"extra_ids": "100"}))
    with pytest.raises(InputError, match="'extra_ids' is '100', expected a number of tokens"):
        load_tokenizer(tmp_path)


def test_llama_3_keeps_a_tiktoken_file_beside_its_json(small, tmp_path):
    small.save(tmp_path)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    assert load_tokenizer(tmp_path).encode("The") == small.encode("The")
    with pytest.raises(InputError, match="tokenizer.model: a tiktoken file; expected a SentenceP"):
        load_tokenizer(tmp_path / "tokenizer.model")
    # The ends of a text by the model's config, which may name several.
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    (tmp_path / "config.json").write_text('{"bos_token_id": 5, "eos_token_id": [7, 8]}')
    found = load_tokenizer(tmp_path)
    assert (found.bos_id, found.eos_id, found.pad_id) == (5, 7, 0)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        (50257, 50257), (50257, 50304), (50277, 50688), (50295, 51200),  # GPT-2, Pythia, Phi-2
        (151669, 151936), (151665, 152064), (128256, 128256),  # Qwen3, Qwen2.5, LLaMA 3
        (100015, 102400), (32100, 32128), (50266, 50304),  # DeepSeek, T5, GLM
        (151343, 151552), (130344, 130528), (500, 755),  # GLM-4, ChatGLM, a small one
    ],
)  # fmt: skip
def test_rows_that_published_models_leave_without_an_id_are_right(size, rows):
    check_size(types.SimpleNamespace(size=size), rows)


@pytest.mark.parametrize(
    ("size", "rows", "reason"),
    [
        (50257, 50256, "more"), (50257, 60000, "far fewer"), (32000, 50257, "far fewer"),
        (50257, 51600, "far fewer"), (500, 756, "far fewer"),
    ],
)  # fmt: skip
def test_another_models_tokenizer_is_refused(size, rows, reason):
    with pytest.raises(InputError, match=f"{size} ids, {reason} than .* has rows \\({rows}\\)"):
        check_size(types.SimpleNamespace(size=size), rows)


def test_bad_files_are_one_error_each(folders, tmp_path):
    def refused(path, message, **options):
        with pytest.raises(InputError, match=message) as error:
            load_tokenizer(path, **options)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "nowhere: no such file or folder")
    refused(tmp_path, "no tokenizer there; expected tokenizer.model, tokenizer.json")
    model = (folders["llama2"] / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model[: len(model) // 2 + 3])
    refused(tmp_path, "tokenizer.model: damaged, or not a SentencePiece model")
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    refused(tmp_path, "tokenizer.json: not a readable JSON file")
    (tmp_path / "tokenizer.json").unlink()
    shutil.copyfile(folders["gpt2"] / "vocab.json", tmp_path / "vocab.json")
    refused(tmp_path, "merges.txt: missing")
    shutil.copyfile(folders["gpt2"] / "merges.txt", tmp_path / "merges.txt")
    refused(
        tmp_path, "50257 ids, far fewer than the model's embedding has rows \\(60000", size=60000
    )
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "[PAD]"}}')
    refused(tmp_path, "tokenizer_config.json: pad_token '\\[PAD\\]' is no token")


def test_what_a_tokenizer_has_not(gpt2, small, folders):
    assert (gpt2.bos_id, gpt2.eos_id, gpt2.pad_id) == (50256, 50256, 50256)
    bare = train_bpe(["x"], 259)
    bare.bos_id = None
    with pytest.raises(InputError, match="the tokenizer has no bos token"):
        bare.encode("x", bos=True)


@pytest.mark.parametrize("name", ["llama", "gpt2", "small"])
def test_what_is_no_text(name, request):
    tokenizer = request.getfixturevalue(name)
    with pytest.raises(InputError, match=r"text 1: half of a surrogate pair"):
        tokenizer.encode_batch(["x", "\udc80x"])
    with pytest.raises(InputError, match="text 0 is 3; expected text"):
        tokenizer.encode_prompts([3])
