#!/usr/bin/env python
"""Writes a language model's vectors of the items' texts, for `config.items.vectors`.

    python scripts/item_vectors.py --llm=Llama-3.2-1B --store=prepared/beauty \
        --out=beauty_vectors.parquet
    recjax train --config=configs/recommenders/beauty_best.py --workdir=runs/text \
        --config.items.vectors=beauty_vectors.parquet --config.items.use=null_space

A vector is the mean of the final hidden states of `--text` (its first 256 tokens), whose {title}
and other {keys} are those of the item's record. Items without one of the keys get no row. Of longer
vectors the `--most` principal components that vary most are kept.
"""

import string

import numpy as np

import recjax
from recjax.arguments import Parser, positive
from recjax.data.attributes import Attributes
from recjax.data.store import open_store
from recjax.errors import InputError, run_script
from recjax.out_files import check_out
from recjax.paths import flag_path
from recjax.text_vectors import text_vectors
from recjax.training.item_text import write_vectors


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--llm", required=True, help="folder of a language model")
    parser.add_argument("--store", required=True, help="folder of a prepared data set")
    parser.add_argument("--out", type=flag_path, required=True, help="FILE.parquet")
    parser.add_argument("--text", default="{title}", help="text of an item")
    parser.add_argument("--most", type=positive, default=256, help="numbers of a vector")
    args = parser.parse_args(argv)
    check_out(args.out, (".parquet",), overwrite=None)
    check_template(args.text)
    store, lm = open_store(args.store), recjax.load_llm(args.llm)
    texts = [text_of(args.text, record) for record in store.catalog]
    known = np.array([text is not None for text in texts])
    if not known.any():
        raise InputError(f"--text {args.text}: no item of {args.store} has these keys")
    values = np.zeros((len(texts), lm.config.dim), np.float32)
    values[known] = text_vectors(lm, [text for text in texts if text is not None])
    names = tuple(f"v{n}" for n in range(values.shape[1]))
    count = write_vectors(args.out, Attributes(names, values, known), store.catalog, args.most)
    print(f"{args.out}: {count} items")


def check_template(template: str) -> None:
    """`InputError` for a text that names no key of an item, or something else than keys."""
    try:
        keys = [key for _, key, *_ in string.Formatter().parse(template) if key is not None]
    except ValueError as error:
        raise InputError(f"--text {template}: {error}; expected keys such as {{title}}") from None
    if not keys or not all(map(str.isidentifier, keys)):
        raise InputError(f"--text {template}: expected keys of an item, such as {{title}}")


def text_of(template: str, record: dict | None) -> str | None:
    """The template with a record's values; None where one is missing."""
    values = {key: value for key, value in (record or {}).items() if value not in (None, "")}
    try:
        return template.format_map(values)
    except KeyError:
        return None


if __name__ == "__main__":
    run_script(main)
