"""Tokenizers: one interface over tokenizer.json, SentencePiece and GPT-2's files.

tokenizer = load_tokenizer("FOLDER")                       # a folder, or one file
tokenizer.encode("A user has watched", bos=True)
tokenizer.encode_with_soft("watched {soft}. Which film is it?", soft=2, bos=True)

A text is text: names of control tokens in it (a title may hold "</s>") are spelled out unless
`special` is set. A folder's SentencePiece model, where it has one, is read by SentencePiece, for
Transformers 5 loses a leading blank, orders joins of blanks otherwise and forgets `legacy`; a
tokenizer.json is read by the `tokenizers` library, as Transformers 4 did.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recjax.errors import InputError
from recjax.paths import check_no_pointer, home
from recjax.text import _chatglm_engine
from recjax.text._chatglm_engine import ChatGLMEngine
from recjax.text._glm_engines import CHINESE, WORDS, GLMChineseEngine, word_pieces
from recjax.text._token_ends import (
    T5_PIECES,
    Engine,
    add_ends,
    folder_ends,
    gpt2_added,
    is_glm,
)
from recjax.text._token_engines import FastEngine, SentencePieceEngine, check_texts, is_tiktoken
from recjax.text._token_settings import (
    CONFIG,
    CONFIGS,
    added_tokens,
    read_optional,
    read_settings,
    roles,
)

SOFT = "{soft}"
# What a folder with a tokenizer has one of, the first of them first.
FILES = (
    "tokenizer.model", "tokenizer.json", T5_PIECES, "vocab.json", _chatglm_engine.FILE, CHINESE,
    WORDS,
)  # fmt: skip
# Rows that published models leave without an id, at most: to be a multiple of 256, or this share.
_PADDING, _SPARE = 255, 1 / 40


class Tokenizer:
    """Text to ids and back; made by `load_tokenizer` or `recjax.text.bpe.train_bpe`.

    Attributes:
        size: number of ids; every id is below it.
        roles: ids of the tokens that begin ("bos"), end ("eos") and pad a text and of the unknown
            one, as far as there are any.
        bos_id, eos_id: or None where the tokenizer has no such token.
        pad_id: the tokenizer's own; else LLaMA 3's token for it, the unknown token, the end of a
            text, or 0. Which one is of no matter to a model that is given the mask.
        begin, end: ids that the tokenizer's folder puts before and after every text of its model
            (`encode_prompts`): by the post-processor of a tokenizer.json; [CLS] and <|endoftext|>
            of GLM, [CLS] and [SEP] of BERT, [gMASK] and <sop> of ChatGLM; else by `add_bos_token`
            and `add_eos_token` of tokenizer_config.json, where LLaMA's begins a text unless that
            says otherwise.
        folder: where its files stand; None for one that was made here.
    """

    def __init__(
        self,
        engine: Engine,
        roles: dict[str, int],
        files: tuple[Path, ...] = (),
        ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    ):
        self._engine, self.roles, self._files = engine, roles, files
        self.begin, self.end = ends
        self.folder = files[0].parent if files else None
        self.size = engine.size
        self.bos_id, self.eos_id = roles.get("bos"), roles.get("eos")
        fallback = (roles.get(role) for role in ("pad", "unk", "eos"))
        self.pad_id = next((index for index in fallback if index is not None), 0)

    def encode(
        self,
        text: str,
        *,
        bos: bool = False,
        eos: bool = False,
        start: bool = True,
        special: bool = False,
    ) -> list[int]:
        """The ids of a text.

        Args:
            text: any.
            bos: begin with the token for that.
            eos: end with the token for that.
            start: False for a text that goes on after other tokens (an answer after its prompt):
                LLaMA's tokenizers put a blank before a text, and then do not.
            special: names of control tokens in the text stand for the tokens (chat formats).

        Raises:
            InputError: `bos` or `eos` is asked of a tokenizer that has no such token.
        """
        return self.encode_batch([text], bos=bos, eos=eos, start=start, special=special)[0]

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        bos: bool = False,
        eos: bool = False,
        start: bool = True,
        special: bool = False,
    ) -> list[list[int]]:
        """The ids of each text; as `encode`, and much faster than text by text."""
        before, after = self._ends(bos, eos)
        try:
            rows = self._engine.encode(texts, start, special)
        except (TypeError, UnicodeEncodeError):
            check_texts(texts)
            raise
        return [[*before, *ids, *after] for ids in rows]

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts, with `begin` and `end`: what the model's own tokenizer gives."""
        return [[*self.begin, *ids, *self.end] for ids in self.encode_batch(texts)]

    def _ends(self, bos: bool, eos: bool) -> tuple[list[int], list[int]]:
        for wanted, index, name in ((bos, self.bos_id, "bos"), (eos, self.eos_id, "eos")):
            if wanted and index is None:
                raise InputError(f"the tokenizer has no {name} token")
        return (
            [self.bos_id] if bos and self.bos_id is not None else [],
            [self.eos_id] if eos and self.eos_id is not None else [],
        )

    def encode_with_soft(
        self,
        text: str,
        *,
        soft: int | Sequence[int] = 1,
        bos: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """The ids of a text with placeholders of soft tokens, and which ids are placeholders.

        A placeholder stands for a word: the one blank before it is the word's own and makes no
        token, the text after it goes on. So "watched {soft}. Which" has the ids of "watched
        films. Which" with that of " films" replaced, and reads as the text a model knows.

        Args:
            text: the text, with "{soft}" where soft tokens come.
            soft: soft tokens a placeholder; or as many numbers as there are placeholders.
            bos: as in `encode`.

        Returns:
            `(ids, is_soft)`; the id at a placeholder is `pad_id`.

        Raises:
            InputError: no placeholder in the text, or not as many as numbers in `soft`.
        """
        parts = text.split(SOFT)
        counts = [soft] * (len(parts) - 1) if isinstance(soft, int) else list(soft)
        if len(parts) == 1 or len(counts) != len(parts) - 1:
            given = "at least 1" if isinstance(soft, int) else f"{len(counts)}"
            raise InputError(f"a prompt has {len(parts) - 1} of '{SOFT}', expected {given}")
        ids = self._ends(bos, eos=False)[0]
        is_soft = [False] * len(ids)
        for place, (part, count) in enumerate(zip(parts, [*counts, 0], strict=True)):
            words = part.removesuffix(" ") if place < len(counts) else part
            piece = self.encode(words, start=place == 0)
            ids += [*piece, *[self.pad_id] * count]
            is_soft += [*[False] * len(piece), *[True] * count]
        return ids, is_soft

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """The text of ids; ids beyond `size` (rows that pad an embedding) are left out.

        Args:
            ids: [T].
            skip_special: leave control tokens out.

        Raises:
            InputError: an id below 0 (a label that is none).
        """
        known = [int(index) for index in ids if index < self.size]
        if known and min(known) < 0:
            raise InputError(f"a token's id is {min(known)}; expected numbers from 0 on")
        return self._engine.decode(known, skip_special)

    @property
    def controls(self) -> frozenset[str]:
        """The names of control tokens, which `special` makes them."""
        return self._engine.controls

    def token(self, index: int) -> str | None:
        """The token as the vocabulary spells it ("▁the"); None where the id is not used."""
        return self._engine.token(index) if 0 <= index < self.size else None

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self._engine.id_of(token)

    def with_controls(self, names: Sequence[str]) -> "Tokenizer":
        """This tokenizer with control tokens more, whose ids follow all others.

        Raises:
            InputError: the tokenizer is SentencePiece's or ChatGLM's.
        """
        import tokenizers

        if not isinstance(self._engine, FastEngine):
            raise InputError(
                f"{self.folder or 'it'}: takes no more tokens; expected a tokenizer.json"
            )
        engine = tokenizers.Tokenizer.from_str(self._engine.tokenizer.to_str())
        engine.add_special_tokens(
            [tokenizers.AddedToken(name, normalized=False, special=True) for name in names]
        )
        return Tokenizer(FastEngine(engine), self.roles, ends=(self.begin, self.end))

    def save(self, folder: str | Path) -> None:
        """Writes files that `load_tokenizer` and Transformers' `AutoTokenizer` read alike.

        A folder that had a tokenizer.json is copied file by file. Else tokenizer.json,
        tokenizer_config.json and special_tokens_map.json are written beside the copied originals.

        Raises:
            InputError: the folder cannot be written, or has such files of another tokenizer; a file
                that was loaded is gone.
        """
        folder = Path(folder)
        names = {file.name for file in self._files}
        if "tokenizer.json" not in names:
            names |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            own = {file.resolve() for file in self._files}
            for name in sorted(names):
                if (folder / name).exists() and (folder / name).resolve() not in own:
                    raise InputError(f"{folder / name}: exists already, and is not replaced")
            for file in self._files:
                if file.resolve().parent != folder.resolve():
                    shutil.copyfile(file, folder / file.name)
            if not any(file.name == "tokenizer.json" for file in self._files):
                self._write_hf(folder)
        except OSError as error:
            raise InputError(f"cannot write a tokenizer to {folder}: {error}") from error

    def _write_hf(self, folder: Path) -> None:
        engine = self._engine
        if isinstance(engine, ChatGLMEngine):  # its file is read by its own code alone
            return
        tokenizer = engine.fast() if isinstance(engine, SentencePieceEngine) else engine.tokenizer
        if tokenizer is None:  # no BPE of SentencePiece: tokenizer.model alone is exact
            return
        names = {role: self.token(index) for role, index in self.roles.items()}
        if self.begin or self.end:
            add_ends(tokenizer, self.begin, self.end)
        tokenizer.save(str(folder / "tokenizer.json"))
        config = read_optional(folder / CONFIG)
        special = {f"{role}_token": name for role, name in names.items()}
        # The class that takes tokenizer.json as it is; LlamaTokenizer makes its own of the pieces.
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", **special}
        for name, content in (("tokenizer_config", config), ("special_tokens_map", special)):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8")


def load_tokenizer(path: str | Path, *, size: int | None = None) -> Tokenizer:
    """The tokenizer in a folder, or of one file.

    A folder is read from tokenizer.model (SentencePiece) where it has one, else from
    tokenizer.json, else from T5's spiece.model, else from vocab.json and merges.txt, else from
    ChatGLM's ice_text.model, the cog-pretrain.model of Chinese GLMs, or BERT's vocab.txt. A
    vocabulary of GPT-2, RoBERTa or BERT in a folder of GLM gets GLM's command tokens by their ids.
    Which tokens begin, end and pad a text say tokenizer_config.json, special_tokens_map.json,
    config.json, else their names.

    Args:
        path: a folder, or a `.model` or `.json` file in it.
        size: rows of the model's embedding, for `check_size`.

    Raises:
        InputError: no tokenizer there, a damaged file, or one that does not fit `size`.
    """
    path = home(path)
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name != "vocab.json":
        main = path
    elif path.is_dir() or path.is_file():
        found = [folder / name for name in FILES if (folder / name).is_file()]
        if len(found) > 1 and found[0].suffix == ".model" and is_tiktoken(found[0]):
            found = found[1:]  # LLaMA 3
        if not found:
            raise InputError(
                f"{folder}: no tokenizer there; expected tokenizer.model, tokenizer.json, "
                f"{T5_PIECES}, vocab.json and merges.txt, {_chatglm_engine.FILE}, {CHINESE} or "
                f"{WORDS}"
            )
        main = found[0]
    else:
        raise InputError(f"{path}: no such file or folder; expected a tokenizer")
    check_no_pointer(main)
    settings = read_settings(folder)
    engine: Engine
    others: tuple[str, ...] = CONFIGS
    if main.name == _chatglm_engine.FILE:
        engine = ChatGLMEngine(main)
    elif main.name == CHINESE:
        engine = GLMChineseEngine(main)
        others = ("added_tokens.json", *CONFIGS)
    elif main.name == WORDS:
        engine = word_pieces(main, is_glm(folder, settings))
        others = ("added_tokens.json", *CONFIGS)
    elif main.suffix == ".model":
        going_on = settings.prefix is False
        sentinels = settings.sentinels if main.name == T5_PIECES else 0
        engine = SentencePieceEngine(
            main, added_tokens(folder), settings.legacy, going_on, sentinels
        )
        others = ("tokenizer.json", "added_tokens.json", *CONFIGS)
    elif main.name == "vocab.json":
        added = gpt2_added(main, is_glm(folder, settings))
        engine = FastEngine.of_gpt2(main, folder / "merges.txt", settings.prefix is True, added)
        others = ("merges.txt", "added_tokens.json", *CONFIGS)
    else:
        going_on = settings.prefix is False and settings.kind == "LlamaTokenizer"
        engine = FastEngine.of_json(main, going_on)
    files = (main, *(folder / name for name in others if (folder / name).is_file()))
    found_roles = roles(folder, engine)
    if not isinstance(engine, ChatGLMEngine):
        engine.control(found_roles.values())
    tokenizer = Tokenizer(
        engine,
        found_roles,
        tuple(file.absolute() for file in files),
        folder_ends(main, engine, settings, found_roles),
    )
    if size is not None:
        check_size(tokenizer, size, str(path))
    return tokenizer


def check_size(tokenizer: Tokenizer, vocab_size: int, where: str = "the tokenizer") -> None:
    """Whether a tokenizer can be that of a model with `vocab_size` embeddings.

    An id without an embedding is always wrong: JAX would read the last row in its place. A few rows
    without an id are usual: fewer than 256, which pad an embedding (GPT-2's 50,257 ids in 50,304
    rows), or up to a fortieth of the rows, for tokens to come (Qwen3's 151,669 ids in 151,936,
    DeepSeek's 100,015 in 102,400). More of them mean another model's tokenizer. `recjax.llm` never
    generates the ids of such rows.

    Raises:
        InputError: naming both numbers.
    """
    size, spare = tokenizer.size, vocab_size - tokenizer.size
    if 0 <= spare <= max(_PADDING, _SPARE * vocab_size):
        return
    reason = "more" if spare < 0 else "far fewer"
    raise InputError(
        f"{where}: {size} ids, {reason} than the model's embedding has rows ({vocab_size}); "
        "this is the tokenizer of another model, or added tokens are missing"
    )
