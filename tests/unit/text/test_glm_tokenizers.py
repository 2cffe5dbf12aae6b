"""GLM's and ChatGLM's tokenizers: command tokens by their ids, masks, what surrounds a text."""

import io
import json
import shutil

import pytest
from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2

from recjax.errors import InputError
from recjax.recsysllm.spans import Marks
from recjax.text._chatglm_engine import FILE, ChatGLMEngine
from recjax.text._token_ends import GLM_COMMANDS
from recjax.text.tokenizers import load_tokenizer

# As the published class has them.
EXAMPLE = "Ng is an adjunct professor at [MASK] (formerly associate professor)."
IDS = [45, 70, 318, 281, 44737, 6240, 379, 50260, 357, 36234, 11602, 6240, 737]
ADDED = {name: 50257 + k for k, name in enumerate(GLM_COMMANDS)}


def gpt2_folder(data_root, place, **files):
    shutil.copytree(data_root / "tokenizers" / "gpt2", place)
    for name, value in files.items():
        (place / f"{name}.json").write_text(json.dumps(value))
    return place


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"model_type": "glm", "num_layers": 48}},
        {"added_tokens": ADDED, "tokenizer_config": {"tokenizer_class": "GLMGPT2Tokenizer"}},
    ],
    ids=["by the model", "by its class"],
)
def test_glm_has_its_command_tokens_by_their_ids(data_root, tmp_path, files):
    glm = load_tokenizer(gpt2_folder(data_root, tmp_path / "glm", **files), size=50304)
    assert glm.size == 50266 and glm.pad_id == 50256
    assert {name: glm.id_of(name) for name in GLM_COMMANDS} == ADDED
    assert glm.encode(EXAMPLE, special=True) == IDS
    spelled = glm.encode(EXAMPLE)
    assert 50260 not in spelled and glm.decode(spelled) == EXAMPLE
    assert glm.encode_prompts(["a"]) == [[50259, *glm.encode("a"), 50256]]
    assert Marks.of(glm) == Marks(50259, 50256, 50257, 50258, 50260, 50264, 50263, 50265)
    glm.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode(EXAMPLE, special=True) == IDS and again.encode(EXAMPLE) == spelled
    assert (again.begin, again.end) == (glm.begin, glm.end)


def test_gpt2_alone_has_none_and_other_ids_are_refused(data_root, tmp_path):
    plain = load_tokenizer(data_root / "tokenizers" / "gpt2")
    assert plain.size == 50257 and (plain.begin, plain.end) == ((), ())
    with pytest.raises(
        InputError, match=r"has no \[CLS\] \(cls\), .*; expected one of GLM or ChatGLM"
    ):
        Marks.of(plain)
    far = gpt2_folder(data_root, tmp_path / "far", added_tokens={"[MASK]": 50300})
    with pytest.raises(InputError, match=r"added_tokens.json: ids \[50300\]; expected .* 50257"):
        load_tokenizer(far)
    other = gpt2_folder(data_root, tmp_path / "other", added_tokens={"the": 3})
    with pytest.raises(InputError, match="'the' has the id 3, but 1169 in vocab.json"):
        load_tokenizer(other)


def settings(data_root, tmp_path, **values):
    folder = gpt2_folder(data_root, tmp_path / "gpt2", tokenizer_config=values)
    return load_tokenizer(folder)


def test_other_families_follow_their_folder(data_root, tmp_path):
    begun = settings(data_root, tmp_path, add_bos_token=True, add_eos_token=True)
    assert (begun.begin, begun.end) == ((50256,), (50256,))


@pytest.fixture(scope="module")
def ice(tmp_path_factory):
    """A small model of the first release (no command tokens), and one of the later form."""
    out = io.BytesIO()
    texts = ["a user read the book\tof nobody", "then came the end of the story"] * 30
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=["<n>"],
        pad_id=3,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("ice")
    (folder / "first").mkdir()
    (folder / "first" / FILE).write_bytes(out.getvalue())
    later = sentencepiece_model_pb2.ModelProto()
    later.ParseFromString(out.getvalue())
    (folder / "pieces").write_text(str(len(later.pieces)))
    ChatGLMEngine._complete(later)
    (folder / "later").mkdir()
    (folder / "later" / FILE).write_bytes(later.SerializeToString())
    (folder / "first" / "tokenizer_config.json").write_text('{"num_image_tokens": 20000}')
    (folder / "later" / "tokenizer_config.json").write_text('{"num_image_tokens": 0}')
    return folder


def test_chatglm_has_both_vocabularies(ice):
    first, later = (load_tokenizer(ice / name) for name in ("first", "later"))
    own = int((ice / "pieces").read_text())
    assert later.size == own + 8 + 1 + 79 + 256 and first.size == later.size + 20000
    names = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
    assert [later.id_of(name) for name in names] == list(range(own, own + 8))
    assert [later.id_of(n) for n in ("<|tab|>", "<|blank_2|>")] == [own + 8, own + 9]
    text = "the book\n  of\tnobody" + " " * 85 + "☃"
    ids = later.encode(text)
    assert [k + 20000 for k in ids] == first.encode(text)
    assert later.id_of("<n>") in ids and later.id_of("<|blank_80|>") in ids
    assert later.decode(ids) == text and first.decode(first.encode(text)) == text
    assert later.decode([later.id_of("<unk>"), *ids]) == text
    for one in (first, later):
        assert (one.bos_id, one.eos_id, one.pad_id) == tuple(
            one.id_of(name) for name in ("<sop>", "<eop>", "<pad>")
        )
        assert one.encode_prompts(["a"]) == [
            [*one.encode("a"), one.id_of("[gMASK]"), one.id_of("<sop>")]
        ]
        marks = Marks.of(one)
        assert marks.cls == -1 and marks.sop == one.id_of("<sop>")
        assert marks.document == one.id_of("[gMASK]") and marks.block == one.id_of("<dBLOCK>")


def test_chatglms_names_are_text_unless_asked(ice, tmp_path):
    later = load_tokenizer(ice / "later")
    text = "the [gMASK] of <sop>"
    plain = later.encode(text)
    assert later.id_of("[gMASK]") not in plain and later.decode(plain) == text
    special = later.encode(text, special=True)
    assert later.id_of("[gMASK]") in special and later.id_of("<sop>") in special
    assert "[gMASK]" not in later.decode(special)
    # A text that goes on gets no blank before it.
    assert later.decode(later.encode("the") + later.encode("book", start=False)) == "thebook"
    assert later.encode("the", start=False) != later.encode("the")
    later.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(text) == plain


def test_a_damaged_model_is_one_line(tmp_path):
    (tmp_path / FILE).write_bytes(b"no model")
    with pytest.raises(InputError, match=f"{FILE}: damaged, or not a SentencePiece model"):
        load_tokenizer(tmp_path)


WORD_PIECES = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "movie", "##s", "we", "saw", ".", ",", "!",
    "a", "cafe", "##ter", "日", "本", "##1",
)  # fmt: skip
BERT = {"model_type": "glm", "num_layers": 12}


@pytest.fixture
def bert(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORD_PIECES) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    return tmp_path


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_berts_word_pieces(bert, settings):
    """Those of transformers; GLM's two tokens follow the vocabulary, and its mask strips."""
    transformers = pytest.importorskip("transformers")
    if settings:
        (bert / "tokenizer_config.json").write_text(json.dumps(settings))
    glm = load_tokenizer(bert)
    theirs = transformers.BertTokenizer(str(bert / "vocab.txt"), **settings)
    (bert / "config.json").write_text("{}")  # BERT's own begins and ends a text, too
    assert load_tokenizer(bert).encode_prompts(["the movie"]) == [theirs("the movie").input_ids]
    for text in (
        "The movies, we saw!",
        "Café  the\tcafeter",
        "日本 the",
        "moviess 1",
        "[MASK]",
        "",
    ):
        if text != "[MASK]":
            assert glm.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert glm.encode_prompts([text]) == [[2, *glm.encode(text), 3]]
    n = len(WORD_PIECES)
    assert (glm.id_of("<|startofpiece|>"), glm.id_of("<|endofpiece|>")) == (n, n + 1)
    assert Marks.of(glm) == Marks(2, 0, n, n + 1, 4, 4, 4)
    assert glm.encode("we saw [MASK].", special=True) == [8, 9, 4, 10]
    assert glm.decode(glm.encode("we saw movies.")) == "we saw movies."
    glm.save(bert / "saved")
    again = load_tokenizer(bert / "saved")
    assert again.encode("we saw [MASK].", special=True) == [8, 9, 4, 10]
    assert (again.begin, again.end) == ((2,), (3,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocab.txt": "the\nmovie\n"},
            r"vocab.txt: no line '\[PAD\]'; expected BERT's vocabulary",
        ),
        ({"vocab.txt": "\n".join((*WORD_PIECES, "the"))}, r"vocab.txt:20: 'the' is there twice"),
        ({"added_tokens.json": '{"[gMASK]": 90}'}, r"ids \[90\]; expected those from 19 on"),
        ({"added_tokens.json": '{"the": 3}'}, "'the' has the id 3, but line 6 of vocab.txt"),
        ({"tokenizer_config.json": '{"do_lower_case": 1}'}, "'do_lower_case' is 1, expected true"),
    ],
)
def test_a_wrong_vocabulary_is_one_line(bert, change, message):
    for name, text in change.items():
        (bert / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_tokenizer(bert)


def test_robertas_vocabulary(tmp_path):
    """Its own tokens begin and end a text; the two of GLM follow its 50,265."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *"ab", "Ġ"]
    names += [f"t{k}" for k in range(50264 - len(names))] + ["<mask>"]
    vocab = {name: k for k, name in enumerate(names)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GLMRobertaTokenizer"}')
    glm = load_tokenizer(tmp_path, size=50304)
    assert Marks.of(glm) == Marks(0, 2, 50265, 50266, 50264, 50264, 50264)
    assert glm.encode_prompts(["ab"]) == [[0, 4, 5, 2]]
    assert glm.encode("a <mask> b", special=True) == [4, 50264, 6, 5]
    assert glm.pad_id == 1 and 50264 not in glm.encode("<mask>")


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    """A small model of the published kind (unigram), and its command tokens."""
    out = io.BytesIO()
    texts = ["a user read the book\n(of nobody)", "then came the end of the 书 story"] * 30
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, vocab_size=70, hard_vocab_limit=False,
        user_defined_symbols=["<n>", "<|tab_1|>", "<|blank_2|>"], minloglevel=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("cog")
    (folder / "cog-pretrain.model").write_bytes(out.getvalue())
    pieces = sentencepiece_model_pb2.ModelProto()
    pieces.ParseFromString(out.getvalue())
    n = len(pieces.pieces)
    names = ("<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]", "", *GLM_COMMANDS[:2])
    ids = {name: n + k for k, name in enumerate((*names, "[sMASK]", "[gMASK]")) if name}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GLMChineseTokenizer"}')
    return folder, ids


def test_the_chinese_model(cog):
    folder, ids = cog
    glm = load_tokenizer(folder)
    assert glm.size == max(ids.values()) + 1 and glm.pad_id == ids["<|endoftext|>"]
    assert glm.eos_id == ids["<|endoftext|>"] and glm.bos_id == ids["[CLS]"]
    assert glm.encode_prompts(["the"]) == [[ids["[CLS]"], *glm.encode("the"), glm.eos_id]]
    assert Marks.of(glm) == Marks(
        ids["[CLS]"], ids["<|endoftext|>"], ids["<|startofpiece|>"], ids["<|endofpiece|>"],
        ids["[MASK]"], ids["[sMASK]"], ids["[gMASK]"],
    )  # fmt: skip
    text = "the book\n\tof  nobody"
    spelled = glm.encode(text)
    assert [glm.id_of(n) in spelled for n in ("<n>", "<|tab_1|>", "<|blank_2|>")] == [True] * 3
    assert glm.decode(spelled) == text
    # The mask takes the blank before it, and the text after it begins without one.
    filled = glm.encode("the [gMASK] book", special=True)
    at = filled.index(ids["[gMASK]"])
    assert filled[:at] == glm.encode("the")
    whole, after = glm.encode("book"), filled[at + 1 :]
    first = glm.token(whole[0])
    bare = glm.id_of(first[1:]) if first != "▁" else None
    assert after == ([bare, *whole[1:]] if bare is not None else whole)
    assert ids["[gMASK]"] not in glm.encode("the [gMASK] book")
    assert "[gMASK]" not in glm.decode(filled) and glm.decode(filled, skip_special=False) != ""


def test_the_chinese_model_without_names(cog, tmp_path):
    shutil.copy(cog[0] / "cog-pretrain.model", tmp_path)
    with pytest.raises(InputError, match=r"cog-pretrain.model: no id for '<\|endoftext\|>'; expec"):
        load_tokenizer(tmp_path)
