"""SASRec (Kang and McAuley 2018) on your own csv, tsv, JSON or parquet file.

    recjax train --config=configs/recommenders/table_sasrec.py:ce --workdir=runs/mine \
        --config.data.path=log.csv --config.data.store=prepared/mine \
        --config.data.options.user=user_id --config.data.options.item=product

The columns are named by `config.data.options` (see `recjax/data/README.md`): `user`, `item`,
`timestamp` (seconds or ISO dates; "" = the file is in time order), `rating`, `title`, `items` for a
file of items beside it, `columns` for a file without a header. Without an argument
the paper's binary cross-entropy with one negative; `:ce` the full cross-entropy, which is better on
nearly every data set.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise wrong_argument(__file__, arg, "none, or 'ce'")
    config = ConfigDict()
    config.data = {"source": "table", "path": "", "store": "prepared/table"}
    config.model = {"name": "sasrec", "max_length": 50, "dropout": 0.2}
    config.objective = {"name": "bce"}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
    if arg == "ce":
        config.objective = {"name": "softmax"}
    return config
