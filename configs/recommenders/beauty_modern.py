"""Modern encoders on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_modern.py:bsarec --workdir=runs/beauty_bsarec

`:bsarec`, `:fmlp` and `:wearec` are BSARec, FMLP-Rec and WEARec with the settings of their authors'
code: each prefix is a sample, full cross-entropy; FMLP-Rec's own code has binary cross-entropy with
one negative (in BSARec's comparison it has the full one). `:ligr` is a Transformer with gated
residuals and SwiGLU, `:hstu` pointwise attention; both rank by cosine, with a temperature.
`:esasrec` has LiGR's layers, inner products and a sampled softmax of 256 negatives. None was tuned,
or trained to its end, here; `beauty_best.py` has a figure (configs/results/baselines.md).
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

MODELS = {
    "bsarec": {"name": "filtered", "preset": "bsarec-beauty"},
    "fmlp": {"name": "filtered", "preset": "fmlp"},
    "wearec": {"name": "wearec", "preset": "beauty"},
    "ligr": {"name": "ligr", "preset": "sparse", "cosine": True},
    "esasrec": {"name": "ligr", "preset": "sparse"},
    "hstu": {"name": "hstu", "preset": "sparse", "cosine": True},
}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in MODELS:
        raise wrong_argument(__file__, arg, f"one of {', '.join(MODELS)}")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = MODELS[arg]
    config.objective = {"name": "softmax"}
    if arg in ("ligr", "esasrec", "hstu"):
        config.objective = {"name": "softmax", "temperature": 0.07}
        if arg == "esasrec":
            config.objective = {"name": "sampled_softmax", "negatives": 256}
        config.optim = {"weight_decay": 0.01}
        config.train = {"epochs": 150.0, "evaluate_every": 2.0, "patience": 5}
    else:
        config.optim = {"learning_rate": 1e-3 if arg == "fmlp" else 5e-4}
        if arg == "fmlp":
            config.objective = {"name": "bce"}
        config.train = {"epochs": 200.0, "prefixes": True, "patience": 10}
    config.evaluation = {"protocols": ("full", "full_with_seen")}
    return config
