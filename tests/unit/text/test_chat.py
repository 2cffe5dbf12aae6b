"""Forms of prompts: control tokens are text unless it is said otherwise; templates of chats."""

import json
import warnings

import pytest

from recjax.errors import InputError
from recjax.text.bpe import train_bpe
from recjax.text.chat import ChatTemplate, prompt_ids
from recjax.text.tokenizers import load_tokenizer

BPE = train_bpe(["Which film? <user> Alien and </s>"] * 3, 300)
BOS, EOS = BPE.bos_id, BPE.eos_id


def test_names_of_control_tokens_are_text_and_a_warning_tells():
    with pytest.warns(UserWarning, match="'</s>', which is the name of a control token"):
        (ids,) = prompt_ids(BPE, ["a </s> b"])
    assert ids[0] == BOS and EOS not in ids and BPE.decode(ids) == "a </s> b"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prompt_ids(BPE, ["a <b> c"])[0][0] == BOS
        assert EOS in prompt_ids(BPE, ["a </s> b"], "special")[0]


def test_a_special_prompt_begins_once():
    for text in ("a", "<s>a"):
        ids = prompt_ids(BPE, [text], "special")[0]
        assert ids == [BOS, *BPE.encode("a")]


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def folder_with(tmp_path, template, file="tokenizer_config.json"):
    if not (tmp_path / "tokenizer.json").exists():
        BPE.save(tmp_path)
    if file.endswith(".jinja"):
        (tmp_path / file).write_text(template)
    else:
        known = json.loads((tmp_path / file).read_text()) if (tmp_path / file).exists() else {}
        (tmp_path / file).write_text(json.dumps(known | {"chat_template": template}))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "template"),
    [
        ("chat_template.jinja", TEMPLATE),
        ("tokenizer_config.json", TEMPLATE),
        ("chat_template.json", TEMPLATE),
        ("tokenizer_config.json", [{"name": "default", "template": TEMPLATE}]),
    ],
)
def test_templates(tmp_path, file, template):
    pytest.importorskip("jinja2")
    tokenizer = folder_with(tmp_path, template, file)
    (ids,) = prompt_ids(tokenizer, ["Which film?"], "chat")
    expected = "<s>[user]Which film?</s>[assistant]"
    assert ids == tokenizer.encode(expected, special=True) and ids.count(BOS) == 1
    talk = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    assert ChatTemplate(tokenizer)(talk) == "<s>[system]x</s>[user]y</s>[assistant]"


def test_a_token_that_the_folder_says_is_none_is_not_in_a_chat(tmp_path):
    """As Qwen's folders say of the token that begins a text; other names are told."""
    pytest.importorskip("jinja2")
    folder_with(tmp_path, TEMPLATE + "{{ pad_token }}")
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": None}))
    (ids,) = prompt_ids(load_tokenizer(tmp_path), ["a"], "chat")
    assert ids == BPE.encode("[user]a</s>[assistant]<pad>", special=True)


def test_a_template_has_what_transformers_gives_it(tmp_path):
    pytest.importorskip("jinja2")
    template = (
        "{{ strftime_now('%d %b %Y') }}{% if tools is not none or documents is not defined %}!"
        "{% endif %}{% generation %}{% set a = 1 %}[{{ messages[0].content }}]{% endgeneration %}"
        "{{ a is defined }}"
        # As Qwen3's ends: else the model begins with its thoughts.
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
        "{% endif %}"
    )
    text = ChatTemplate(folder_with(tmp_path, template))([{"role": "user", "content": "y"}])
    assert text == "26 Jul 2024[y]False<think>\n\n</think>\n\n"  # whatever the day


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "no chat template of Jinja"),
        ("{{ raise_exception('no system') }}", "the chat template fails (no system)"),
        ("{{ messages.__class__.__mro__ }}", "the chat template fails"),
        ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "it writes without end"),
    ],
)
def test_templates_that_fail(tmp_path, template, message):
    pytest.importorskip("jinja2")
    with pytest.raises(InputError) as error:
        prompt_ids(folder_with(tmp_path, template), ["a"], "chat")
    assert message in str(error.value)


def test_no_template(tmp_path):
    with pytest.raises(InputError, match="the tokenizer came without files"):
        prompt_ids(BPE, ["a"], "chat")
    BPE.save(tmp_path)
    with pytest.raises(InputError, match="no chat template in chat_template.jinja or tokenizer_c"):
        prompt_ids(load_tokenizer(tmp_path), ["a"], "chat")
    with pytest.raises(InputError, match="tokenizer_config.json: 'chat_template': expected a text"):
        prompt_ids(folder_with(tmp_path, 3), ["a"], "chat")


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}",
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}",
    ],
    ids=["refuses", "leaves out"],
)
def test_a_system_message(tmp_path, template):
    """Where the template has no place for it, it begins the user's message."""
    pytest.importorskip("jinja2")
    (ids,) = prompt_ids(folder_with(tmp_path, TEMPLATE), ["Which?"], "chat", ["Be brief."])
    text = "<s>[system]Be brief.</s>[user]Which?</s>[assistant]"
    tokenizer = load_tokenizer(tmp_path)
    assert ids == tokenizer.encode(text, special=True)
    tokenizer = folder_with(tmp_path, template + TEMPLATE)
    both = prompt_ids(tokenizer, ["Which?", "Who?"], "chat", ["Be brief.", ""])
    for ids, said in zip(both, ("Be brief.\n\nWhich?", "Who?"), strict=True):
        assert ids == tokenizer.encode(f"<s>[user]{said}</s>[assistant]", special=True)
