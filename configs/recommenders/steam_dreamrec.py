"""DreamRec (Yang et al. 2023) on Steam reviews, 3-core (4,838 users).

    recjax train --config=configs/recommenders/steam_dreamrec.py --workdir=runs/steam_dreamrec

Without an argument the paper's squared error; `:guided` adds the full cross-entropy of the states
that guide the diffusion (as DimeRec, Li et al. 2025). Both rank by ten steps of DDIM, which
is better than all 1,000 of the ancestral sampler (`scripts/study_dreamrec.py`).
Leave-one-out, test/full/ndcg@10: MSE 0.0876, `:guided` 0.1185 (means of 3 seeds; 1 to 2 minutes on
one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "guided"):
        raise wrong_argument(__file__, arg, "none, or 'guided'")
    config = ConfigDict()
    config.data = {
        "source": "steam",
        "path": "steam-reviews",
        "store": "prepared/steam",
        "drop_untitled": True,
        "k_core_users": 3,
        "k_core_items": 3,
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
    config.train = {"epochs": 400.0, "evaluate_every": 4.0, "patience": 10}
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
