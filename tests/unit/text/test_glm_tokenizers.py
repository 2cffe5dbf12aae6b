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
from recjax.text.tokenizers import check_size, load_tokenizer

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
    with pytest.raises(InputError, match=r"has no \[CLS\]; expected one of GLM or ChatGLM"):
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
    check_size(later, later.size + 184)
    with pytest.raises(InputError, match="another model"):
        check_size(later, later.size + 100)
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
