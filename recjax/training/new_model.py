"""Language models that a run makes anew: their config's sections, and the tokenizer they keep."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax

from recjax.config import build, nearest, to_plain
from recjax.errors import InputError
from recjax.models.language import DEFAULT, Family, LanguageConfig, find_family
from recjax.ranges import Checked, Range
from recjax.replace import new_folder
from recjax.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerConfig(Checked):
    """Section `tokenizer`."""

    vocab_size: Annotated[int, Range(259, 2**20)] = 2000  # ids of the BPE


def read_model(section: Mapping[str, Any], vocab_size: int) -> LanguageConfig:
    """The model's config from its section.

    Args:
        section: `name` of a family, `preset` (both optional), fields of the family's `Config`; its
            `max_length` is the length of the rows that it is trained on.
        vocab_size: V, the tokenizer's.
    """
    values = {key: section[key] for key in section}
    family = model_family(section)
    values.pop("name", None)
    if "vocab_size" in values:
        raise InputError(
            "config.model.vocab_size: is the tokenizer's size; set config.tokenizer.vocab_size"
        )
    preset = values.pop("preset", "")
    if preset:
        known = family.presets
        if preset not in known:
            hint = nearest(preset, known)
            raise InputError(f"config.model.preset: no preset '{preset}' of {family.name}; {hint}")
        values = to_plain(known[preset]) | values
    return build(family.config, values | {"vocab_size": vocab_size}, "config.model")


def model_family(section: Mapping[str, Any]) -> Family:
    """The family that the section names; see `read_model`."""
    return find_family(section.get("name", DEFAULT), "config.model.name")


def plain_model(section: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The section with all defaults filled in; see `read_model`."""
    model = to_plain(read_model(section, vocab_size))
    del model["vocab_size"]
    return {"name": model_family(section).name, **model}


def keep_tokenizer(workdir: Path, tokenizer: Tokenizer, stop: int | Sequence[int] | None) -> None:
    """Writes a new model's tokenizer into WORKDIR/tokenizer, where there is none.

    Args:
        workdir: of the run.
        tokenizer: of the model.
        stop: ids that end what the model writes.
    """
    folder = workdir / "tokenizer"
    if folder.is_dir() or jax.process_index():
        return
    with new_folder(folder, overwrite=False) as temporary:
        tokenizer.save(temporary)
        ends = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": stop if stop is None or isinstance(stop, int) else list(stop),
            "pad_token_id": tokenizer.pad_id,
        }
        text = json.dumps(ends, indent=2) + "\n"
        (temporary / "generation_config.json").write_text(text, encoding="utf-8")
