"""GLM's other published tokenizers: BERT's WordPiece (English) and a SentencePiece (Chinese).

GLM of 2B and 10B has GPT-2's files, GLM-RoBERTa RoBERTa's (`FastEngine.of_gpt2`).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from recjax.errors import InputError
from recjax.ranges import short
from recjax.text._token_engines import FastEngine, SentencePieceEngine, one_error
from recjax.text._token_settings import CONFIG, LARGEST, Added, added_tokens, read_optional, strips

WORDS, CHINESE = "vocab.txt", "cog-pretrain.model"
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECES = ("<|startofpiece|>", "<|endofpiece|>")
_CHINESE_PIECES = 50000
# Behind the published model's pieces, where no file names them. In the first checkpoints [gMASK]
# had the row of <|endofpiece|>, which was then copied to 50009.
_CHINESE_IDS = {
    "<|endoftext|>": 50000, "[SEP]": 50001, "[CLS]": 50002, "[MASK]": 50003, "[UNK]": 50004,
    "<|startofpiece|>": 50006, "<|endofpiece|>": 50007, "[sMASK]": 50008, "[gMASK]": 50009,
}  # fmt: skip


def word_pieces(path: Path, glm: bool) -> FastEngine:
    """The tokenizer of a BERT's vocab.txt: a token a line, its number is its id.

    Args:
        path: the file; `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of the
            folder's tokenizer_config.json are followed.
        glm: of GLM: <|startofpiece|> and <|endofpiece|> follow where no file names them.

    Raises:
        InputError: naming the file: no such vocabulary, settings of another type, ids of added
            tokens that do not follow the vocabulary's.
    """
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    known = _lines(path)
    vocab = {token: index for index, token in enumerate(known)}
    missing = [name for name in _BERT if name not in vocab]
    if missing:
        raise InputError(f"{path}: no line '{missing[0]}'; expected BERT's vocabulary")
    if len(vocab) < len(known):
        double = next(token for k, token in enumerate(known) if vocab[token] != k)
        raise InputError(f"{path}:{vocab[double] + 1}: {short(double)} is there twice")
    added = added_tokens(path.parent)
    if glm and not added.keys() - vocab.keys():
        added |= {name: Added(len(vocab) + k, True) for k, name in enumerate(_PIECES)}
    for name, token in added.items():
        if vocab.get(name, token.id) != token.id:
            raise InputError(
                f"{path.with_name('added_tokens.json')}: '{name}' has the id {token.id}, but line "
                f"{vocab[name] + 1} of {path.name}"
            )
    new = sorted(token.id for name, token in added.items() if name not in vocab)
    if new != list(range(len(vocab), len(vocab) + len(new))):
        raise InputError(
            f"{path.with_name('added_tokens.json')}: ids {short(new)}; expected those from "
            f"{len(vocab)} on, which follow {path.name}"
        )
    settings = read_optional(path.with_name(CONFIG))
    flags: dict[str, Any] = {}
    for key, usual in (
        ("do_lower_case", True), ("tokenize_chinese_chars", True), ("strip_accents", None),
    ):  # fmt: skip
        value = settings.get(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(
                f"{path.with_name(CONFIG)}: '{key}' is {short(value)}, expected true or false"
            )
        flags[key] = usual if value is None else value
    with one_error(f"{path}: damaged, or no vocabulary of BERT"):
        model = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
        tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=flags["tokenize_chinese_chars"],
        strip_accents=flags["strip_accents"], lowercase=flags["do_lower_case"],
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    added = {name: Added(vocab[name]) for name in _BERT} | added
    for name in (*_BERT, *sorted(added.keys() - set(_BERT), key=added.__getitem__)):
        token = added[name]
        token = token._replace(
            special=glm or name in _BERT or token.special,
            lstrip=token.lstrip or (glm and strips(name)),
        )
        tokenizer.add_tokens([tokenizers.AddedToken(name, **token.flags)])
    return FastEngine(tokenizer)


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: more than {LARGEST:,} bytes; expected a token a line")
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a token a line") from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


class GLMChineseEngine(SentencePieceEngine):
    """`cog-pretrain.model` with GLM's command tokens.

    As the published class does it: breaks of lines, tabs and runs of blanks become the model's own
    pieces for them (`<n>`, `<|tab_2|>`, `<|blank_3|>`), masks take the blanks before them, and a
    text after a command token begins without the model's blank. The class's change of decoded
    punctuation (to Chinese forms between Chinese letters) is left out: a text comes back as it was.

    Args:
        path: the model's file; added_tokens.json beside it names the command tokens, else those of
            the published model of 50,000 pieces are known.
    """

    usual: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "bos": ("[CLS]",), "eos": ("<|endoftext|>",), "pad": ("<|endoftext|>",), "unk": ("[UNK]",),
    }  # fmt: skip

    def __init__(self, path: Path):
        known = added_tokens(path.parent).items()
        added = {name: token._replace(special=True) for name, token in known}
        super().__init__(path, added)
        if not self._added and self.model.vocab_size() == _CHINESE_PIECES:
            super().__init__(path, {n: Added(index, True) for n, index in _CHINESE_IDS.items()})
        wanted = ("<|endoftext|>", "[CLS]", "[MASK]", *_PIECES)
        missing = [name for name in wanted if self.id_of(name) is None]
        if missing:
            raise InputError(
                f"{path}: no id for '{missing[0]}'; expected it in added_tokens.json, or the "
                f"published model of {_CHINESE_PIECES:,} pieces"
            )

    @functools.cached_property
    def _blanks(self) -> list[tuple[str, str]]:
        """Pieces for white space, where the model has them; the longest first."""
        pairs = [("\n", "<n>")]
        pairs += [("\t" * k, f"<|tab_{k}|>") for k in range(10, 0, -1)]
        pairs += [(" " * k, f"<|blank_{k}|>") for k in range(50, 1, -1)]
        return [(white, name) for white, name in pairs if self.id_of(name) is not None]

    def encode(self, texts: Sequence[str], start: bool, special: bool) -> list[list[int]]:
        """See `Engine.encode`."""
        out = []
        for text in texts:
            for white, name in self._blanks:
                text = text.replace(white, name)
            out.append(self._encode(text, start, self._controls if special else {}))
        return out

    def _encode(self, text: str, start: bool, named: Mapping[str, int]) -> list[int]:
        pattern = "|".join(map(re.escape, sorted(named, key=len, reverse=True)))
        parts = re.split(f"({pattern})", text) if named else [text]
        out: list[int] = []
        for at, part in enumerate(parts):
            if part in named:
                out.append(named[part])
                continue
            if at + 1 < len(parts) and strips(parts[at + 1]):
                part = part.rstrip()
            if not part:
                continue
            if not out and not start:
                out += super()._encode(part, False, {})
                continue
            ids = self.model.encode(part)
            first = self.model.id_to_piece(ids[0]) if ids and out else ""
            if first.startswith("▁") and len(first) > 1:  # after a command token
                bare = self.id_of(first[1:])
                ids[0] = ids[0] if bare is None else bare
            out += ids
        return out

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """See `Engine.decode`."""
        text = super().decode(ids, skip_special)
        for white, name in self._blanks:
            text = text.replace(name, white)
        return text

    def fast(self) -> Any:
        """None: the file is read by its own code alone."""
        return None
