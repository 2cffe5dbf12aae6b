"""DreamRec (Yang et al. 2023) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_dreamrec.py --workdir=runs/beauty_dreamrec

Without an argument the paper's squared error; `:guided` adds the full cross-entropy of the states
that guide the diffusion (as DimeRec, Li et al. 2025). Both rank by ten steps of DDIM,
which is as good as all 1,000 of the ancestral sampler or better (`scripts/study_dreamrec.py`,
configs/results/recommenders.md).
Leave-one-out, test/full/ndcg@10: MSE 0.0159, `:guided` 0.0356 (means of 3 seeds; 18 to 27 minutes
on one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "guided"):
        raise wrong_argument(__file__, arg, "none, or 'guided'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {
        "name": "dreamrec",
        "dim": 256,
        "mlp_dim": 256,
        "max_length": 50,
        "guidance": 2.0,
        "sampler": "ddim",
        "sampler_steps": 10,
    }
    config.objective = {"name": "mse"}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
    if arg == "guided":
        config.model = {
            "name": "dreamrec",
            "layers": 2,
            "heads": 2,
            "max_length": 50,
            "dropout": 0.5,
            "init_std": 0.05,
            "guidance": 1.0,
            "sampler": "ddim",
            "sampler_steps": 10,
        }
        config.objective = {"name": "mse", "states_weight": 1.0}
    return config
