"""Filling the blanks of texts with a model of blank infilling.

    pool = EntityPool(titles, marks.sop, lm.config.max_length)      # tokens of each title
    infiller = Infiller(lm, pool=pool, constraint="pool")
    found = infiller(["A user has watched [MASK]."], beams=20)
    found.texts[0]                  # one text a blank, of the best beam
    found.tokens[0, :, 0]           # [beams n] of the first blank, found.scores[0] [beams]

The blanks of a text are filled one after the other, from left to right; each sees the text and what
was written before. A text is read once for all of its beams. A pool gives what is written the inner
positions of RecSysLLM (`entities`), in the loop, token by token; without one they are GLM's. Models
with one row of positions read texts from left to right (with `prefix` both ways, as a run with
`config.prefix` has learned it) and go on after them.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.shards import by_rows, fetch
from recjax.generate.constrained import constrain
from recjax.generate.loop import Generated
from recjax.generate.processors import Processor
from recjax.generate.prompts import bucket, lengths, pad_rows
from recjax.generate.sampling import Sampler, row_keys
from recjax.generate.templates import Template
from recjax.llm import LanguageModel
from recjax.llm_inputs import check_drawing
from recjax.models.definition import ModelDef
from recjax.recsysllm.dynamic import CountedPositions, dynamic_positions
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.filling import InnerRule, write_blanks
from recjax.recsysllm.spans import Marks
from recjax.text.tokenizers import Tokenizer

_STATIC = ("definition", "sharding", "max_new_tokens", "beams", "early_stopping", "both_ways")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _write(
    definition: ModelDef, whole: Any, rows: Any, sharding: NamedSharding | None, **static: Any
) -> Any:
    return by_rows(functools.partial(write_blanks, definition, **static), sharding, whole, rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Infilled:
    """The filled blanks of B texts; K blanks in the text that has the most.

    Attributes:
        texts: [B] lists of one text a blank, of the best beam; None for a model without a
            tokenizer.
        tokens: [B beams K n] int32 of each blank, best beam first, without the tokens that begin
            and end it; -1 after the last.
        lengths: [B beams K] how many tokens those are.
        scores: [B beams] log-probability of all blanks together / number of tokens **
            length_penalty; -inf where there were fewer sequences than beams. Of one beam: among the
            tokens that the constraint and the processors allow; of several: among all.
        valid: [B beams K] bool, True where a blank's text has ended by itself and, under a
            constraint, is one that the constraint allows.
    """

    texts: list[list[str]] | None
    tokens: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray
    valid: np.ndarray


class _Read(NamedTuple):
    """Texts as arrays; rows are padded on the left and end with `<sop>`."""

    tokens: np.ndarray  # [B S]
    real: np.ndarray  # [B S]
    positions: np.ndarray | None  # [B 2 S]
    places: np.ndarray  # [B K]
    blanks: np.ndarray  # [B]


class Infiller:
    """A model that fills blanks, with its pool of entities on the device.

    Programs are compiled once for each length of texts (of a few lengths), number of blanks and
    limit; another pool of about the same size compiles nothing.

    Args:
        lm: a model of blank infilling (GLM, ChatGLM), or a causal one that was trained on such
            texts.
        marks: ids of the command tokens; by default those of the model's tokenizer.
        pool: entities, which give what is read and written its inner positions. A model with one
            row of positions has none, and uses a pool for the constraint alone.
        constraint: "pool": each blank holds one entity of the pool; a template: what it says; None:
            anything.
        dynamic: what is written has the pool's positions, too; else GLM's, and the pool gives those
            of what is read alone.
        prefix: a causal model reads a text both ways; others do so anyway.

    Attributes:
        marks: as given, or read.

    Raises:
        InputError: a model without a tokenizer and no marks; a tokenizer without the command
            tokens; marks beyond the vocabulary; a constraint to the pool without a pool; a pool of
            another `<sop>`, or with a token that is beyond the vocabulary or ends a text.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        marks: Marks | None = None,
        pool: EntityPool | None = None,
        constraint: Literal["pool"] | Template | None = None,
        dynamic: bool = True,
        prefix: bool = False,
    ):
        if marks is None:
            if lm.tokenizer is None:
                raise InputError("infilling: the model has no tokenizer; expected marks=Marks(...)")
            marks = Marks.of(lm.tokenizer)
        vocab = lm.config.vocab_size
        if (highest := max(dataclasses.astuple(marks))) >= vocab:
            raise InputError(f"infilling: a command token {highest}; expected at most {vocab - 1}")
        if pool is not None and pool.sop != marks.sop:
            raise InputError(f"entity pool: <sop> is {pool.sop}; expected {marks.sop}, the model's")
        self._default_new, by_pool = 64, constraint == "pool"
        if by_pool:
            if pool is None:
                raise InputError("infilling: constraint 'pool', but no pool; expected pool=")
            constraint, self._default_new = Template(pool.trie), pool.longest + 1
        elif not (constraint is None or isinstance(constraint, Template)):
            raise InputError(f"infilling: constraint {constraint!r}; expected 'pool' or a template")
        self.lm, self.marks, self._pool, self._template = lm, marks, pool, constraint
        self._two = lm.family.build.position_rows == 2
        self._both_ways = self._two or prefix
        # A constraint knows one end, or each entity would be found twice.
        self._ends = sorted({marks.eop} if constraint else {marks.eop, marks.eos})
        self._rule: InnerRule = CountedPositions(jnp.int32(marks.sop))
        self._constraint: Processor | None = None
        trie = None
        if pool is not None and self._two and dynamic:
            self._rule = counting = dynamic_positions(pool, vocab)
            trie = counting.trie if by_pool else None
        if constraint is not None:
            self._constraint = constrain(constraint, self._ends, vocab, trie)

    def __call__(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        processors: Sequence[Processor] = (),
        seed: int = 0,
        first_row: int = 0,
    ) -> Infilled:
        """Fills the blanks of B texts.

        Args:
            texts: with one blank or more each ([MASK], [sMASK], [gMASK]): texts, which get the
                tokens that begin and end a text of the model; or ids, taken as they are (a `<sop>`
                at their end is left out).
            max_new_tokens: of each blank, from 1; by default 64, or one more than the longest
                entity where the constraint is the pool.
            temperature: 0 takes the most likely token; above, tokens are drawn.
            top_k, top_p: draw among the k most likely, or the most likely that make up p, at a
                temperature above 0.
            beams: above 1, beam search over all blanks of a text together (`temperature` 0).
            length_penalty, early_stopping: of beam search; see `recjax.generate.beam`.
            processors: of `recjax.generate.processors`; `step` counts the tokens of all blanks.
            seed: of the draws; row b draws alike in every batch where it is row b.
            first_row: the number of the first row.

        Raises:
            InputError: an option out of its range, no texts, a text without a blank or longer than
                the model's positions go, ids beyond the vocabulary, texts for a model without a
                tokenizer.
        """
        lm, marks = self.lm, self.marks
        if max_new_tokens is None:
            max_new_tokens = self._default_new
        check_drawing(max_new_tokens, temperature, top_k, top_p, beams)
        rows = self._rows(texts)
        read = self._arrays(rows, max_new_tokens)
        # A blank's tokens and the <sop> between two, or the end of the last.
        total = read.blanks * (max_new_tokens + 1)
        longest = read.places.shape[1] * (max_new_tokens + 1)
        keys = row_keys(jax.random.key(seed), first_row + jnp.arange(len(rows)))
        placed = lm.placed(*read, total, keys)
        whole = {
            "params": lm.params,
            "rule": self._rule,
            "most": jnp.int32(max_new_tokens),
            "sop": jnp.int32(marks.sop),
            "ends": jnp.array(self._ends, jnp.int32),
            "constraint": self._constraint,
            "pad_id": 0 if lm.tokenizer is None else lm.tokenizer.pad_id,
            "sampler": Sampler.of(temperature, top_k, top_p),
            "processors": (*lm.known, *processors),
            "length_penalty": length_penalty,
        }
        written = _write(
            lm.definition,
            whole,
            dict(zip((*read._fields, "limit", "keys"), placed, strict=True)),
            sharding=lm.rows_sharding(len(rows)),
            early_stopping=early_stopping,
            max_new_tokens=bucket(longest, lengths(longest)),
            beams=beams,
            both_ways=self._both_ways,
        )
        return self._infilled(written, read.blanks, max_new_tokens, length_penalty)

    def _rows(self, texts: Any) -> list[np.ndarray]:
        """The ids of texts, checked, without a `<sop>` at their end."""
        if isinstance(texts, str):
            raise InputError("infilling: expected a list of texts or of ids, got one text")
        if not len(texts):
            raise InputError("infilling: no texts")
        if isinstance(texts[0], str):
            if self.lm.tokenizer is None:
                raise InputError("texts need a tokenizer; this model came without one")
            texts = text_ids(self.lm.tokenizer, texts, self.marks)
        rows = []
        for number, row in enumerate(texts):
            ids = np.asarray(row)
            if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
                raise InputError(f"text {number}: {ids.dtype} of {ids.ndim} axes, expected ids [T]")
            if len(ids) and (ids.min() < 0 or ids.max() >= self.lm.config.vocab_size):
                wrong = ids.min() if ids.min() < 0 else ids.max()
                last = self.lm.config.vocab_size - 1
                raise InputError(f"text {number}: token {wrong}; expected ids from 0 to {last}")
            ids = ids[:-1] if len(ids) and ids[-1] == self.marks.sop else ids
            if (ids == self.marks.sop).any():
                raise InputError(f"text {number}: <sop> is inside; expected it at the end, if any")
            if not np.isin(ids, blank_ids(self.marks)).any():
                raise InputError(
                    f"text {number} has no blank; expected one of [MASK], [sMASK] and [gMASK] "
                    f"({', '.join(map(str, blank_ids(self.marks)))})"
                )
            rows.append(ids.astype(np.int32))
        return rows

    def _arrays(self, rows: list[np.ndarray], new: int) -> _Read:
        """Rows of ids as arrays, with positions where the model has two rows of them."""
        max_length, longest = self.lm.config.max_length, max(map(len, rows))
        if self._two:
            for number, row in enumerate(rows):
                if len(row) > max_length:
                    raise InputError(
                        f"text {number} has {len(row)} tokens; expected at most {max_length}, as "
                        "far as the model's positions go"
                    )
            if new > max_length:
                raise InputError(f"max_new_tokens {new}: expected at most {max_length}")
        elif longest + new > max_length:
            warnings.warn(
                f"up to {longest + new} tokens; the model was trained on {max_length}", stacklevel=3
            )
        blank_places = [np.flatnonzero(np.isin(row, blank_ids(self.marks))) for row in rows]
        blanks = np.array([len(places) for places in blank_places], np.int32)
        size = 1 << int(blanks.max() - 1).bit_length()
        places = np.zeros((len(rows), size), np.int32)
        for row, row_places in zip(places, blank_places, strict=True):
            row[: len(row_places)] = row_places
        ended = [np.append(row, self.marks.sop) for row in rows]
        tokens, real = pad_rows(ended, pad_id=0, sizes=lengths(longest + 1))
        if not self._two:
            return _Read(tokens, real, None, places, blanks)
        positions = np.zeros((len(rows), 2, tokens.shape[1]), np.int32)
        positions[:, 0] = np.maximum(np.cumsum(real, axis=1) - 1, 0)
        if self._pool is not None:
            text_only = real.copy()
            text_only[:, -1] = False
            counts = np.array([len(row) for row in rows])
            positions[:, 1][text_only] = self._pool.read(np.concatenate(rows), counts)
        positions[:, :, -1] = np.stack([places[:, 0], np.ones(len(rows), np.int32)], axis=1)
        return _Read(tokens, real, positions, places, blanks)

    def _infilled(self, written: Any, blanks: np.ndarray, limit: int, penalty: float) -> Infilled:
        """Splits what the loop wrote into the tokens of each blank."""
        written = fetch(written)
        tokens, counts = written.tokens, written.lengths
        if isinstance(written, Generated):
            sums = written.log_probs.sum(axis=1)
            scores = (sums / np.maximum(counts, 1) ** penalty).astype(np.float32)[:, None]
            tokens, counts = tokens[:, None], counts[:, None]
        else:
            scores = written.scores
        beams, n_blanks = tokens.shape[1], int(blanks.max())
        out = np.full((len(blanks), beams, n_blanks, limit), -1, np.int32)
        sizes = np.zeros(out.shape[:3], np.int32)
        valid = np.zeros(out.shape[:3], bool)
        allowed = self._allowed()
        for row, beam in np.ndindex(tokens.shape[:2]):
            line = tokens[row, beam, : counts[row, beam]].tolist()
            pieces = _pieces(line, int(blanks[row]), limit, self.marks.sop, self._ends)
            for blank, (piece, ended) in enumerate(pieces):
                out[row, beam, blank, : len(piece)] = piece
                sizes[row, beam, blank] = len(piece)
                valid[row, beam, blank] = ended and allowed(piece)
        texts = None
        if self.lm.tokenizer is not None:
            decode = self.lm.tokenizer.decode
            texts = [
                [decode(out[row, 0, k, : sizes[row, 0, k]]) for k in range(count)]
                for row, count in enumerate(blanks)
            ]
        return Infilled(texts, out, sizes, scores, valid)

    def _allowed(self) -> Callable[[Sequence[int]], bool]:
        """Whether the constraint allows a text as a whole."""
        template = self._template
        if template is None:
            return lambda piece: True
        return lambda piece: template.parse(piece) is not None


def _pieces(
    line: list[int], blanks: int, limit: int, sop: int, ends: Sequence[int]
) -> list[tuple[list[int], bool]]:
    """The tokens in each blank, and whether it ended by itself."""
    out: list[tuple[list[int], bool]] = []
    piece: list[int] = []
    for token in line:
        if token == sop or token in ends:
            out.append((piece, True))
            piece = []
            continue
        piece.append(token)
        if len(piece) == limit:
            out.append((piece, False))
            piece = []
    return out if len(out) == blanks or not line else [*out, (piece, False)]


def blank_ids(marks: Marks) -> list[int]:
    """The ids of blanks, rising."""
    return sorted({marks.mask, marks.sentence, marks.document})


def text_ids(tokenizer: Tokenizer, texts: Sequence[str], marks: Marks) -> list[list[int]]:
    """The ids of texts with blanks, with what begins and ends a text of the model.

    Names of command tokens in a text stand for the tokens. A blank that the model's own tokenizer
    puts at the end of a text is left out where the text has one, and so is `<sop>`.
    """
    rows, blanks = tokenizer.encode_batch(texts, special=True), blank_ids(marks)
    first = (marks.cls,) if marks.cls >= 0 else ()
    begin, end = list(tokenizer.begin or first), list(tokenizer.end or (marks.eos,))
    end = [token for token in end if token != marks.sop]
    out = []
    for row in rows:
        row_end = end
        if not set(blanks).isdisjoint(row):
            row_end = [token for token in end if token not in blanks]
        row = row if row[: len(begin)] == begin else [*begin, *row]
        out.append(row if row[len(row) - len(row_end) :] == row_end else [*row, *row_end])
    return out
