"""ChatGLM-6B's tokenizer: `ice_text.model` of SentencePiece, with tokens for masks and blanks.

Breaks of lines, tabs and runs of 2 to 80 blanks have tokens of their own. The vocabulary of the
first weeks (150,528 rows) has 20,000 images' tokens before the text's; the later one has none. A
file of the first release lacks the command tokens; they are put behind its pieces, as its code did.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from recjax.errors import InputError
from recjax.ranges import short
from recjax.text._token_settings import CONFIG, LARGEST, read_optional

FILE = "ice_text.model"
_COMMANDS = (
    "[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>",
)  # fmt: skip
_MOST_BLANKS = 80
_BREAK, _TAB = "<n>", "<|tab|>"
_IMAGES = 20000  # of the first vocabulary
_FIRST_ROWS = 150528
_CONTROL, _USER, _BYTE = 3, 4, 6  # types of pieces


class ChatGLMEngine:
    """The text model with the ids of its images in front.

    Args:
        path: `ice_text.model`; `num_image_tokens` of the folder's tokenizer_config.json says how
            many images' ids there are, else the rows of config.json's model.

    Attributes:
        size: ids.
    """

    usual: ClassVar[Mapping[str, tuple[str, ...]]] = {"bos": ("<sop>",), "eos": ("<eop>",)}

    def __init__(self, path: Path):
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: more than {LARGEST:,} bytes; expected a SentencePiece model")
        messages: Any = sentencepiece_model_pb2
        proto = messages.ModelProto()
        try:
            proto.ParseFromString(path.read_bytes())
            pieces = [piece.piece for piece in proto.pieces]
            if _COMMANDS[1] not in pieces:
                self._complete(proto)
            self.model = SentencePieceProcessor(model_proto=proto.SerializeToString())
        except Exception as error:  # protobuf's own, and whatever SentencePiece raises
            raise InputError(f"{path}: damaged, or not a SentencePiece model") from error
        self.first = _images(path.parent)
        self.size = self.first + self.model.vocab_size()
        self._controls = {
            piece: self.first + k
            for k in range(self.model.vocab_size())
            if (piece := self.model.id_to_piece(k)) in _COMMANDS or self.model.is_control(k)
        }
        missing = [name for name in _COMMANDS[:6] if name not in self._controls]
        if missing:
            raise InputError(f"{path}: no piece {missing[0]}; expected ChatGLM-6B's model")
        names = sorted(_COMMANDS, key=len, reverse=True)
        self._named = re.compile("|".join(map(re.escape, names)))
        self._anchor = len(self.model.encode(_BREAK))

    @staticmethod
    def _complete(proto: Any) -> None:
        """Puts the command tokens, blanks and bytes behind the pieces of the first release."""
        blanks = (_blanks(k) for k in range(2, _MOST_BLANKS + 1))
        for name in (*_COMMANDS, _TAB, *blanks):
            proto.pieces.add(piece=name, score=0.0, type=_USER)
        proto.trainer_spec.byte_fallback = True
        for byte in range(256):
            proto.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=_BYTE)

    @property
    def controls(self) -> frozenset[str]:
        """See `Engine.controls`."""
        return frozenset(self._controls)

    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A text is followed by [gMASK] and <sop>: then the answer begins."""
        return (), (self._controls["[gMASK]"], self._controls["<sop>"])

    def encode(self, texts: Sequence[str], start: bool, special: bool) -> list[list[int]]:
        """See `Engine.encode`."""
        return [self._encode(text, start, special) for text in texts]

    def _encode(self, text: str, start: bool, special: bool) -> list[int]:
        if special:
            return self._ids(text, start)
        # The model takes names for tokens wherever they stand; cut in two they are text.
        cuts = [0, *(found.start() + 1 for found in self._named.finditer(text)), len(text)]
        out: list[int] = []
        for at, (begin, end) in enumerate(itertools.pairwise(cuts)):
            if end > begin or not at:
                out += self._ids(text[begin:end], start and not at)
        return out

    def _ids(self, text: str, start: bool) -> list[int]:
        text = text.replace("\n", _BREAK).replace("\t", _TAB)
        text = re.sub(f" {{2,{_MOST_BLANKS}}}", lambda run: _blanks(len(run[0])), text)
        if start:
            return [k + self.first for k in self.model.encode(text)]
        return [k + self.first for k in self.model.encode(_BREAK + text)[self._anchor :]]

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """See `Engine.decode`."""
        unknown = self.first + self.model.unk_id()
        hidden = {*self._controls.values(), unknown} if skip_special else set()
        pieces = [k - self.first for k in ids if k not in hidden and self.first <= k < self.size]
        text = self.model.decode(pieces).replace(_BREAK, "\n").replace(_TAB, "\t")
        return re.sub(r"<\|blank_(\d{1,2})\|>", lambda run: " " * int(run[1]), text)

    def token(self, index: int) -> str | None:
        """See `Engine.token`."""
        inside = self.first <= index < self.size
        return self.model.id_to_piece(index - self.first) if inside else None

    def id_of(self, token: str) -> int | None:
        """See `Engine.id_of`."""
        return self._ids_by_piece.get(token)

    @functools.cached_property
    def _ids_by_piece(self) -> dict[str, int]:
        count = self.model.vocab_size()
        return {self.model.id_to_piece(k): k + self.first for k in range(count)}


def _blanks(count: int) -> str:
    return f"<|blank_{count}|>"


def _images(folder: Path) -> int:
    """The number of ids before the text's.

    Raises:
        InputError: naming the file and the key.
    """
    file = folder / CONFIG
    given = read_optional(file).get("num_image_tokens")
    if given is None:
        rows = read_optional(folder / "config.json").get("vocab_size")
        return _IMAGES if rows == _FIRST_ROWS else 0
    if type(given) is not int or not 0 <= given <= 1 << 20:
        raise InputError(f"{file}: 'num_image_tokens' is {short(given)}, expected a number")
    return given
