"""Language models from one form into another: what `recjax convert --from A --to B` does."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from recjax.convert.check import check_logits
from recjax.convert.forms import form_of
from recjax.convert.language_model import read_language_model
from recjax.convert.peft import merged, read_adapter
from recjax.convert.writing import check_target, write_language_model
from recjax.errors import InputError


def transfer(
    source: Path,
    target: Path | None = None,
    *,
    form: str = "hf",
    dtype: str | None = None,
    adapter: Path | None = None,
    check: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Reads a language model in any form and writes it in another.

    Args:
        source: folder of the model.
        target: a new folder; None only checks.
        form: to write; see `recjax.convert.language_model`.
        dtype: of the numbers to write; by default those of the source.
        adapter: of peft, merged into the weights in float32.
        check: compare the logits of what was written (or read) with those of transformers, which
            reads the source, or the target where only that has its form.
        overwrite: replace a folder that recjax has written.

    Returns:
        `source_form`, `parameters`, and, where asked for, `folder`, `form`, and the results of the
        check.

    Raises:
        InputError: what the readers and writers refuse; nothing to do.
        recjax.convert.check.Mismatch: the check failed.
    """
    if target is None and not check:
        raise InputError(f"{source}: nothing to do; expected --to FOLDER, --check or both")
    before = form_of(source)
    if target is not None:
        check_target(target, form=form, dtype=dtype, overwrite=overwrite)
    readable = [
        folder for folder, kind in ((source, before), (target, form)) if folder and kind == "hf"
    ]
    if check and not readable:
        raise InputError(
            f"{source}: transformers reads the form hf alone, and neither the source ({before}) "
            f"nor the target ({form}) has it"
        )
    model = read_language_model(source)
    kept = dtype or str(next(iter(model.params.values())).dtype)
    if adapter is not None:
        # Merged in float32 and rounded once, when it is written.
        wide = {path: value.astype(jnp.float32) for path, value in model.params.items()}
        model = dataclasses.replace(model, params=wide)
        model = merged(model, *read_adapter(adapter, model))
    out: dict[str, Any] = {
        "source_form": before,
        "parameters": sum(value.size for value in model.params.values()),
    }
    if target is not None:
        write_language_model(target, model, form=form, dtype=kept, overwrite=overwrite)
        out |= {"folder": str(target), "form": form, "dtype": kept}
    if check:
        if target is not None:
            model = read_language_model(target)
        else:
            rounded = {path: value.astype(kept) for path, value in model.params.items()}
            model = dataclasses.replace(model, params=rounded)
        # What the target holds, an adapter is merged into already.
        with_adapter = adapter if readable[0] == source else None
        out |= check_logits(model, readable[0], dtype=kept, adapter=with_adapter)
    return out
