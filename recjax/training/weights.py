"""Weights of other libraries as workdirs: in as step 0, out from any checkpoint."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax

from recjax.config import to_plain
from recjax.convert import seqrec_torch
from recjax.data.prepare import prepare
from recjax.errors import InputError
from recjax.models import sasrec
from recjax.models.recommender import read_config
from recjax.training.checkpoint import Checkpoints
from recjax.training.claim import Claim
from recjax.training.criteria import Progress
from recjax.training.recommender import RecommenderRun, RunConfig
from recjax.training.workdir import claimed_run, open_run, write_records
from recjax.typing import Params


def import_weights(
    config: RunConfig,
    workdir: Path,
    source: str | Path,
    *,
    variant: str,
    heads: int = 1,
    overwrite: bool = False,
) -> RecommenderRun:
    """A workdir whose checkpoint of step 0 holds a PyTorch SASRec's weights.

    It can be evaluated at once, and trained on: the optimiser starts afresh.

    Args:
        config: the run's. What the weights imply of its model section takes the place of what it
            says; its data section names the store whose item ids the weights were trained with.
        workdir: of the new run.
        source: the file; see `recjax.convert.seqrec_torch`.
        variant: the version of the public code that trained the weights.
        heads: of attention.
        overwrite: replace another run, once this one is whole.

    Raises:
        InputError: weights and store differ in their number of items; what `seqrec_torch.load` and
            `start_run` refuse.
    """
    if not isinstance(config, RunConfig):
        raise InputError(f"config.system: '{config.system}'; expected a recommender's")
    name = config.model.get("name")
    if name != seqrec_torch.MODEL:
        expected = f"expected '{seqrec_torch.MODEL}', the model of {source}"
        raise InputError(f"config.model.name: '{name}', {expected}")
    base = read_config(config.model)[1]
    model, params = seqrec_torch.load(source, variant=variant, heads=heads, base=base)
    config = dataclasses.replace(config, model={"name": name, **to_plain(model)})
    store, n_items = prepare(config.data), len(params["items/embedding"])
    if n_items != store.n_items:
        raise InputError(
            f"{source}: 'item_emb.weight' has {n_items} rows (padding, then a row an item), "
            f"expected the {store.n_items} of the store {store.path}"
        )
    claim = Claim(workdir, overwrite=overwrite)
    try:
        if not claim.pending and (workdir / "config.json").exists():
            raise InputError(f"{workdir}: has a run; choose another --workdir, or --overwrite")
        run = claimed_run(config, claim)
        state = run.init_state()  # Adam's moments start at 0, whatever the weights
        placed: Params = {
            path: jax.device_put(params[path], leaf.sharding) for path, leaf in state.params.items()
        }
        checkpoints = Checkpoints(claim.folder / "checkpoints")
        try:
            meta = {**run.identity, "progress": dataclasses.asdict(Progress())}
            checkpoints.save(0, dataclasses.replace(state, params=placed), meta, None)
            checkpoints.wait()
        finally:
            checkpoints.close()
        # Last: a folder with a config but without the weights would train from scratch.
        write_records(run, claim.folder)
        claim.stands()
        run.workdir = workdir
    except BaseException:
        if not claim.pending:  # there was none: the claim has seen to that
            shutil.rmtree(claim.folder / "checkpoints", ignore_errors=True)
        claim.abandon()
        raise
    claim.release()
    return run


def export_weights(
    workdir: Path, target: Path, *, step: int | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Writes a checkpoint of SASRec as a PyTorch state dict.

    Args:
        workdir: the run's.
        target: the `.safetensors` or `.npz` file.
        step: of the checkpoint; by default the best one.
        overwrite: replace a file.

    Returns:
        `file`, `step`, `variant` (the version of the public code that computes the same) and
        `heads`.

    Raises:
        InputError: no such run or checkpoint, another model, or one that no version of the public
            code computes.
    """
    run = open_run(workdir)
    if not isinstance(run.config, RunConfig):
        raise InputError(
            f"{workdir}: a run of another kind; expected one of '{seqrec_torch.MODEL}'"
        )
    config = read_config(run.config.model)[1]
    if not isinstance(config, sasrec.Config):
        name = run.config.model["name"]
        raise InputError(f"{workdir}: a run of '{name}', expected 'sasrec'")
    step = run.best_step() if step is None else step
    params = run.restore(step)
    variant = seqrec_torch.save(target, config, params, overwrite=overwrite)
    return {"file": str(target), "step": step, "variant": variant, "heads": config.heads}
