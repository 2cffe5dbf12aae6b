#!/usr/bin/env python
"""Writes a language model's vectors of the items' texts, for `config.items.vectors`.

    python scripts/item_vectors.py --llm=Llama-3.2-1B --store=prepared/beauty \
        --out=beauty_vectors.parquet
    recjax train --config=configs/recommenders/beauty_best.py --workdir=runs/text \
        --config.items.vectors=beauty_vectors.parquet --config.items.use=null_space

A vector is the mean of the final hidden states of `--text`, whose {title} and other {keys} are
those of the item's record. Items without one of the keys get no row. Of longer vectors the `--most`
principal components that vary most are kept.
"""

from pathlib import Path

import numpy as np

import recjax
from recjax.arguments import Parser, positive
from recjax.data.attributes import Attributes
from recjax.data.store import open_store
from recjax.errors import InputError, run_script
from recjax.text_vectors import text_vectors
from recjax.training.item_text import write_vectors


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--llm", required=True, help="folder of a language model")
    parser.add_argument("--store", required=True, help="folder of a prepared data set")
    parser.add_argument("--out", required=True, help="FILE.parquet")
    parser.add_argument("--text", default="{title}", help="text of an item")
    parser.add_argument("--most", type=positive, default=256, help="numbers of a vector")
    args = parser.parse_args(argv)
    if Path(args.out).suffix != ".parquet":
        parser.error(f"--out {args.out}: expected FILE.parquet")
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


def text_of(template: str, record: dict | None) -> str | None:
    """The template with a record's values; None where one is missing."""
    try:
        values = {key: value for key, value in (record or {}).items() if value not in (None, "")}
        return template.format_map(values) if record else None
    except (KeyError, IndexError, ValueError):
        return None


if __name__ == "__main__":
    run_script(main)
