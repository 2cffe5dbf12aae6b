"""Guided embedding refinement on MovieLens-100K, with the 12 aspects of films.

    recjax train --config=configs/guided/ml100k_refined.py:sasrec-ce-joined --workdir=runs/joined
    recjax train --config=configs/guided/ml100k_refined.py:sasrec-ce-base --workdir=runs/base
    recjax train --config=configs/guided/ml100k_refined.py:fused --workdir=runs/fused \
        --config.base=runs/base

The argument is MODEL-OBJECTIVE-ROW: sasrec, gru4rec, gru4rec+ or bert4rec; ce or bce (gru4rec+:
ce or bprmax); and a row:
- base: 60 learned numbers an item; wide: 240
- items: 48 learned numbers and 12 aspects (equation 9a)
- joined: also the user's, the mean of the last 10 items (9b); added: to the state's own
- linear: as added, through learned maps (equation 8)
- scored: as added, the user's scores of an LLM
- shuffled, random: controls of `added`; genres: genres in place of aspects
`fused` alone adds aspects to a trained base (`fused-shuffled` and `fused-scored` are its variants).

The last 10 items of each user are test points, the 3 before them validation. `config.guided.items`
names the score file. Over three seeds, NDCG@10 of `added` is above the base by 1.3 % for SASRec
(interval -0.9 to +3.5), 9.3 % for GRU4Rec (+6.9 to +11.8), 5.2 % for BERT4Rec (+2.5 to +7.8) and
3.1 % for GRU4Rec+ (+0.6 to +5.5), of `fused` by 1.5 % (+0.5 to +2.6), 4.6 % (+3.3 to +5.9), 4.5 %
(+3.1 to +6.0) and 3.7 % (+2.2 to +5.2); configs/results/guided.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

SCORES = "scores:ml-100k-aspect-scores/item_scores.tsv"
USERS = "scores:ml-100k-aspect-scores/user_scores.tsv"
MODELS = {
    "sasrec": {"name": "sasrec", "mlp_dim": 60, "max_length": 50, "dropout": 0.2},
    "gru4rec": {"name": "gru4rec", "max_length": 50, "embedding_dropout": 0.2},
    "gru4rec+": {"name": "gru4rec", "max_length": 50, "embedding_dropout": 0.2},
    "bert4rec": {"name": "bert4rec", "mlp_dim": 240, "mask_share": 0.2},
}
OBJECTIVES = {
    "ce": {"name": "softmax"},
    "bce": {"name": "bce"},
    "bprmax": {"name": "bpr_max", "negatives": 512, "popularity_power": 0.5},
}
# The sections `guided` and `refine` of a row.
ROWS = {
    "items": ({}, {}),
    "joined": ({}, {"user": "joined"}),
    "added": ({}, {"user": "added", "alpha": 4.0}),
    "linear": ({}, {"user": "added", "form": "linear"}),
    "scored": ({"vector": USERS}, {"user": "added", "alpha": 4.0}),
    "shuffled": ({"control": "shuffled"}, {"user": "added", "alpha": 4.0}),
    "random": ({"control": "random"}, {"user": "added", "alpha": 4.0}),
    "genres": ({"items": ("labels:genres",)}, {"user": "added", "alpha": 4.0}),
}
FUSED = {"fused": {}, "fused-shuffled": {"control": "shuffled"}, "fused-scored": {"vector": USERS}}
EVALUATION = {"protocols": ("full", "uni100")}


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict()
    config.evaluation = EVALUATION
    if arg in FUSED:
        config.system = "fused"
        config.base = ""
        config.guided = {"items": (SCORES,), **FUSED[arg]}
        return config
    parts = (arg or "sasrec-ce-added").split("-")
    model, objective, row = [*parts, "", ""][:3]
    known = (*ROWS, "base", "wide")
    if len(parts) != 3 or model not in MODELS or objective not in OBJECTIVES or row not in known:
        names = "; ".join(", ".join(some) for some in (MODELS, OBJECTIVES, known))
        fused = ", ".join(FUSED)
        raise wrong_argument(__file__, arg, f"MODEL-OBJECTIVE-ROW of {names}; or one of {fused}")
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.split = {"name": "rolling", "last": 10, "held": 3}
    config.model = {**MODELS[model], "dim": 240 if row == "wide" else 60}
    config.objective = OBJECTIVES[objective]
    config.train = {
        "batch_size": 128,
        "epochs": 400.0,
        "evaluate_every": 8.0,
        "patience": 6,
        "steps_per_call": 8,
        "stride": 50,  # windows of 50 items, all of a history is learned from
    }
    if row in ROWS:
        guided, config.refine = ROWS[row]
        config.guided = {"items": (SCORES,), **guided}
        config.system = "guided"
    return config
