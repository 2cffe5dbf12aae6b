"""`recjax generate`: answers prompts of a file or the command line.

recjax generate --llm=runs/tuned --prompts=prompts.jsonl --out=answers.jsonl
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from recjax.arguments import add_mesh
from recjax.errors import InputError, printable
from recjax.out_files import check_out, table_of
from recjax.paths import flag_path, flag_text
from recjax.ranges import Checked, FieldError, Range, Seed, Size


@dataclasses.dataclass(frozen=True)
class GenerateOptions(Checked):
    """Options of generation; see `recjax.llm.LanguageModel.generate`."""

    max_new_tokens: Size = 64
    temperature: Annotated[float, Range(0, 1_000_000)] = 0.0
    top_p: Annotated[float, Range(above=0, most=1)] | None = None
    top_k: Annotated[int, Range(1)] | None = None
    beams: Annotated[int, Range(1, 1024)] = 1
    batch_size: Annotated[int, Range(1, 2**16)] = 16
    seed: Seed = 0
    special: bool = False
    chat: bool = False

    def __post_init__(self):
        try:
            super().__post_init__()
        except FieldError as error:
            name, _, message = str(error).partition(":")
            raise InputError(f"{_flag(name)}:{message}") from None
        drawn = [name for name in ("top_p", "top_k") if getattr(self, name) is not None]
        if drawn and not self.temperature:
            raise InputError(f"{_flag(drawn[0])} needs --temperature above 0")
        if self.beams > 1 and self.temperature:
            raise InputError("--beams excludes --temperature: beam search does not sample")
        if self.special and self.chat:
            raise InputError("--special excludes --chat")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_generate_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own flags."""
    add = parser.add_argument
    add(
        "--llm", required=True, type=flag_text, metavar="DIR",
        help="a language model's folder, or the workdir of a run that trained or fine-tuned one",
    )  # fmt: skip
    add("--adapter", type=flag_text, metavar="DIR", help="merge this LoRA adapter of peft")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--prompt", metavar="TEXT", help="one prompt; print the answer")
    group.add_argument(
        "--prompts", type=flag_path, metavar="FILE",
        help=".txt: one prompt per line; .jsonl: the key `prompt` in each line",
    )  # fmt: skip
    add(
        "--out",
        type=flag_path,
        metavar="FILE",
        help="write prompts and answers to this .jsonl file",
    )
    add("--overwrite", action="store_true", help="replace an earlier file of answers")
    numbers: dict[str, tuple[type, str]] = {
        "max_new_tokens": (int, "tokens per answer at most (64)"),
        "temperature": (float, "above 0: sample tokens; 0 (default): take the most likely token"),
        "top_p": (float, "sample among the most likely tokens that sum up to N"),
        "top_k": (int, "sample among the N most likely tokens"),
        "beams": (int, "above 1: beam search (1)"),
        "batch_size": (int, "prompts in memory at a time (16)"),
        "seed": (int, "seed of the samples (0)"),
    }
    for name, (kind, text) in numbers.items():
        default = getattr(GenerateOptions, name)
        add(_flag(name), type=kind, default=default, metavar="N", help=text)
    add("--chat", action="store_true", help="take prompts as a user's messages, for a chat model")
    add("--special", action="store_true", help="read names of control tokens as the tokens")
    add("--dtype", metavar="NAME", help="float32, bfloat16 or float16")
    add("--quant", choices=("int8", "nf4"), help="keep the layers' kernels in 8 or 4 bits")
    add_mesh(parser)


def generate(args: argparse.Namespace, say: Callable[..., Any]) -> dict[str, Any]:
    """Answers to prompts.

    Returns:
        `prompts` (their number), and `out` or `answers`.

    Raises:
        InputError: a flag, the file of prompts or the place of the answers, before the model is
            read; the model.
    """
    fields = {field.name for field in dataclasses.fields(GenerateOptions)}
    options = GenerateOptions(**{name: getattr(args, name) for name in fields})
    prompts = [args.prompt] if args.prompts is None else read_prompts(args.prompts)
    if args.prompt == "":
        raise InputError("--prompt: is empty")
    if args.out is not None:
        ours = table_of(["prompt", "answer", "tokens"])
        check_out(args.out, (".jsonl",), overwrite=args.overwrite, ours=ours)
    from recjax.llm_folders import load_llm
    from recjax.training.metrics import progress_bar
    from recjax.training.parallel import mesh_here

    lm = load_llm(
        args.llm, adapter=args.adapter, dtype=args.dtype, quant=args.quant,
        mesh=mesh_here(args.mesh),
    )  # fmt: skip
    rows = answers(lm, prompts, options)
    if args.out is None:
        out = []
        for row in rows:
            out.append(row)
            if not args.json:
                print(*map(printable, row["answer"].split("\n")), sep="\n", flush=True)
        return {"prompts": len(prompts), "answers": out}
    # Under another name until it is whole; what an interrupted command made stays there.
    part = args.out.with_name(f"{args.out.name}.{os.getpid()}.part")
    try:
        with (
            part.open("x", encoding="utf-8") as file,
            progress_bar(len(prompts), 0, "generating", "prompt") as bar,
        ):
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                bar.update(1)
        os.replace(part, args.out)
    except OSError as error:
        raise InputError(f"cannot write {args.out}: {error.strerror or error}") from error
    say(f"{len(prompts):,} answers in {args.out}")
    return {"prompts": len(prompts), "out": str(args.out)}


def answers(lm: Any, prompts: list[str], options: GenerateOptions) -> Iterator[dict[str, Any]]:
    """`{"prompt", "answer", "tokens"}` of each prompt, in order.

    Args:
        lm: a `recjax.llm.LanguageModel`.
        prompts: not empty.
        options: how; `batch_size` prompts are in memory at a time. A prompt's draws are its own,
            whatever batch it stands in.
    """
    for first in range(0, len(prompts), options.batch_size):
        part = prompts[first : first + options.batch_size]
        # The last batch is as large as the others: no program is compiled for it.
        filled = part + part[:1] * (min(options.batch_size, len(prompts)) - len(part))
        made = lm.generate(
            filled,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            beams=options.beams,
            special=options.special,
            chat=options.chat,
            seed=options.seed,
            first_row=first,
        )
        lengths = made.lengths if made.lengths.ndim == 1 else made.lengths[:, 0]
        for prompt, text, count in zip(part, made.texts, lengths, strict=False):
            yield {"prompt": prompt, "answer": text, "tokens": int(count)}


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: a line each of `.txt`, the key `prompt` of each line of `.jsonl`.

    Raises:
        InputError: naming file and line: another kind of file, no text, an empty file.
    """
    from recjax.data.sources._lines import text_lines
    from recjax.text.pairs import json_rows, text_of

    suffix = path.suffixes[-2:-1] if path.suffix == ".gz" else path.suffixes[-1:]
    if suffix == [".jsonl"]:
        return [text_of(row, "prompt", where) for where, row in json_rows(path, ("prompt",))]
    if suffix == [".txt"]:
        return [line for _, line in text_lines(path) if line.strip()]
    raise InputError(f"--prompts {path}: expected a name that ends in .txt or .jsonl")
