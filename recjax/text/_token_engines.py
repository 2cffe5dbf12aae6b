"""Engines that turn text into ids: the `tokenizers` library, or SentencePiece itself.

Both take texts that begin (`start`), and get the blank before them that the model was trained
with, and texts that go on after other tokens, which do not. `special`: names of control tokens
in the text stand for the tokens.
"""

import base64
import contextlib
import functools
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.ranges import short
from recjax.text._token_settings import LARGEST, Added, check_ids

# A character that no model has a piece with: what follows it is cut into pieces as if it went on.
_ANCHOR = "\ue000"
# A thread makes training's batches while another reads prompts; whether names of control tokens are
# text is a setting of the tokenizer. One lock for all, so that tokenizers can be copied.
_encoding = threading.Lock()


class FastEngine:
    """A tokenizer of the `tokenizers` library.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; its own special tokens are never added to a text, and
            it cuts and pads none.
        going_on: texts that begin get no blank before them either (`add_prefix_space: false`).
    """

    usual: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, tokenizer: Any, going_on: bool = False):
        self.tokenizer, self._always_going_on = tokenizer, going_on
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @classmethod
    def of_json(cls, path: Path, going_on: bool = False) -> "FastEngine":
        """Reads a tokenizer.json; `InputError` for anything else."""
        import tokenizers

        content = read_object(path, largest=LARGEST)
        model = content.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocab, dict | list):
            raise InputError(f"{path}: 'model.vocab' is missing; expected a tokenizer's tokens")
        if isinstance(vocab, dict):  # Unigram's is a list
            check_ids(vocab, str(path))
        with one_error(f"{path}: damaged, or no tokenizer.json"):
            engine = cls(tokenizers.Tokenizer.from_file(str(path)), going_on)
            engine.ends()  # its post-processor may name tokens that are not there
            return engine

    @classmethod
    def of_gpt2(
        cls, vocab: Path, merges: Path, prefix: bool, added: Mapping[str, Added]
    ) -> "FastEngine":
        """Reads GPT-2's vocab.json and merges.txt; `InputError` for anything else.

        Args:
            vocab: ids by token.
            merges: the joins, a line each.
            prefix: put a blank before a text.
            added: tokens beside the vocabulary, whose ids follow it, by name.
        """
        import tokenizers

        if not merges.is_file():
            raise InputError(f"{merges}: missing; a tokenizer of vocab.json needs it")
        check_ids(read_object(vocab, largest=LARGEST), str(vocab))
        with one_error(f"{vocab}: damaged, or no GPT-2 tokenizer"):
            bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        bpe.decoder = tokenizers.decoders.ByteLevel()
        if bpe.token_to_id("<|endoftext|>") is not None:
            bpe.add_special_tokens(["<|endoftext|>"])
        for name in sorted(added, key=lambda name: added[name].id):  # some may be of the vocabulary
            bpe.add_tokens([tokenizers.AddedToken(name, **added[name].flags)])
        return cls(bpe)

    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that its post-processor puts before and after a text."""
        tokens = ("a", *self.tokenizer.get_vocab())  # some alphabets have no "a"
        encodings = (self.tokenizer.encode(token) for token in tokens)
        encoding = next((e for e in encodings if not all(e.special_tokens_mask)), None)
        if encoding is None:
            return (), ()
        added = encoding.special_tokens_mask
        first = next((k for k, mark in enumerate(added) if not mark), len(added))
        last = next((k for k, mark in enumerate(reversed(added)) if not mark), 0)
        return tuple(encoding.ids[:first]), tuple(encoding.ids[len(added) - last :])

    @functools.cached_property
    def _going_on(self) -> Any:
        """The tokenizer without the blank that it puts before a text."""
        from tokenizers import Tokenizer

        spec = json.loads(self.tokenizer.to_str())
        steps = [p for p in _parts(spec["normalizer"], "normalizers") if p["type"] != "Prepend"]
        cuts = _parts(spec["pre_tokenizer"], "pretokenizers")
        if {"WhitespaceSplit", "Metaspace"} <= {part["type"] for part in cuts}:
            # T5's: its cut drops all blanks, and a blank is put before each word instead.
            cuts = [part for part in cuts if part["type"] != "WhitespaceSplit"]
            steps += [
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": False, "strip_right": True},
            ]
        for part in cuts:
            if part["type"] == "Metaspace":
                part["prepend_scheme"] = "never"
            elif part["type"] == "ByteLevel":
                part["add_prefix_space"] = False
        spec["normalizer"] = {"type": "Sequence", "normalizers": steps}
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": cuts} if cuts else None
        return Tokenizer.from_str(json.dumps(spec))

    @functools.cached_property
    def controls(self) -> frozenset[str]:
        """See `Engine.controls`."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    def control(self, ids: Iterable[int]) -> None:
        """Makes tokens of the vocabulary control tokens."""
        from tokenizers import AddedToken

        added = {token.content for token in self.tokenizer.get_added_tokens_decoder().values()}
        names = sorted({self.tokenizer.id_to_token(index) for index in ids} - added)
        self.tokenizer.add_special_tokens(
            [AddedToken(name, normalized=False, special=True) for name in names]
        )

    def encode(self, texts: Sequence[str], start: bool, special: bool) -> list[list[int]]:
        """See `Engine.encode`."""
        tokenizer = self.tokenizer if start and not self._always_going_on else self._going_on
        with _encoding:
            tokenizer.encode_special_tokens = not special
            done = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in done]

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """See `Engine.decode`."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def token(self, index: int) -> str | None:
        """See `Engine.token`."""
        return self.tokenizer.id_to_token(index)

    def id_of(self, token: str) -> int | None:
        """See `Engine.id_of`."""
        return self.tokenizer.token_to_id(token)


@contextlib.contextmanager
def one_error(message: str) -> Iterator[None]:
    """Turns all errors of the `tokenizers` library, panics too, into one-line `InputError`s."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{message} ({reason})") from error


def _parts(spec: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer."""
    if spec is None:
        return []
    return spec[key] if spec["type"] == "Sequence" else [spec]


def _pattern(name: str, token: Added) -> str:
    """A token in a text, with the blanks that it takes."""
    word = rf"(?<!\w){re.escape(name)}(?!\w)" if token.single_word else re.escape(name)
    before = r"(?:(?<!\s)\s+)?" if token.lstrip else ""  # from the first blank on: linear
    return before + word + (r"\s*" if token.rstrip else "")


class SentencePieceEngine:
    """A SentencePiece model.

    Args:
        path: `tokenizer.model`, or T5's `spiece.model`.
        added: tokens beyond the model's, by name.
        legacy: the model's blank comes before the text after an added or control token, too.
        going_on: texts that begin get no blank before them either (`add_prefix_space: false`).
        sentinels: of T5, control tokens whose ids follow the model's, the last one first.
    """

    usual: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        path: Path,
        added: Mapping[str, Added],
        legacy: bool = False,
        going_on: bool = False,
        sentinels: int = 0,
    ):
        from sentencepiece import SentencePieceProcessor

        self._legacy, self._always_going_on = legacy, going_on
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: more than {LARGEST:,} bytes; expected a SentencePiece model")
        try:
            self.model = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            reason = "a tiktoken file; expected" if is_tiktoken(path) else "damaged, or not"
            raise InputError(f"{path}: {reason} a SentencePiece model") from error
        pieces = self.model.vocab_size()
        last = pieces + sentinels - 1
        added = {f"<extra_id_{k}>": Added(last - k, True) for k in range(sentinels)} | {**added}
        self._spelled = {name: _pattern(name, token) for name, token in added.items()}
        self._added = {name: token for name, token in added.items() if token.id >= pieces}
        self._names = {token.id: name for name, token in self._added.items()}
        self.size = 1 + max([pieces - 1, *self._names])
        self._controls = {
            self.model.id_to_piece(k): k
            for k in range(pieces)
            if self.model.is_control(k) or self.model.is_unknown(k)
        }
        self._controls |= {name: t.id for name, t in self._added.items() if t.special}
        self._anchor = self.model.encode(_ANCHOR)
        self._anchor_size = len(self.model.decode(self._anchor))  # unknown, it is another text

    @property
    def controls(self) -> frozenset[str]:
        """See `Engine.controls`."""
        return frozenset(self._controls)

    def control(self, ids: Iterable[int]) -> None:
        """See `FastEngine.control`."""
        self._controls |= {name: k for k in ids if (name := self.token(k)) is not None}

    def encode(self, texts: Sequence[str], start: bool, special: bool) -> list[list[int]]:
        """See `Engine.encode`."""
        named = {n: token.id for n, token in self._added.items() if n not in self._controls}
        named |= self._controls if special else {}
        start = start and not self._always_going_on
        if not named and start:
            return self.model.encode(list(texts))
        return [self._encode(text, start, named) for text in texts]

    def _encode(self, text: str, start: bool, named: dict[str, int]) -> list[int]:
        longest_first = sorted(named, key=len, reverse=True)
        pattern = "|".join(self._spelled.get(name, re.escape(name)) for name in longest_first)
        bare = {name.strip(): index for name, index in named.items()} | named
        out: list[int] = []
        for place, part in enumerate(re.split(f"({pattern})", text) if named else [text]):
            if place % 2:
                out.append(bare[part if part in bare else part.strip()])
            elif part and (self._legacy if out else start):
                out += self.model.encode(part)
            elif part:
                out += self._further(_ANCHOR + part)
        return out

    def _further(self, anchored: str) -> list[int]:
        """The ids of what follows an anchor."""
        size = len(self._anchor)
        ids = self.model.encode(anchored)
        if ids[size - 1] == self.model.unk_id():  # unknown characters side by side are one piece
            size -= self.model.encode(anchored, out_type=str)[size - 1] != _ANCHOR
        return ids[size:]

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """See `Engine.decode`."""
        names = self._names | {k: name for name, k in self._controls.items()}
        hidden = set(self._controls.values()) if skip_special else set()
        out, run = "", list[int]()

        def flush() -> str:
            if out:  # the model drops the blank before a text's first word
                return self.model.decode([*self._anchor, *run])[self._anchor_size :] if run else ""
            return self.model.decode(run)

        for index in map(int, ids):
            if index in hidden:
                continue
            if index in names:
                out += flush() + names[index]
                run = []
            elif index < self.model.vocab_size():  # beyond, ids between added tokens are none
                run.append(index)
        return out + flush()

    def token(self, index: int) -> str | None:
        """See `Engine.token`."""
        if 0 <= index < self.model.vocab_size():
            return self.model.id_to_piece(index)
        return self._names.get(index)

    def id_of(self, token: str) -> int | None:
        """See `Engine.id_of`."""
        if token in self._added:
            return self._added[token].id
        index = self.model.piece_to_id(token)
        return index if self.model.id_to_piece(index) == token else None

    def fast(self) -> Any:
        """The model as a `tokenizers.Tokenizer`, or None where that cuts texts otherwise.

        SentencePiece's BPE joins the pair whose piece scores highest. Transformers 5 orders the
        joins otherwise and drops a leading blank.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

        model = self.model
        pieces = [model.id_to_piece(k) for k in range(model.vocab_size())]
        vocab = {piece: k for k, piece in enumerate(pieces)}
        joins = []
        for k, piece in enumerate(pieces):
            if model.is_control(k) or model.is_unknown(k) or model.is_byte(k):
                continue
            for at in range(1, len(piece)):
                left, right = vocab.get(piece[:at]), vocab.get(piece[at:])
                if left is not None and right is not None:
                    joins.append((-model.get_score(k), left, right))
        unknown = pieces[model.unk_id()]
        tokenizer = Tokenizer(
            models.BPE(
                vocab, [(pieces[left], pieces[right]) for _, left, right in sorted(joins)],
                unk_token=unknown, fuse_unk=True, byte_fallback=True,
            )
        )  # fmt: skip
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        controls = [pieces[k] for k in range(len(pieces)) if model.is_control(k)]
        tokenizer.add_special_tokens([unknown, *controls])
        for name, token in sorted(self._added.items(), key=lambda item: item[1].id):
            tokenizer.add_tokens([AddedToken(name, **token.flags)])
        words = [p.replace("▁", " ") for p in pieces if not p.startswith("<")]
        probe = ["".join(words[k : k + 7]) for k in range(0, len(words), 97)]
        probe += [" two  blanks ", "ünï\n\tcødé ☃", "1999, 日本語"]
        same = FastEngine(tokenizer).encode(probe, True, False) == self.model.encode(probe)
        same = same and all(tokenizer.token_to_id(n) == t.id for n, t in self._added.items())
        return tokenizer if same else None


def is_tiktoken(path: Path) -> bool:
    """Whether a `tokenizer.model` is LLaMA 3's: lines of base64 and a rank."""
    with path.open("rb") as file:
        token, _, rank = file.readline(1000).partition(b" ")
    try:
        return rank.strip().isdigit() and bool(base64.b64decode(token, validate=True))
    except ValueError:
        return False


def check_texts(texts: Sequence[Any]) -> None:
    """Whether all are texts that UTF-8 can write; `InputError` naming the first that is not."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {number} is {short(text)}; expected text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"text {number}: half of a surrogate pair (\\ud800 to \\udfff)"
            ) from None
