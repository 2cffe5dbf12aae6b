"""Language models written, in any of the forms of `recjax.convert.language_model`.

write_language_model("NEW_FOLDER", model, form="hf")
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from recjax.config import nearest
from recjax.convert import flax_files, llama_meta, orbax_files, tensors
from recjax.convert.fetch import spans_processes
from recjax.convert.forms import FORMS, check_dtype, check_family
from recjax.convert.language_model import Loaded
from recjax.convert.mapping import Rule, cast, to_tensors
from recjax.convert.tensors import Tensor
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.paths import check_no_pointer
from recjax.replace import Known, check_place, new_folder, signed

# Files that belong to a model beside its weights, and are copied as they are.
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "ice_text.model",
    "cog-pretrain.model",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
SHARD_BYTES = 5 * 10**9


def write_language_model(
    path: str | Path,
    model: Loaded,
    *,
    form: str = "hf",
    dtype: Any = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    known: Known = signed,
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Writes a model, with the tokenizer files of the folder that it came from.

    `config.json` stays as it was, byte by byte, where it still says what the model is. The folder
    appears complete or not at all. Arrays that are split over devices are fetched tensor by tensor.

    Args:
        path: a new folder.
        model: of `read_language_model` or `language_model` there.
        form: of the table in `recjax.convert.language_model`.
        dtype: of the numbers in the files; by default that of the parameters.
        overwrite: replace a folder that recjax has written.
        shard_bytes: the largest size of a file of weights (hf).
        known: which folders `overwrite` may replace (`recjax.replace.check_place`).
        more: writes what else belongs into the folder.

    Returns:
        The folder.

    Raises:
        InputError: an unknown form, or one that cannot express the model; the folder may not
            be replaced or cannot be written; numbers beyond the type's range.
    """
    path, family = Path(path), model.family
    if model.quant is not None:
        raise InputError(f"{path}: a model in {model.quant} is not written; read it without quant")
    check_target(path, form=form, dtype=dtype, overwrite=overwrite, known=known)
    check_family(form, family, path)
    name = str(jnp.dtype(dtype or next(iter(model.params.values())).dtype))

    def state(rules: tuple[Rule, ...]) -> dict[str, Tensor]:
        return {key: cast(t, dtype) for key, t in to_tensors(rules, model.params).items()}

    with new_folder(path, overwrite=overwrite, known=known) as folder:
        if form == "hf":
            tensors.write_folder(folder, state(family.hf.RULES), shard_bytes)
        elif form == "recjax":
            orbax_files.write_params(folder, model.params, dtype)
        elif form == "flax":
            named = state(flax_files.rules_of(family.hf.RULES))
            flax_files.write_folder(folder, named, tied=model.config.tied)
        else:
            llama_meta.write(folder, model.config, state(llama_meta.rules(model.config)))
        if form != "meta":
            (folder / "config.json").write_bytes(_config_file(model, name))
        _copy_companions(model.folder, folder)
        if more is not None:
            more(folder)
    return path


def write_of_all(path: Path, model: Loaded, **options: Any) -> None:
    """`write_language_model` in Hugging Face's form, of a run of several processes.

    All call it with their parts of the parameters, and process 0 writes.

    Args:
        path, model: see there.
        options: `dtype`, `overwrite`, `known` and `more` of it.
    """
    if jax.process_index() == 0:
        write_language_model(path, model, **options)
    elif spans_processes(model.params.values()):
        named = to_tensors(model.family.hf.RULES, model.params)
        tensors.read_as_written(named, SHARD_BYTES)


def check_target(
    path: Path, *, form: str, dtype: Any, overwrite: bool, known: Known = signed
) -> None:
    """Refuses at once what `write_language_model` would refuse after a model was read."""
    if form not in FORMS:
        raise InputError(f"form '{form}': unknown; {nearest(form, FORMS)}")
    check_dtype(dtype)
    check_place(path, overwrite=overwrite, known=known)


def _config_file(model: Loaded, dtype: str) -> bytes:
    """`config.json`: that of the model's folder where it is still true, else a new one."""
    hf, base = model.family.hf, None
    file = None if model.folder is None else model.folder / "config.json"
    if file is not None and file.is_file():
        base = read_object(file)
        before = hf.read_config(base, str(file))
        # Not all of our fields are told by files.
        true = hf.write_config(before, dtype) == hf.write_config(model.config, dtype)
        if true and base.get("dtype", base.get("torch_dtype", dtype)) == dtype:
            return file.read_bytes()
    new = hf.write_config(model.config, dtype, base)
    return (json.dumps(new, indent=2) + "\n").encode()


def _copy_companions(source: Path | None, folder: Path) -> None:
    for name in _COMPANIONS:
        if source is not None and (source / name).is_file():
            check_no_pointer(source / name)
            if name.endswith(".json"):  # half a file would be told where it is used
                try:
                    json.loads((source / name).read_bytes())
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{source / name}: not readable as JSON ({error})") from None
            shutil.copyfile(source / name, folder / name)
