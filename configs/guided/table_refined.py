"""Guided embedding refinement of SASRec on your own file, with a file of the items' scores.

    recjax train --config=configs/guided/table_refined.py:base --workdir=runs/base \
        --config.data.path=log.csv --config.data.store=prepared/mine
    recjax train --config=configs/guided/table_refined.py:fused --workdir=runs/fused \
        --config.base=runs/base --config.guided.items="('scores:item_scores.tsv',)"
    recjax explain --workdir=runs/fused --user=ann

`recommenders/table_sasrec.py` says how to name your columns. The argument is base (60 learned
numbers an item, full cross-entropy), items, joined or added (48 and 12 aspects: the item side
alone, the user's vector in the place of the state's own, added to it), or fused: aspects beside a
trained base. `config.guided.items` takes other sources, too: `labels:genres`, `words:title`
(recjax/guided/README.md). `model.dim` is the whole width: of 60, 12 aspects leave 48 learned
numbers.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

SCORES = ("scores:item_scores.tsv",)
ROWS = {"items": {}, "joined": {"user": "joined"}, "added": {"user": "added"}}


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict()
    if arg == "fused":
        config.system = "fused"
        config.base = ""
        config.guided = {"items": SCORES}
        return config
    if arg not in ("base", *ROWS):
        raise wrong_argument(__file__, arg, "base, items, joined, added or fused")
    config.data = {"source": "table", "path": "", "store": "prepared/table"}
    config.model = {
        "name": "sasrec", "dim": 60, "mlp_dim": 60, "max_length": 50, "dropout": 0.2,
    }  # fmt: skip
    config.objective = {"name": "softmax"}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
    if arg in ROWS:
        config.system = "guided"
        config.guided = {"items": SCORES}
        config.refine = ROWS[arg]
    return config
