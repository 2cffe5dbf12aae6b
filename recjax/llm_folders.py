"""Folders of language models: which one a path means, and which tokens end a text there."""

from pathlib import Path

from recjax.errors import InputError
from recjax.json_files import read_object

_ADAPTING = ("finetune", "recsysllm")  # systems whose runs may end as an adapter on `config.llm`
_ENDS = 1000  # ids that end a text, at most


def find_model(folder: Path) -> tuple[Path, Path | None]:
    """The folders of a model and of its adapter; a run's workdir stands for the model of its end.

    Raises:
        InputError: a workdir without a finished language model.
    """
    file = folder / "config.json"
    record = read_object(file) if file.is_file() and (folder / "checkpoints").is_dir() else {}
    config = record.get("config")
    if not isinstance(config, dict):
        return folder, None
    if (folder / "hf").is_dir():
        return folder / "hf", None
    llm = config.get("llm")
    if config.get("system") in _ADAPTING and (folder / "adapter").is_dir():
        if not isinstance(llm, str):
            raise InputError(f"{file}: 'config.llm' is no text; expected the base model's folder")
        return Path(llm), folder / "adapter"
    raise InputError(
        f"{folder}: a run without a finished language model (hf or adapter); `recjax train "
        f"--workdir={folder}` resumes a run that trains one"
    )


def stop_ids(folder: Path) -> tuple[int, ...]:
    """The ids that end a text, by the folder's own files; -1 stands for none in old ones.

    Raises:
        InputError: `eos_token_id` is no id and no list of ids.
    """
    for name in ("generation_config.json", "config.json"):
        ids = read_object(folder / name).get("eos_token_id") if (folder / name).exists() else None
        if ids is not None:
            ids = ids if isinstance(ids, list) else [ids]
            if len(ids) > _ENDS or not all(type(i) is int and -1 <= i < 2**31 for i in ids):
                found = str(ids)[:80]
                raise InputError(f"{folder / name}: 'eos_token_id' is {found}, expected ids")
            return tuple(i for i in ids if i >= 0)
    return ()
