"""Tokenizers: one interface over tokenizer.json, SentencePiece and GPT-2's files.

tokenizer = load_tokenizer("llama-2-7b")                   # a folder, or one file
tokenizer.encode("A user has watched", bos=True)
tokenizer.encode_with_soft("watched {soft}. Which film is it?", soft=2, bos=True)
tokens, mask = pad_left(rows, pad_id=tokenizer.pad_id)

A text is text: names of control tokens in it (a title may hold "</s>") are spelled out unless
`special` is set. A folder's SentencePiece model, where it has one, is read by SentencePiece, for
Transformers 5 loses a leading blank, orders joins of blanks otherwise and forgets `legacy`; a
tokenizer.json is read by the `tokenizers` library, as Transformers 4 did.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data._token_engines import FastEngine, SentencePieceEngine, is_tiktoken
from recjax.errors import InputError

SOFT = "{soft}"
PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # of tokenizers that are trained here
_ROLES = ("bos", "eos", "pad", "unk")
# Names that say the role where no file does.
_USUAL = {
    "bos": (BOS, "<|begin_of_text|>", "<|endoftext|>"),
    "eos": (EOS, "<|end_of_text|>", "<|endoftext|>"),
    "pad": (PAD, "<|finetune_right_pad_id|>"),
    "unk": ("<unk>",),
}
_CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")  # the second one wins
# What a folder with a tokenizer has one of, the first of them first.
FILES = ("tokenizer.model", "tokenizer.json", "vocab.json")


class Tokenizer:
    """Text to ids and back; made by `load_tokenizer` or `train_bpe`.

    Attributes:
        size: number of ids; every id is below it.
        bos_id, eos_id: or None where the tokenizer has no such token.
        pad_id: the tokenizer's own; else LLaMA 3's token for it, the unknown token, the end of a
            text, or 0. Which one is of no matter to a model that is given the mask.
    """

    def __init__(
        self,
        engine: FastEngine | SentencePieceEngine,
        roles: dict[str, int],
        files: tuple[Path, ...] = (),
    ):
        self._engine, self._roles, self._files = engine, roles, files
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
        return [[*before, *ids, *after] for ids in self._engine.encode(texts, start, special)]

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
        mark: str = SOFT,
        bos: bool = False,
        eos: bool = False,
        start: bool = True,
    ) -> tuple[list[int], list[bool]]:
        """The ids of a text with placeholders of soft tokens, and which ids are placeholders.

        A placeholder stands for a word: the one blank before it is the word's own and makes no
        token, the text after it goes on. So "watched {soft}. Which" has the ids of "watched
        films. Which" with that of " films" replaced, and reads as the text a model knows.

        Args:
            text: the text, with `mark` where soft tokens come.
            soft: soft tokens a placeholder; or as many numbers as there are placeholders.
            mark: the placeholder.
            bos, eos, start: as in `encode`.

        Returns:
            `(ids, is_soft)`; the id at a placeholder is `pad_id`.

        Raises:
            InputError: no placeholder in the text, or not as many as numbers in `soft`.
        """
        parts = text.split(mark)
        counts = [soft] * (len(parts) - 1) if isinstance(soft, int) else list(soft)
        if len(parts) == 1 or len(counts) != len(parts) - 1:
            given = "at least 1" if isinstance(soft, int) else f"{len(counts)}"
            raise InputError(f"a prompt has {len(parts) - 1} of '{mark}', expected {given}")
        before, after = self._ends(bos, eos)
        ids, is_soft = list(before), [False] * len(before)
        for place, (part, count) in enumerate(zip(parts, [*counts, 0], strict=True)):
            words = part.removesuffix(" ") if place < len(counts) else part
            piece = self.encode(words, start=start and place == 0)
            ids += [*piece, *[self.pad_id] * count]
            is_soft += [*[False] * len(piece), *[True] * count]
        return [*ids, *after], [*is_soft, *[False] * len(after)]

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """The text of ids; ids beyond `size` (rows that pad an embedding) are left out.

        Args:
            ids: [T].
            skip_special: leave control tokens out.
        """
        return self._engine.decode([int(index) for index in ids], skip_special)

    def token(self, index: int) -> str | None:
        """The token as the vocabulary spells it ("▁the"); None where the id is not used."""
        return self._engine.token(index)

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self._engine.id_of(token)

    def save(self, folder: str | Path) -> None:
        """Writes files that `load_tokenizer` and Transformers' `AutoTokenizer` read alike.

        A folder that had a tokenizer.json is copied file by file. Else tokenizer.json,
        tokenizer_config.json and special_tokens_map.json are written beside the copied originals.

        Raises:
            InputError: the folder cannot be written; a file that was loaded is gone.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in self._files:
                if file.resolve().parent != folder.resolve():
                    shutil.copyfile(file, folder / file.name)
            if not any(file.name == "tokenizer.json" for file in self._files):
                self._write_hf(folder)
        except OSError as error:
            raise InputError(f"cannot write a tokenizer to {folder}: {error}") from error

    def _write_hf(self, folder: Path) -> None:
        engine = self._engine
        pieces = isinstance(engine, SentencePieceEngine)
        tokenizer = engine.fast() if isinstance(engine, SentencePieceEngine) else engine.tokenizer
        if tokenizer is None:  # no BPE of SentencePiece: tokenizer.model alone is exact
            return
        names = {role: self.token(index) for role, index in self._roles.items()}
        if pieces and self.bos_id is not None:  # as LLaMA's
            _begin_with_bos(tokenizer, names["bos"], self.bos_id)
        tokenizer.save(str(folder / "tokenizer.json"))
        config: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            config = _read(folder / "tokenizer_config.json")
        special = {f"{role}_token": name for role, name in names.items()}
        # The class that takes tokenizer.json as it is; LlamaTokenizer makes its own of the pieces.
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", **special}
        for name, content in (("tokenizer_config", config), ("special_tokens_map", special)):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8")


def load_tokenizer(path: str | Path, *, size: int | None = None) -> Tokenizer:
    """The tokenizer in a folder, or of one file.

    A folder is read from tokenizer.model (SentencePiece) where it has one, else from
    tokenizer.json, else from vocab.json and merges.txt. Which tokens begin, end and pad a text
    say tokenizer_config.json, special_tokens_map.json, the model's config.json, else their names.

    Args:
        path: a folder, or a `.model` or `.json` file in it.
        size: rows of the model's embedding, for `check_size`.

    Raises:
        InputError: no tokenizer there, a damaged file, or one that does not fit `size`.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name != "vocab.json":
        main = path
    elif path.is_dir() or path.is_file():
        found = [folder / name for name in FILES if (folder / name).is_file()]
        if len(found) > 1 and found[0].suffix == ".model" and is_tiktoken(found[0]):
            found = found[1:]  # LLaMA 3
        if not found:
            raise InputError(
                f"{folder}: no tokenizer there; expected tokenizer.model, tokenizer.json, or "
                "vocab.json and merges.txt"
            )
        main = found[0]
    else:
        raise InputError(f"{path}: no such file or folder; expected a tokenizer")
    engine: FastEngine | SentencePieceEngine
    files = [main]
    if main.suffix == ".model":
        engine = SentencePieceEngine(main, _added_tokens(folder))
        others: tuple[str, ...] = ("tokenizer.json", "added_tokens.json", *_CONFIGS)
    elif main.name == "vocab.json":
        engine = FastEngine.of_gpt2(main, folder / "merges.txt")
        others = ("merges.txt", *_CONFIGS)
    else:
        engine = FastEngine.of_json(main)
        others = _CONFIGS
    files += [folder / name for name in others if (folder / name).is_file()]
    tokenizer = Tokenizer(engine, _roles(folder, engine), tuple(file.resolve() for file in files))
    if size is not None:
        check_size(tokenizer, size, str(path))
    return tokenizer


def check_size(tokenizer: Tokenizer, vocab_size: int, where: str = "the tokenizer") -> None:
    """Whether a tokenizer can be that of a model with `vocab_size` embeddings.

    An id without an embedding is always wrong: JAX would read the last row in its place. Rows
    without an id are right only as padding: models are published with the rows rounded up to a
    multiple of 64 or 128 (GPT-2's 50,257 ids in 50,304 rows). More of them mean another model's
    tokenizer.

    Raises:
        InputError: naming both numbers.
    """
    size = tokenizer.size
    padded = {size, *(-(-size // multiple) * multiple for multiple in (64, 128))}
    if vocab_size in padded:
        return
    reason = "more" if size > vocab_size else "fewer"
    raise InputError(
        f"{where}: {size} ids, {reason} than the model's embedding has rows ({vocab_size}); "
        "this is the tokenizer of another model, or added tokens are missing"
    )


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE for the texts of a catalogue: no text is unknown to it.

    Ids 0, 1 and 2 are `<pad>`, `<s>` and `</s>`, then come bytes and their joins. Each digit is a
    token.

    Args:
        texts: to learn from.
        vocab_size: ids; fewer where the texts do not have that many pairs that occur twice.

    Raises:
        InputError: `vocab_size` below 259.
    """
    import tokenizers

    pre = tokenizers.pre_tokenizers
    alphabet = sorted(pre.ByteLevel.alphabet())
    special = [PAD, BOS, EOS]
    least = len(special) + len(alphabet)
    if vocab_size < least:
        raise InputError(f"a vocabulary of {vocab_size} tokens: expected at least {least}")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    _begin_with_bos(bpe, BOS, special.index(BOS))
    return Tokenizer(FastEngine(bpe), {"pad": 0, "bos": 1, "eos": 2})


def _begin_with_bos(tokenizer: Any, name: str | None, index: int) -> None:
    """Makes Transformers put the token before every text, as it does with LLaMA's."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name}:1 $B:1", special_tokens=[(name, index)]
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of a tokenizer's folder; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: damaged ({error}); expected JSON") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object")
    return content


def _added_tokens(folder: Path) -> dict[str, tuple[int, bool]]:
    """Tokens that were added to a folder's SentencePiece model: name -> (id, is control)."""
    out = {name: (k, False) for name, k in _read(folder / "added_tokens.json").items()}
    decoder = _read(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    entries = [{"id": int(index), **token} for index, token in decoder.items()]
    entries += _read(folder / "tokenizer.json").get("added_tokens", [])
    return out | {e["content"]: (e["id"], bool(e.get("special"))) for e in entries}


def _roles(folder: Path, engine: FastEngine | SentencePieceEngine) -> dict[str, int]:
    """The ids of the tokens that begin, end and pad a text, as far as there are any."""
    named: dict[str, str] = {}
    for file in _CONFIGS:
        for role in _ROLES:
            token = _read(folder / file).get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None:
                named[role] = token
                if engine.id_of(token) is None:
                    raise InputError(f"{folder / file}: {role}_token '{token}' is no token")
    model = _read(folder / "config.json")
    roles = {}
    for role in _ROLES:
        index = model.get(f"{role}_token_id")
        index = index[0] if isinstance(index, list) and index else index  # LLaMA 3 has several ends
        if role in named:
            index = engine.id_of(named[role])
        elif not isinstance(index, int) or not 0 <= index < engine.size:
            usual = map(engine.id_of, _USUAL[role])
            index = next((k for k in usual if k is not None), None)
        if index is not None:
            roles[role] = index
    return roles


def pad_left(
    rows: Sequence[Sequence[int] | np.ndarray], *, pad_id: int, sizes: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array, padded on the left.

    Args:
        rows: B of them, not all empty.
        pad_id: what stands at the padding.
        sizes: lengths to round T up to, so that few shapes are compiled; () = the longest row.

    Returns:
        `(tokens [B T] int32, mask [B T] bool)`, True = real.

    Raises:
        InputError: a row longer than the largest size.
    """
    longest = max(map(len, rows))
    length = min((s for s in sizes if s >= longest), default=0) if sizes else longest
    if length < longest:
        raise InputError(f"a text of {longest} tokens; expected at most {max(sizes)}")
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(length) >= length - lengths[:, None]
    tokens = np.full(mask.shape, pad_id, np.int32)
    tokens[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return tokens, mask
