"""Each switch changes exactly what it says; blanks respect entities; batches are f(seed, step)."""

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.recsysllm.passages import Passage, Piece, PieceEncoder, fill
from recjax.recsysllm.pretrain import OWN, Blanking, EntityConfig, PassageBatches, sample_units
from recjax.recsysllm.spans import BlankConfig
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import load_tokenizer

OFF = EntityConfig(whole=False, positions=False)
LENGTH = 96
TEXT = "This user has watched {titles}. So far."
ONE = Passage(
    "histories", fill(TEXT, {"titles": ("Alien", "Heat", "Alien Resurrection", "What About Bob?")})
)


@pytest.fixture
def make(encoder, marks, pool, ends):
    def make(entities=None, **blanks):
        config = BlankConfig(**{"ratio": 0.4, "mean": 2.0, **blanks})
        return Blanking(encoder, marks, config, entities or EntityConfig(), pool, LENGTH, ends)

    return make


def spelled(tokenizer, blanked):
    """A row as `(token read, token to write, outer, inner)`."""
    names = [tokenizer.decode([t], skip_special=False) for t in range(tokenizer.size)]
    return [
        (names[token], "" if label == NO_LABEL else names[label], int(outer), int(inner))
        for token, label, (outer, inner) in zip(
            blanked.tokens, blanked.labels, blanked.positions, strict=True
        )
    ]


def pieces_of(blanked, marks):
    """The written spans of a row, as tuples of tokens."""
    written = blanked.labels[blanked.labels != NO_LABEL].tolist()
    out, span = [], []
    for token in written:
        if token == marks.eop:
            out.append(tuple(span))
            span = []
        else:
            span.append(token)
    return out


def test_golden_table_of_a_task(make, glm_tokenizer):
    """A question, its answer, and all four numbers of each place."""
    passage = Passage(
        "sequential",
        fill("Seen: {titles}. Next:", {"titles": ("Alien", "Big")}),
        fill("{t}", {"t": ("Heat",)}),
    )
    table = spelled(glm_tokenizer, make()([passage], np.array([3])))
    text = "".join(token for token, label, *_ in table if not label)
    assert text == "[CLS]Seen: Alien, Big. Next:[MASK]<|endoftext|>"
    mask = next(k for k, row in enumerate(table) if row[0] == "[MASK]")
    written = [row for row in table if row[1]]
    assert "".join(row[1] for row in written) == " Heat<|endofpiece|>"
    assert written[0][0] == "<|startofpiece|>"
    assert [row[2] for row in written] == [mask] * len(written)  # the mask's outer position
    assert [row[3] for row in written] == list(range(1, len(written) + 1))
    inner = {row[0]: row[3] for row in table if not row[1]}
    assert inner["[CLS]"] == inner["[MASK]"] == inner["."] == inner[","] == 0
    entity = [row[3] for row in table if not row[1]]
    assert entity.count(1) == 2  # two entities are read
    plain = spelled(glm_tokenizer, make(OFF)([passage], np.array([3])))
    assert [row[:3] for row in plain] == [row[:3] for row in table]
    assert all(row[3] == 0 for row in plain if not row[1])


def test_an_answer_begins_a_text(glm_tokenizer, marks, tmp_path):
    """With the blank that a tokenizer such as ChatGLM's puts before one."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = glm_tokenizer.folder / name
        if file.is_file():
            text = file.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true')
            (tmp_path / name).write_text(text)
    encoder = PieceEncoder(load_tokenizer(tmp_path))
    blanking = Blanking(encoder, marks, BlankConfig(), OFF, None, LENGTH)
    passage = Passage("rating", (Piece("Liked?"),), (Piece("yes"),))
    row = blanking([passage], np.zeros(1, int))
    written = row.labels[row.labels != NO_LABEL].tolist()
    assert written == [*glm_tokenizer.encode(" yes"), marks.eop]
    for nothing in ((), (Piece(""),)):
        with pytest.raises(InputError, match=r"passage 1 \(rating\): its answer has no tokens"):
            blanking([passage, Passage("rating", (Piece("Liked?"),), nothing)], np.arange(2))


def test_whole_changes_which_spans(make, marks, encoder):
    """On: every entity is read whole or written whole. Off: some are split."""
    split = {True: 0, False: 0}
    for whole in split:
        maker = make(EntityConfig(whole, False), shuffle=False)
        for number in range(60):
            row = maker([ONE], np.array([number]))
            read = row.tokens[: row.sources[0]].tolist()
            parts = [read, *map(list, pieces_of(row, marks))]
            for title in ("Alien Resurrection", "What About Bob?"):
                ids = encoder.entity(title)
                size = len(ids)
                found = any(part[k : k + size] == ids for part in parts for k in range(len(part)))
                split[whole] += not found
    assert split[True] == 0 and split[False] > 5


def test_order_changes_the_order_alone(make, marks):
    """The same blanks; only where each is written differs."""
    moved = 0
    for number in range(20):
        fixed = make(shuffle=False)([ONE], np.array([number]))
        drawn = make(shuffle=True)([ONE], np.array([number]))
        source = fixed.sources[0]
        assert np.array_equal(fixed.tokens[:source], drawn.tokens[:source])
        assert np.array_equal(fixed.positions[:source], drawn.positions[:source])
        outer = fixed.positions[source:, 0]
        assert np.array_equal(outer, np.sort(outer))  # chronological
        assert sorted(pieces_of(fixed, marks)) == sorted(pieces_of(drawn, marks))
        moved += pieces_of(fixed, marks) != pieces_of(drawn, marks)
    assert moved > 5


def test_positions_change_inner_positions_alone(make, pool, marks):
    most = 0
    for number in range(10):
        on = make(EntityConfig(True, True))([ONE], np.array([number]))
        off = make(EntityConfig(True, False))([ONE], np.array([number]))
        assert np.array_equal(on.tokens, off.tokens) and np.array_equal(on.labels, off.labels)
        assert np.array_equal(on.positions[:, 0], off.positions[:, 0])
        source = int(on.sources[0])
        read = pool.read(on.tokens[:source], np.array([source]))
        assert np.array_equal(on.positions[:source, 1], read)
        most = max(most, read.max())
        assert not off.positions[:source, 1].any()
        assert np.array_equal(off.positions[source:, 1] == 1, off.tokens[source:] == marks.sop)
    assert most > 1


def test_plain_glm_is_one_config(make, encoder, marks, ends):
    """All switches off: what `blanks.blank` makes of the same tokens."""
    from recjax.recsysllm.blanks import blank
    from recjax.text.token_batches import Encoded

    row = [marks.cls, *(t for part in encoder([ONE.pieces])[0] for t in part), marks.eos]
    tokens = np.array(row, np.int32)
    given = Encoded(tokens, tokens, np.zeros_like(tokens), np.array([len(row)]), [])
    config = BlankConfig(ratio=0.4, mean=2.0)
    numbers = np.array([5])
    wanted = blank(given, config, marks, seed=0, places=numbers, ends=ends, length=LENGTH)
    found = make(OFF)([ONE], numbers)
    for name in ("tokens", "labels", "positions", "targets"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("level, mask", [("sentence", "[sMASK]"), ("document", "[gMASK]")])
def test_levels_have_their_masks(make, glm_tokenizer, marks, level, mask):
    """A sentence is not cut inside of an entity with a full stop; a long span is 50 % or more."""
    maker = make(shuffle=False, token=0.0, tail=0.0, ratio=0.1, **{level: 1.0})
    for number in range(12):
        row = maker([ONE], np.array([number]))
        text = glm_tokenizer.decode(row.tokens[: row.sources[0]], skip_special=False)
        assert mask in text and text.count("[MASK]") == 0
        if level == "sentence":
            sentences = {glm_tokenizer.decode(p) for p in pieces_of(row, marks)}
            whole = "This user has watched Alien, Heat, Alien Resurrection, What About Bob?."
            assert sentences <= {whole, " So far."}


def test_blocked_tokens_are_those_of_short_spans_alone(make, marks):
    """They are read as `[dBLOCK]` and written as themselves; an answer is read as it is."""
    asked = Passage("y", fill("Name {t}:", {"t": ("Big",)}), fill("{t}", {"t": ("Heat",)}))
    for passage, level in ((asked, {}), (ONE, {}), (ONE, {"token": 0.0, "document": 1.0})):
        plain, blocked = (
            make(block=block, **level)([passage], np.array([2])) for block in (0.0, 1.0)
        )
        np.testing.assert_array_equal(plain.labels, blocked.labels)
        written = np.arange(len(plain.tokens)) >= plain.sources[0]
        hidden = written & (plain.tokens != marks.sop) & (passage is ONE and not level)
        expected = np.where(hidden, marks.block, plain.tokens)
        np.testing.assert_array_equal(blocked.tokens, expected)


def test_units_of_a_text_without_entities_are_tokens(marks, pool, ends, make):
    tokens = np.array([marks.cls, *range(20, 50), marks.eos], np.int32)
    lengths = np.array([len(tokens)])
    from recjax.recsysllm.spans import sample_spans

    args = (tokens, lengths, BlankConfig(), marks)
    more = {"seed": 1, "places": np.array([0]), "ends": ends, "length": 64}
    one, other = sample_units(*args, pool, **more), sample_spans(*args, **more)
    assert np.array_equal(one.start, other.start) and np.array_equal(one.stop, other.stop)


def test_long_passages_keep_entities_whole(make, encoder, marks):
    titles = ("What About Bob?",) * 40
    drawn = make(shuffle=False)([Passage("x", fill(TEXT, {"titles": titles}))], np.array([0]))
    assert len(drawn.tokens) <= LENGTH
    asked = Passage("y", fill(TEXT, {"titles": titles}), fill("{t}", {"t": ("Heat",)}))
    row = make()([asked], np.array([0]))
    assert len(row.tokens) <= LENGTH
    source = row.tokens[: row.sources[0]].tolist()
    ids = encoder.entity("What About Bob?")
    assert source[1 : 1 + len(ids)] == ids or source[1] == encoder([fill(",", {})])[0][0][0]
    assert pieces_of(row, marks) == [tuple(encoder.entity("Heat"))]


class Stream:
    def __init__(self, passages):
        self.passages = passages

    def __len__(self):
        return len(self.passages)

    def __call__(self, place):
        return self.passages[place % len(self.passages)]


def test_batches_are_a_function_of_seed_and_step(make, glm_tokenizer, marks):
    asked = Passage("y", fill("Name {t}:", {"t": ("Big",)}), fill("{t}", {"t": ("Heat",)}))
    stream = Stream([ONE, asked, ONE, asked, ONE, ONE, asked, ONE])

    def batches(process):
        return PassageBatches(
            stream, glm_tokenizer, LENGTH, 4, process=process,
            config=BlankConfig(), marks=marks, blanking=make(),
        )  # fmt: skip

    whole = batches((0, 1))
    first, again = whole(3), batches((0, 1))(3)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["tokens"], whole(5)["tokens"])

    def texts(batch):
        out = []
        for tokens, segments in zip(batch["tokens"][0], batch["segments"][0], strict=True):
            out += [tuple(tokens[segments == s]) for s in range(1, segments.max() + 1)]
        return sorted(out)

    halves = [batches((k, 2))(3) for k in range(2)]
    assert texts(first) == sorted(texts(halves[0]) + texts(halves[1]))


def test_a_title_that_is_an_answer_is_whole(make, encoder, marks):
    """The question has the rest of the row; an answer that is free text has half of it."""
    asked = fill(TEXT, {"titles": ("Heat",) * 20})
    title = "What About Bob? " * 20
    while len(encoder.entity(title)) > LENGTH - OWN:
        title = title[:-1].strip()
    row = make()([Passage("y", asked, (Piece(title, True),))], np.array([0]))
    assert pieces_of(row, marks) == [tuple(encoder.entity(title))]
    assert len(encoder.entity(title)) > LENGTH // 2 and len(row.tokens) <= LENGTH
    row = make()([Passage("y", asked, (Piece(title),))], np.array([0]))
    assert [len(piece) for piece in pieces_of(row, marks)] == [LENGTH // 2 - OWN]


def test_how_many_questions_and_answers_are_cut(make):
    name = (Piece("Name:"),)
    half = Passage("y", name, (Piece("Big " * (LENGTH // 2)),))
    assert make().share_cut([half]) == 1 and make().share_cut([Passage("y", name, name)]) == 0
    short = Passage("y", fill("Name {t}:", {"t": ("Big",)}), fill("{t}", {"t": ("Heat",)}))
    long = Passage("y", fill("Of {t}:", {"t": ("Big",) * LENGTH}), fill("{t}", {"t": ("Heat",)}))
    assert make().share_cut([ONE, short, long]) == 0.5 and make().share_cut([ONE]) == 0


def test_switches_need_entities(encoder, marks):
    with pytest.raises(InputError, match=r"config.entities: whole or positions"):
        Blanking(encoder, marks, BlankConfig(), EntityConfig(), None, 64)
    no_block = PieceEncoder(None)
    import dataclasses

    with pytest.raises(InputError, match=r"config.blanks.block: 0.5"):
        Blanking(
            no_block, dataclasses.replace(marks, block=-1), BlankConfig(block=0.5), OFF, None, 64
        )
