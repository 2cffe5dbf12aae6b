"""Whether a converted language model says what transformers says, where torch is installed."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.convert.language_model import Loaded
from recjax.errors import InputError

# Largest difference of logits, as a part of the largest logit, in float32. Where an adapter is
# merged into halves, sums that differ in their last digit may round to neighbours.
TOLERANCE, TOLERANCE_MERGED = 1e-4, 1e-3
_ROWS, _LENGTH = 2, 64


class Mismatch(Exception):
    """Two implementations compute different logits from the same weights."""


def check_logits(
    model: Loaded, folder: Path, *, dtype: str, adapter: Path | None = None
) -> dict[str, Any]:
    """Compares the logits of random tokens with those that transformers computes.

    Args:
        model: ours, whose parameters were rounded to `dtype`.
        folder: of Hugging Face's form, which transformers reads.
        dtype: what its weights are rounded to; both compute in float32.
        adapter: of peft, merged into them before.

    Returns:
        `max_difference`, `largest_logit` and the `tolerance` for their ratio.

    Raises:
        InputError: torch, transformers or peft is not installed, or they refuse the folder.
        Mismatch: the ratio is above the tolerance.
    """
    length = min(_LENGTH, model.config.max_length)
    shape = (_ROWS, length)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, shape)
    theirs = _torch_logits(folder, tokens, dtype, adapter)
    with jax.default_matmul_precision("highest"):
        params = {path: value.astype(jnp.float32) for path, value in model.params.items()}
        ours = np.asarray(model.definition.merge(params)(jnp.asarray(tokens))[0])
    difference, largest = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    merged_halves = adapter is not None and dtype != "float32"
    tolerance = TOLERANCE_MERGED if merged_halves else TOLERANCE
    found = {"max_difference": difference, "largest_logit": largest, "tolerance": tolerance}
    if not difference <= tolerance * max(1.0, largest):
        raise Mismatch(
            f"logits differ from those of transformers by {difference:.2g}, where the largest is "
            f"{largest:.3g}; expected at most {tolerance:.0e} of it"
        )
    return found


def _torch_logits(folder: Path, tokens: np.ndarray, dtype: str, adapter: Path | None) -> Any:
    try:
        import torch  # here and in `files` alone; tests/unit/test_imports.py knows both
        import transformers

        if adapter is not None:
            import peft
    except ImportError as error:
        raise InputError(
            f"--check needs {error.name}, which is not installed: pip install 'recjax[torch]'"
        ) from None
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        if adapter is not None:
            model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: transformers cannot read it ({reason})") from error
    with torch.no_grad():
        for value in model.parameters():  # not the buffers: frequencies stay float32
            value.copy_(value.to(getattr(torch, dtype)))
        return model.eval()(torch.tensor(tokens)).logits.numpy()
