"""Where the texts of a run come from: the one seam between data and blank infilling.

`config.text.source` names a `Source` of `SOURCES`; the other keys of `config.text` are the fields
of its `Options`. A new source is a subclass and a line of that table. It says which documents are
learned from, and which are held out; blanks are drawn in both by the batches that it makes (by
default `BlankBatches`).

    source = Texts(Texts.Options(path="texts.jsonl"), texts, SplitConfig(), seed=0)
    source.stream(7).text                        # document 7 of an endless shuffled stream
    source.held_out("validation", 100, seed=0)   # the same documents at every measurement
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np

from recjax.config import build, nearest
from recjax.data.prepare import resolve
from recjax.data.rows import some_rows
from recjax.data.sources._lines import text_lines
from recjax.data.splits import Spans, Split
from recjax.errors import InputError
from recjax.lazy import resolve as resolve_name
from recjax.ranges import Checked, FieldError, Range
from recjax.recsysllm.blanks import BlankBatches
from recjax.text.corpus import Documents, TextConfig
from recjax.text.documents import Document
from recjax.text.pairs import Shuffled, json_rows, text_of
from recjax.text.token_batches import Stream
from recjax.text.tokenizers import Tokenizer
from recjax.training.ranking_run import SplitConfig, make_split
from recjax.training.system import own_store

# Each is a `Source`.
SOURCES = {
    "catalogue": "recjax.recsysllm.sources:Catalogue",
    "texts": "recjax.recsysllm.sources:Texts",
    "tasks": "recjax.recsysllm.mixed:Mixed",
}
DEFAULT = "catalogue"


D = TypeVar("D")


class Source(abc.ABC, Generic[D]):
    """Documents of a kind D, by default `recjax.text.documents.Document` without soft tokens.

    Args:
        options: an instance of `Options`.
        store: what `open` gave.
        split: `config.split`.
        seed: of all draws.
    """

    Options: ClassVar[Any]  # a checked dataclass: the keys of `config.text` beside `source`

    def __init__(self, options: Any, store: Any, split: SplitConfig, seed: int):
        self.options, self.store, self.seed = options, store, seed
        self.split_config = split

    @classmethod
    def open(cls, options: Any, config: Any, may_prepare: bool) -> Any:
        """The data, with a `manifest` and a `fingerprint`: by default a store of `config.data`."""
        del options
        if config.data is None:
            raise InputError("config.data: missing; expected a section with source and store")
        return own_store(config, may_prepare)

    @classmethod
    def settled(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """The section `text` with the paths of what it reads made absolute."""
        return dict(section)

    @property
    @abc.abstractmethod
    def stream(self) -> Stream[D]:
        """The training documents; document = f(seed, place), their number that of an epoch."""

    def batches(self, tokenizer: Tokenizer, **fields: Any) -> BlankBatches:
        """The training batches, which also draw the blanks of what is held out.

        Args:
            tokenizer: of the model.
            fields: of `BlankBatches`, but `documents`.
        """
        return BlankBatches(self.stream, tokenizer, **fields)

    @abc.abstractmethod
    def corpus(self) -> Iterable[str]:
        """Texts that a tokenizer is trained on."""

    def completed(self, tokenizer: Tokenizer) -> Tokenizer:
        """A tokenizer that was trained on `corpus`, with the tokens that the texts need beside."""
        return tokenizer

    def vectors(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids [n] of the tokenizer and vectors [n D] that their embeddings start from, or None.

        Raises:
            InputError: they cannot be had.
        """
        del tokenizer
        return None

    @abc.abstractmethod
    def held_out(self, name: str, most: int, seed: int) -> list[D]:
        """Documents to measure: at most so many (0 = all), the same at every call.

        Args:
            name: "validation" or "test"; the latter may be empty where no test is wanted.
            most: of each kind.
            seed: of their choice.
        """

    @property
    def fingerprint(self) -> str:
        """Hash of the data."""
        return self.store.fingerprint


def source_of(section: Mapping[str, Any]) -> tuple[type[Source], Any]:
    """The class and the options that a section `text` names.

    Raises:
        InputError: no such source; what is wrong with its options.
    """
    values = {key: section[key] for key in section}
    name = values.pop("source", DEFAULT)
    if name not in SOURCES:
        raise InputError(f"config.text.source: no source '{name}'; {nearest(str(name), SOURCES)}")
    source: type[Source] = resolve_name(SOURCES[name])
    return source, build(source.Options, values, "config.text")


@dataclasses.dataclass(frozen=True)
class CatalogueOptions(Checked):
    """Options of the source "catalogue"; documents are those of `recjax.text.corpus`."""

    domain: str = "movie"  # the words
    prompts: str = ""  # a file that adds domains; see `recjax.text.prompts`
    window: Annotated[int, Range(2, 1000)] = 10  # items of a history, at most
    items: Annotated[float, Range(0, 10_000)] = 1.0  # documents an item: what is known of it
    # Documents a training sequence: titles in a row.
    histories: Annotated[float, Range(0, 10_000)] = 1.0


class Catalogue(Source[Document]):
    """Facts of the items, and histories as plain text; histories are held out."""

    Options = CatalogueOptions
    options: CatalogueOptions

    @functools.cached_property
    def split(self) -> Split:
        """Training runs, validation and test examples."""
        return make_split(self.store, self.split_config)

    def documents_of(self, spans: Spans) -> Documents:
        """The text of the catalogue and of these runs."""
        options = self.options
        config = TextConfig(
            domain=options.domain, prompts=options.prompts, window=options.window,
            items=options.items, histories=options.histories,
            naming=0.0, recovery=0.0, residual=0.0,
        )  # fmt: skip
        return Documents(config, self.store.catalog, self.store.items, spans, self.seed)

    @functools.cached_property
    def stream(self) -> Documents:  # type: ignore[override]
        """The split's training part alone."""
        return self.documents_of(self.split.train)

    def corpus(self) -> Iterable[str]:
        """All titles and all words."""
        return self.stream.corpus()

    def held_out(self, name: str, most: int, seed: int) -> list[Document]:
        """Histories of the split's part with their targets, the newest window of each."""
        part = getattr(self.split, name)
        spans = dataclasses.replace(part, stops=part.stops + 1)
        documents = self.documents_of(spans)
        members = documents.members("histories")
        members = members[some_rows(len(members), most, seed)]
        return [documents.fixed("histories", int(member)) for member in members]


_Share = Annotated[float, Range(0, below=1)]


@dataclasses.dataclass(frozen=True)
class TextsOptions(Checked):
    """Options of the source "texts": a file with one text a line, or JSON lines; also .gz."""

    path: str = ""  # as given, else under the folder named by RECJAX_DATA
    key: str = "text"  # of the text in a JSON line
    validation_share: _Share = 0.05  # of the texts, drawn once
    test_share: _Share = 0.05  # 0 = no test

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            raise FieldError("path", "is empty; expected a file of texts")
        if not self.validation_share or self.validation_share + self.test_share >= 1:
            raise FieldError(
                "validation_share", "expected more than 0, and less than 1 with test_share"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class TextFile:
    """The texts of a file.

    Attributes:
        texts: none is empty.
        manifest: their number, the file and a hash.
    """

    texts: list[str]
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the texts."""
        return self.manifest["sha256"]


class Texts(Source[Document]):
    """The texts of a file; a share of them is held out."""

    Options = TextsOptions
    options: TextsOptions
    store: TextFile

    @classmethod
    def open(cls, options: TextsOptions, config: Any, may_prepare: bool) -> TextFile:
        """The texts of the file.

        Raises:
            InputError: naming the file, its line, or `config.text.path`; fewer than three texts.
        """
        del config, may_prepare
        path = resolve(options.path, "config.text.path")
        name = path.name.removesuffix(".gz")
        if name.endswith((".jsonl", ".json")):
            rows = json_rows(path, (options.key,))
            texts = [text_of(row, options.key, where) for where, row in rows]
        else:
            texts = [line for _, line in text_lines(path)]
        texts = [text for text in texts if text.strip()]
        if len(texts) < 3:
            raise InputError(f"{path}: {len(texts)} texts; expected at least 3")
        digest = hashlib.sha256()
        for text in texts:
            digest.update(f"{len(text)} {text}\0".encode("utf-8", "surrogatepass"))
        manifest = {
            "counts": {"texts": len(texts)},
            "files": [str(path.absolute())],
            "sha256": digest.hexdigest(),
        }
        return TextFile(texts, manifest)

    @classmethod
    def settled(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """The section with the file's absolute path."""
        path = resolve(section["path"], "config.text.path")
        return {**section, "path": str(path.absolute())}

    @functools.cached_property
    def parts(self) -> dict[str, list[Document]]:
        """The documents of training, validation and test."""
        texts = self.store.texts
        order = np.random.default_rng(self.seed).permutation(len(texts))
        out, start = {}, 0
        shares = (
            ("validation", self.options.validation_share),
            ("test", self.options.test_share),
        )
        for name, share in shares:
            count = max(1, round(share * len(texts))) if share else 0
            out[name], start = order[start : start + count], start + count
        out["train"] = order[start:]
        if not len(out["train"]):
            raise InputError(f"config.text.validation_share: none of {len(texts)} texts is left")
        return {
            name: [Document("texts", ((texts[k], True),)) for k in np.sort(part)]
            for name, part in out.items()
        }

    @functools.cached_property
    def stream(self) -> Shuffled[Document]:  # type: ignore[override]
        """The training part, shuffled."""
        return Shuffled(self.parts["train"], self.seed)

    def corpus(self) -> Iterable[str]:
        """The training part."""
        return (document.text for document in self.parts["train"])

    def held_out(self, name: str, most: int, seed: int) -> list[Document]:
        """The texts of a part."""
        part = self.parts[name]
        return [part[k] for k in some_rows(len(part), most, seed)]
