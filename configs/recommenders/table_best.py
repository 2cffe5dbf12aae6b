"""The recipe of `beauty_best.py` on your own csv, tsv, JSON or parquet file.

    recjax train --config=configs/recommenders/table_best.py:words --workdir=runs/mine \
        --config.data.path=log.csv --config.data.store=prepared/mine \
        --config.data.options.user=user_id --config.data.options.item=product \
        --config.data.options.title=title

BSARec's encoder with causal filters, each prefix of a history as a sample, full cross-entropy, a
constant rate and averaged parameters, for rankings that leave the history out. `:words` is the same
with vectors of the items' titles; `--config.items.vectors=words:title,brand` reads other attributes
of `config.data.options.items`, too. The columns are those of `table_sasrec.py`, which trains faster
and is as good on two smaller data sets (musical instruments, Steam;
configs/results/baselines.md). Nothing was tuned on other data than Beauty.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "words"):
        raise wrong_argument(__file__, arg, "none, or 'words'")
    config = ConfigDict()
    config.data = {"source": "table", "path": "", "store": "prepared/table"}
    config.model = {"name": "filtered", "preset": "bsarec-beauty"}
    config.objective = {"name": "softmax"}
    config.optim = {"warmup_steps": 200, "learning_rate": 5e-4, "average": 0.9995}
    config.train = {
        "batch_size": 256, "prefixes": True, "epochs": 200.0, "evaluate_every": 2.0, "patience": 10,
    }  # fmt: skip
    if arg == "words":
        config.items = {"vectors": "words:title", "use": "features"}
    return config
