"""Tensors of PyTorch's pickles become safetensors, which recjax reads; needs torch, not recjax.

    python scripts/torch_to_safetensors.py FOLDER NEW_FOLDER
    python scripts/torch_to_safetensors.py FILE NEW_FILE

Pickles are opened with `weights_only=True`: no code of theirs runs. Of a training checkpoint
(GLM's `mp_rank_00_model_states.pt`) the part "module" is taken. In a folder, `pytorch_model.bin`
becomes `model.safetensors`, its shards become one file, too, and other files are copied.
"""

import argparse
import pickle
import shutil
import sys
from pathlib import Path


def read(path: Path) -> dict:
    """The tensors of a pickle by name."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SystemExit(f"{path}: not a file of tensors alone ({reason})") from None
    state = state.get("module", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise SystemExit(f"{path}: expected a state dict of tensors")
    return {key: tensor.contiguous().clone() for key, tensor in state.items()}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    source, target = options.source, options.target
    if target.exists():
        raise SystemExit(f"{target}: is there already; choose another name")
    if not target.absolute().parent.is_dir():
        raise SystemExit(f"{target}: there is no folder {target.parent}; make it first")
    pickles = sorted(source.glob("pytorch_model*.bin"))
    ranks = sorted(source.glob("mp_rank_*.pt"))
    if not source.is_file() and not pickles and not ranks:
        raise SystemExit(f"{source}: expected pytorch_model*.bin or mp_rank_*_model_states.pt")
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise SystemExit(f"this Python lacks torch or safetensors ({error})") from None

    if source.is_file():
        save_file(read(source), target, metadata={"format": "pt"})
        return
    whole = {key: tensor for path in pickles for key, tensor in read(path).items()}
    parts = {path.with_suffix(".safetensors").name: read(path) for path in ranks}
    target.mkdir(parents=True)
    if whole:
        save_file(whole, target / "model.safetensors", metadata={"format": "pt"})
    for name, state in parts.items():
        save_file(state, target / name, metadata={"format": "pt"})
    skipped = {*pickles, *ranks, source / "pytorch_model.bin.index.json"}
    for path in source.iterdir():
        if path.is_file() and path not in skipped:
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
