"""The forms of a prompt: plain text, text with control tokens in it, or a user's message of a chat.

    ids = prompt_ids(tokenizer, ["Which film is like Alien?"], form="chat")

A prompt is text unless it is said otherwise: "<|user|>" in it is spelled out, for a title may hold
anything. As "special" such names stand for the tokens; as "chat" the prompt is a message, and the
template of the model's own folder writes what belongs around it.

Deviations from transformers: a template that asks whether the model is to think first (Qwen3,
`enable_thinking`) is told no, for answers are forced, learned and read from their first token on;
one that asks for the day is told a fixed one.
"""

import datetime
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.text._token_engines import check_texts
from recjax.text._token_settings import CONFIG, read_optional
from recjax.text.tokenizers import Tokenizer

Form = Literal["text", "special", "chat"]
_TEMPLATE = "chat_template"
_LONGEST = 1 << 20  # characters of a template, and of what it writes
# A template that tells the day tells this one: the same prompts are the same tokens on any day,
# also where a run goes on. LLaMA 3's templates have it as their own.
_TODAY = datetime.datetime(2024, 7, 26)


def prompt_ids(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    form: Form = "text",
    systems: Sequence[str] = (),
) -> list[list[int]]:
    """The ids of prompts that a model goes on from.

    Each begins as the model's own tokenizer begins a text (`Tokenizer.encode_prompts`), and once: a
    special prompt may name that token itself, and a chat's template does where it is expected.

    Args:
        tokenizer: of the model.
        prompts: texts; as "chat" each is one message of the user.
        form: what the names of control tokens in them mean.
        systems: as "chat": the system message before each prompt, "" = none. A template that knows
            no system message gets it at the beginning of the user's.

    Raises:
        InputError: as "chat": the model has no template, or it fails.
    """
    check_texts(prompts)
    if form == "text":
        _warn(tokenizer, prompts)
        return tokenizer.encode_prompts(prompts)
    if form == "chat":
        template = ChatTemplate(tokenizer)
        both = zip(systems or [""] * len(prompts), prompts, strict=True)
        prompts = [template.asked(system, prompt) for system, prompt in both]
    rows = tokenizer.encode_batch(prompts, special=True)
    if form == "special":
        begin = [*tokenizer.begin]
        rows = [row if row[: len(begin)] == begin else [*begin, *row] for row in rows]
        rows = [[*row, *tokenizer.end] for row in rows]
    return rows


def _warn(tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    """Tells of a control token's name in a plain prompt: once a call."""
    names = sorted(tokenizer.controls, key=len, reverse=True)
    match = re.search("|".join(map(re.escape, names)), "\n".join(prompts)) if names else None
    if match:
        warnings.warn(
            f"a prompt has the text {match[0]!r}, which is the name of a control token; as plain "
            "text it is spelled out (special=True makes it the token, chat=True a message)",
            stacklevel=5,
        )


class ChatTemplate:
    """The text that a model's folder writes around the messages of a chat.

    Args:
        tokenizer: of the model; its folder has `chat_template.jinja`, or the template stands in
            `tokenizer_config.json`.

    Raises:
        InputError: no template there, one that is no template, or jinja2 is not installed.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._where, text = _read_template(tokenizer.folder)
        config = read_optional(Path(self._where).with_name(CONFIG))
        self._names: dict[str, str | None] = {"bos_token": "", "eos_token": ""}
        for role, index in tokenizer.roles.items():
            if config.get(f"{role}_token", ...) is not None:  # null: a prompt has none (Qwen's bos)
                self._names[f"{role}_token"] = tokenizer.token(index)
        self._template = _compile(text, self._where)

    def __call__(self, messages: Sequence[dict[str, str]]) -> str:
        """The text up to where the model's answer begins.

        Args:
            messages: each with `role` ("system", "user" or "assistant") and `content`.

        Raises:
            InputError: the template fails, or writes without end.
        """
        out, size = [], 0
        try:
            for part in self._template.generate(
                messages=list(messages), add_generation_prompt=True, tools=None, documents=None,
                enable_thinking=False, **self._names,
            ):  # fmt: skip
                out.append(part)
                size += len(part)
                if size > _LONGEST + sum(len(m["content"]) for m in messages):
                    raise ValueError("it writes without end")
        except Exception as error:  # a template can raise anything
            raise InputError(f"{self._where}: the chat template fails ({error})") from None
        return "".join(out)

    def asked(self, system: str, prompt: str) -> str:
        """The text of a user's one message after a system message, "" = none."""
        if system:
            try:
                text = self(chat_messages(system, prompt))
            except InputError:  # a template may refuse the role
                text = ""
            if system.strip() in text:
                return text
            prompt = f"{system}\n\n{prompt}"
        return self(chat_messages("", prompt))


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether a model's folder has a chat template that can be read."""
    try:
        _read_template(tokenizer.folder)
    except InputError:
        return False
    return True


def chat_messages(system: str, prompt: str) -> list[dict[str, str]]:
    """The messages of a chat: a system message, "" = none, and the user's."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def _read_template(folder: Path | None) -> tuple[str, str]:
    """The file that holds a folder's template, and the template."""
    if folder is None:
        raise InputError("chat: the tokenizer came without files; expected one with a template")
    file = folder / f"{_TEMPLATE}.jinja"
    text: Any = None
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as opened:
            text = opened.read(_LONGEST + 1)
    for name in (f"{_TEMPLATE}.json", CONFIG):
        if text is None and (folder / name).is_file():
            file = folder / name
            text = read_object(file).get(_TEMPLATE)
    if isinstance(text, list):  # several, by name
        defaults = [t for t in text if isinstance(t, dict) and t.get("name") == "default"]
        text = defaults[0].get("template") if defaults else None
    if text is None:
        raise InputError(
            f"{folder}: no chat template in {_TEMPLATE}.jinja or tokenizer_config.json; this is no "
            "chat model, or its prompts are to be written out (special=True)"
        )
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise InputError(f"{file}: '{_TEMPLATE}': expected a text of at most {_LONGEST:,}")
    return str(file), text


def _compile(text: str, where: str) -> Any:
    """A template with what transformers gives it, and no more: it can read no file."""
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise InputError(
            "chat templates need jinja2, which is not installed: pip install 'recjax[chat]'"
        ) from None

    def fail(message: str) -> None:
        raise ValueError(message)

    class Generation(Extension):
        """`{% generation %}` marks the model's own words, for training on them; here it is text."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = _TODAY.strftime
    try:
        return environment.from_string(text)
    except (TemplateError, RecursionError) as error:
        raise InputError(f"{where}: no chat template of Jinja ({error})") from None
