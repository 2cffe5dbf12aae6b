"""Language models out of folders: which one a path means, its weights, tokenizer and end tokens."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from recjax.convert.language_model import Loaded, outline, read_language_model
from recjax.convert.peft import merged, read_adapter
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.llm import LanguageModel
from recjax.nn.narrow import Form
from recjax.paths import home
from recjax.sharded import RULES, Axes
from recjax.text._token_ends import END_PIECES
from recjax.text.tokenizers import FILES as TOKENIZER_FILES
from recjax.text.tokenizers import load_tokenizer
from recjax.training.parallel import param_shardings, ruled

_ADAPTING = ("finetune", "recsysllm")  # systems whose runs may end as an adapter on `config.llm`
_ENDS = 1000  # ids that end a text, at most


def load_llm(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: Any = None,
    mesh: Mesh | None = None,
    rules: Mapping[str, Axes] = RULES,
    quant: Form | None = None,
    **fields: Any,
) -> LanguageModel:
    """A language model from a folder: Hugging Face's, recjax's own, or another of its forms.

    The tokenizer is that of the folder, if it has one. A generation ends at the tokens that
    `generation_config.json`, else `config.json`, names as `eos_token_id`; else at the tokenizer's
    token for it. Nothing else of these files says how to generate (`temperature`,
    `repetition_penalty`): the arguments of `generate` do.

    >>> import recjax
    >>> lm = recjax.load_llm("runs/llm/hf")
    >>> tokens = lm.tokenizer.encode("A film")
    >>> lm([tokens]).shape == (1, len(tokens), lm.config.vocab_size)  # logits [B T V]
    True
    >>> len(lm.generate(["A film", "Another film"], max_new_tokens=2).texts)
    2

    Args:
        path: the folder; the forms are those of `recjax.convert.language_model`. Or the workdir of
            a run that trained a language model or fine-tuned one: the model that it ended with.
        adapter: folder of a LoRA adapter of peft for this model; it is merged into the weights.
        dtype: of the parameters: "float32", "bfloat16" or "float16"; by default that of the files.
        mesh: of `recjax.training.parallel.make_mesh`; each device gets its part straight from the
            files. By default all is on the first device.
        rules: mesh axes of the parameters' logical axes; see `recjax.sharded.RULES`.
        quant: keeps the layers' kernels in few bits, "int8" or "nf4"; without an adapter.
        fields: of the model's config that no file tells: `remat`, `unroll`.

    Raises:
        InputError: one line naming the file, the key and what was expected: no model there, an
            architecture that is not implemented, a damaged or missing file, a tokenizer of another
            model.
    """
    folder, adapter = _folders(path, adapter, quant)

    def shardings(shapes: Any, axes: Any) -> Any:
        assert mesh is not None
        return param_shardings(shapes, ruled(axes, rules), mesh)

    places = None if mesh is None else shardings
    model = read_language_model(folder, dtype=dtype, shardings=places, quant=quant, **fields)
    if adapter is not None:
        model = merged(model, *read_adapter(adapter, model, shardings=places))
    return _completed(model, folder, mesh)


def outline_llm(
    path: str | Path,
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    rules: Mapping[str, Axes] = RULES,
    quant: Form | None = None,
) -> LanguageModel:
    """`load_llm` without the weights: `params` are abstract arrays, as plans need them.

    Args:
        path, dtype, mesh, rules, quant: see `load_llm`.

    Raises:
        InputError: as there, but for what is wrong with numbers.
    """
    folder, _ = _folders(path, None, quant)
    model = outline(folder, dtype=dtype, quant=quant)
    if mesh is not None:
        places = param_shardings(model.params, ruled(model.family.axes, rules), mesh)
        params: Any = {
            path: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=places[path])
            for path, a in model.params.items()
        }
        model = dataclasses.replace(model, params=params)
    return _completed(model, folder, mesh)


def _folders(
    path: str | Path, adapter: str | Path | None, quant: Form | None
) -> tuple[Path, str | Path | None]:
    """The folders of a model and of its adapter."""
    folder, own = find_model(home(path))
    if own is not None and adapter is not None:
        raise InputError(f"{path}: a run with an adapter of its own; expected no other one")
    adapter = own or adapter
    if adapter is not None and quant is not None:
        raise InputError(f"quant '{quant}': not with an adapter, which is merged into wide kernels")
    return folder, adapter


def _completed(model: Loaded, folder: Path, mesh: Mesh | None) -> LanguageModel:
    """A model with the tokenizer and the end tokens of its folder."""
    tokenizer = None
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = load_tokenizer(folder, size=model.config.vocab_size)
    stop = stop_ids(folder)
    if tokenizer is not None:
        if not stop and tokenizer.eos_id is not None:
            stop = (tokenizer.eos_id,)
        if getattr(model.config, "blank_ids", ()):  # a config may name the end of texts alone
            ends = map(tokenizer.id_of, END_PIECES)
            stop = tuple(dict.fromkeys([*(k for k in ends if k is not None), *stop]))
    return LanguageModel(
        model.definition, model.params, model.config,
        tokenizer=tokenizer, stop=stop, mesh=mesh, folder=folder, quant=model.quant,
    )  # fmt: skip


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
