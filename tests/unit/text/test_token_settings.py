"""The first and last tokens of a text are those that Transformers gives for the same folder."""

import json
import shutil

import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from recjax.errors import InputError
from recjax.text.tokenizers import load_tokenizer

TEXTS = [f"a user has watched film number {k} and the next" for k in range(300)]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BOS, EOS = ("<s>", 1), ("</s>", 2)


def template(*words):
    single = list(words)
    special = [token for token in (BOS, EOS) if token[0] in words]
    return processors.TemplateProcessing(
        single=single, pair=[*single, "$B:1"], special_tokens=special
    )


PROCESSORS = {
    "none": None,
    "bos": template("<s>", "$A"),
    "bos twice": template("<s>", "<s>", "$A"),
    "both": template("<s>", "$A", "</s>"),
    "eos": template("$A", "</s>"),
    "bytes": processors.ByteLevel(trim_offsets=False),
    "sequence": processors.Sequence([processors.ByteLevel(), template("<s>", "$A")]),
    "roberta": processors.RobertaProcessing(EOS, BOS),
}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A small SentencePiece model."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "texts").write_text("\n".join(TEXTS))
    SentencePieceTrainer.train(
        input=str(folder / "texts"), model_prefix=str(folder / "m"), vocab_size=300,
        model_type="bpe", byte_fallback=True, minloglevel=9,
    )  # fmt: skip
    return folder / "m.model"


@pytest.fixture(scope="module")
def fast():
    """A small tokenizer.json, of bytes and of pieces."""
    out = {}
    for name, pre in (
        ("bytes", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ("pieces", pre_tokenizers.Metaspace()),
    ):
        out[name] = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=name == "pieces"))
        out[name].pre_tokenizer = pre
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        )
        out[name].train_from_iterator(TEXTS, trainer)
    return out


def write(folder, settings, pieces=None, tokenizer=None, post=None):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMES | settings))
    if pieces is not None:
        shutil.copyfile(pieces, folder / "tokenizer.model")
    if tokenizer is not None:
        spec = json.loads(tokenizer.to_str())
        spec["post_processor"] = post and json.loads(post.__getstate__())
        spec["truncation"] = {
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        }  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(spec))


def same_as_transformers(folder, text="user film number 1 and the next"):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)(text).input_ids
    ours = load_tokenizer(folder)
    assert ours.encode_prompts([text]) == [theirs]
    return [*ours.begin], [*ours.end]


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("post", PROCESSORS)
def test_a_tokenizer_json_s_post_processor_decides(fast, tmp_path, post, kind):
    settings = {"add_bos_token": post == "none", "add_eos_token": True}  # not read beside it
    settings |= {} if kind is None else {"tokenizer_class": kind}
    write(tmp_path, settings, tokenizer=fast["pieces"], post=PROCESSORS[post])
    begin, end = same_as_transformers(tmp_path)
    assert begin == {"none": [], "eos": [], "bytes": [], "bos twice": [1, 1]}.get(post, [1])
    assert end == ([2] if post in ("both", "eos", "roberta") else [])


def test_the_ends_of_an_alphabet_without_an_a(tmp_path):
    tokenizer = Tokenizer(models.BPE({"ü": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, []))
    tokenizer.add_special_tokens([BOS[0], EOS[0]])
    write(tmp_path, {}, tokenizer=tokenizer, post=template("<s>", "$A", "</s>"))
    ours = load_tokenizer(tmp_path)
    assert (ours.begin, ours.end, ours.encode_prompts(["ü"])) == ((1,), (2,), [[1, 0, 2]])


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False, None])
def test_a_sentencepiece_model_follows_the_config(pieces, tmp_path, bos, eos):
    settings = {"add_bos_token": bos, "tokenizer_class": "LlamaTokenizer", "legacy": False}
    settings |= {} if eos is None else {"add_eos_token": eos}
    write(tmp_path, settings, pieces=pieces)
    assert same_as_transformers(tmp_path) == ([1] if bos else [], [2] if eos else [])


def test_where_nothing_is_said_llama_begins_a_text(pieces, tmp_path):
    """As Transformers 4 and the class's documentation; Transformers 5.23 does not."""
    write(tmp_path, {}, pieces=pieces)
    assert load_tokenizer(tmp_path).begin == (1,)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).begin == (1,)


def test_a_tokenizer_json_beside_a_sentencepiece_model_decides(pieces, fast, tmp_path):
    write(tmp_path, {"add_bos_token": True}, pieces, fast["pieces"], PROCESSORS["eos"])
    ours = load_tokenizer(tmp_path)
    assert (ours.begin, ours.end) == ((), (2,))
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").end == (2,)


@pytest.mark.parametrize(
    "form, kind, prefix",
    [
        ("model", "LlamaTokenizer", False),
        ("model", "LlamaTokenizer", True),
        ("pieces", "LlamaTokenizer", False),
        ("pieces", "PreTrainedTokenizerFast", False),
        ("bytes", "GPT2Tokenizer", False),
        ("bytes", "PreTrainedTokenizerFast", True),
    ],
)
def test_the_blank_before_a_text(pieces, fast, tmp_path, form, kind, prefix):
    settings = {"add_prefix_space": prefix, "tokenizer_class": kind, "add_bos_token": True}
    model = pieces if form == "model" else None
    write(tmp_path, settings, pieces=model, tokenizer=fast.get(form), post=PROCESSORS["bos"])
    same_as_transformers(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_prefix_space": True}])
def test_gpt_2_s_files(fast, tmp_path, settings):
    fast["bytes"].model.save(str(tmp_path))
    write(tmp_path, settings | {"tokenizer_class": "GPT2Tokenizer"})
    begin, _ = same_as_transformers(tmp_path)
    assert begin == ([1] if "add_bos_token" in settings else [])


@pytest.mark.parametrize("form", ["pieces", "vocab"])
def test_added_tokens_take_the_blanks_that_their_flags_say(pieces, fast, tmp_path, form):
    from transformers import AutoTokenizer

    flags = {"<l>": ["lstrip"], "<b>": ["lstrip", "rstrip", "special"], "film": ["single_word"]}
    size = 300 if form == "pieces" else fast["bytes"].get_vocab_size()
    decoder = {
        str(size + k): {"content": name, "normalized": False, **dict.fromkeys(of, True)}
        for k, (name, of) in enumerate(flags.items())
    }
    kind = "LlamaTokenizer" if form == "pieces" else "GPT2Tokenizer"
    if form == "pieces":  # of the model's own, too
        decoder["2"] = {"content": "</s>", "normalized": False, "special": True, "rstrip": True}
    settings = {"added_tokens_decoder": decoder, "tokenizer_class": kind}
    write(tmp_path, settings, pieces=pieces if form == "pieces" else None)
    if form == "vocab":
        fast["bytes"].model.save(str(tmp_path))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    texts = (
        "a  <l> user", "a <b> \n user", "<b> <b>", "film", "films<l>", "user  <l>  <b>a</s>\na"
    )  # fmt: skip
    for text in texts:
        expected = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, special=True) == expected, text
        text_of_all = theirs.decode(expected, skip_special_tokens=True)  # an end is none
        assert ours.decode(expected).split() == text_of_all.split()
    ours.save(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").encode(text, special=True) == expected


@pytest.mark.parametrize("legacy", [True, False])
def test_legacy_puts_a_blank_after_a_token_too(pieces, tmp_path, legacy):
    from transformers import AutoTokenizer

    write(tmp_path, {"legacy": legacy, "tokenizer_class": "LlamaTokenizer"}, pieces=pieces)
    theirs = AutoTokenizer.from_pretrained(tmp_path)("<s>film", add_special_tokens=False).input_ids
    assert load_tokenizer(tmp_path).encode("<s>film", special=True) == theirs


def test_saved_ends_are_read_alike(pieces, tmp_path):
    write(tmp_path, {"add_bos_token": False, "add_eos_token": True}, pieces=pieces)
    ours = load_tokenizer(tmp_path)
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (again.begin, again.end) == (ours.begin, ours.end) == ((), (2,))


def test_ids_between_added_tokens_are_none(pieces, tmp_path):
    """Transformers' ids may have gaps, where a model's embedding has rows."""
    (tmp_path / "added_tokens.json").write_text('{"<film>": 310}')
    shutil.copyfile(pieces, tmp_path / "tokenizer.model")
    ours = load_tokenizer(tmp_path, size=312)
    assert (ours.size, ours.token(305), ours.token(310)) == (311, None, "<film>")
    ids = ours.encode("a film")
    assert ours.decode([*ids, 305, 310, 311]) == "a film<film>"


def test_the_first_llama_s_empty_names_are_no_names(pieces, tmp_path):
    write(tmp_path, dict.fromkeys(NAMES, ""), pieces=pieces)
    assert (load_tokenizer(tmp_path).bos_id, load_tokenizer(tmp_path).eos_id) == (1, 2)


DAMAGED = {
    "tokenizer_config.json": {
        '{"add_bos_token": "yes"}': "'add_bos_token' is 'yes', expected true or false",
        '{"legacy": 1}': "'legacy' is 1, expected true or false",
        '{"tokenizer_class": [1]}': "'tokenizer_class' is [1], expected a name",
        '{"bos_token": 7}': "'bos_token' is 7, expected a token's name",
        '{"eos_token": {"id": 2}}': "'eos_token' is {'id': 2}, expected a token's name",
        '{"added_tokens_decoder": [1]}': "'added_tokens_decoder' is [1], expected an object",
        '{"added_tokens_decoder": {"x": {}}}': "'x': expected an id and its token",
        '{"added_tokens_decoder": {"7": 7}}': "'7': expected an id and its token",
        '{"added_tokens_decoder": {"7": {"content": 1}}}': "'content' is 1, expected a token's",
        '{"added_tokens_decoder": {"1000000000": {"content": "x"}}}': "has the id 1000000000, exp",
        "[" * 100_000: "nested deeper",
        "[]": "expected a JSON object",
    },
    "special_tokens_map.json": {
        '{"bos_token": ["<s>"]}': "'bos_token' is ['<s>'], expected a token's name",
        '{"pad_token": "[PAD]"}': "pad_token '[PAD]' is no token",
    },
    "added_tokens.json": {
        '{"<pad>": 1000000000}': "the token '<pad>' has the id 1000000000, expected a number from",
        '{"<pad>": "x"}': "the token '<pad>' has the id 'x'",
        '{"<pad>": -1}': "the token '<pad>' has the id -1",
    },
    "tokenizer.json": {
        '{"added_tokens": 3}': "'added_tokens' is no list of tokens",
        '{"added_tokens": [{"content": "x", "id": true}]}': "the token 'x' has the id True",
        "{}": "'model.vocab' is missing",
    },
    "config.json": {"{": "not a readable JSON file"},
}


@pytest.mark.parametrize("name, text", [(n, text) for n, some in DAMAGED.items() for text in some])
def test_a_damaged_setting_is_one_line(pieces, tmp_path, name, text):
    shutil.copyfile(pieces, tmp_path / "tokenizer.model")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / name}: ") and DAMAGED[name][text] in message
    assert "\n" not in message and len(message) < 400


def test_a_post_processor_of_a_token_that_is_not_there(fast, tmp_path):
    write(tmp_path, {}, tokenizer=fast["pieces"], post=PROCESSORS["bos"])
    file = tmp_path / "tokenizer.json"
    spec = json.loads(file.read_text())
    spec["post_processor"]["single"][0]["SpecialToken"]["id"] = "x"  # a panic of the library's
    file.write_text(json.dumps(spec))
    with pytest.raises(InputError, match="tokenizer.json: damaged, or no tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
def test_an_id_that_no_table_could_have_a_row_for(fast, tmp_path, form):
    spec = json.loads(fast["bytes"].to_str())
    spec["model"]["vocab"]["film"] = 10**9
    if form == "tokenizer.json":
        (tmp_path / form).write_text(json.dumps(spec))
    else:
        fast["bytes"].model.save(str(tmp_path))
        (tmp_path / form).write_text(json.dumps(spec["model"]["vocab"]))
    expected = f"{form}: the token 'film' has the id 1000000000, expected a number from 0 to "
    with pytest.raises(InputError, match=expected):
        load_tokenizer(tmp_path)
