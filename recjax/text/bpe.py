"""A tokenizer of our own: byte-level BPE, learned from the texts of a catalogue."""

from collections.abc import Iterable, Sequence
from typing import Any

from recjax.errors import InputError
from recjax.text._token_ends import add_ends
from recjax.text._token_engines import FastEngine
from recjax.text._token_settings import BOS, EOS, PAD, strips
from recjax.text.tokenizers import Tokenizer


def train_bpe(
    texts: Iterable[str], vocab_size: int, *, commands: Sequence[str] = (), ends: bool = False
) -> Tokenizer:
    """A byte-level BPE (Sennrich et al. 2016; of bytes: Radford et al. 2019): no text is unknown.

    Ids 0, 1 and 2 are `<pad>`, `<s>` and `</s>`, then come `commands`, bytes and their joins. Each
    digit is a token.

    Args:
        texts: to learn from.
        vocab_size: ids; fewer where the texts do not have that many pairs that occur twice.
        commands: control tokens of a model of blank infilling. A mask takes the blank before it
            into itself, as in GLM.
        ends: a whole text ends with `</s>`, too (`Tokenizer.end`).

    Raises:
        InputError: `vocab_size` below 259 and the commands.
    """
    import tokenizers

    pre = tokenizers.pre_tokenizers
    alphabet = sorted(pre.ByteLevel.alphabet())
    special: list[Any] = [PAD, BOS, EOS]
    special += [
        tokenizers.AddedToken(name, lstrip=strips(name), normalized=False, special=True)
        for name in commands
    ]
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
    around = ((1,), (2,) if ends else ())
    add_ends(bpe, *around)
    return Tokenizer(FastEngine(bpe), {"pad": 0, "bos": 1, "eos": 2}, ends=around)
