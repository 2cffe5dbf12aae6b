#!/usr/bin/env python
"""A Hugging Face LLaMA in and out: load, compute, adapt, save.

    python scripts/examples/hf_llama.py
    python scripts/examples/hf_llama.py --model=Llama-3.2-1B --dtype=bfloat16

Without `--model` the example writes a tiny LLaMA with random weights in Hugging Face's form.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import nnx

import recjax
from recjax.arguments import Parser
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.errors import run_script
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.nn.lora import LoRAConfig, add_lora, merge_lora
from recjax.paths import flag_path
from recjax.text.bpe import train_bpe

PROMPTS = ["The Matrix is a film", "Alien is"]


def write_tiny(folder: Path) -> Path:
    """A folder with `config.json`, `model.safetensors` and a tokenizer."""
    tokenizer = train_bpe([*PROMPTS, "Dune is a book about a planet of sand."] * 4, 300)
    config = Config(
        vocab_size=tokenizer.size, dim=32, mlp_dim=48, layers=2, heads=4, kv_heads=2, head_dim=8,
        max_length=128,
    )  # fmt: skip
    model = language_model(config, params_of(Llama(config, rngs=nnx.Rngs(0))))
    write_language_model(folder, model, form="hf")
    tokenizer.save(folder)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, help="keeps the models")
    parser.add_argument("--model", type=flag_path, help="a Hugging Face folder of a LLaMA")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; default: the files' own")
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp())

    # 1. In. The folder's form (Hugging Face, Meta, Flax, recjax) is recognised by its files.
    lm = recjax.load_llm(args.model or write_tiny(folder / "tiny"), dtype=args.dtype)
    print(f"{lm.config.layers} layers, width {lm.config.dim}, vocabulary {lm.config.vocab_size}")

    # 2. Logits [B T V], and answers.
    tokens = np.array([lm.tokenizer.encode(PROMPTS[0])])
    logits = np.asarray(lm(tokens), np.float32)
    print(f"logits {logits.shape}; answers: {lm.generate(PROMPTS, max_new_tokens=4).texts}")

    # 3. Low-rank adapters start as zero, so the model computes the same until they are trained
    #    (`configs/llm/finetune.py` trains them). Merged, it is an ordinary LLaMA again.
    lora = LoRAConfig(rank=2, alpha=4.0, targets=(r"layers/attention/(query|value)",))
    model = add_lora(lm.definition.merge(lm.params), lora, nnx.Rngs(1))
    adapted = np.asarray(model(tokens)[0], np.float32)
    params = merge_lora(params_of(model), lora)
    print(f"with a new adapter logits differ by {np.abs(adapted - logits).max():.1e}")

    # 4. Out, in Hugging Face's form (transformers reads it) and in Meta's; and in again.
    lm.save(folder / "hf", form="hf")
    write_language_model(folder / "meta", language_model(lm.config, params), form="meta")
    for form in ("hf", "meta"):
        again = np.asarray(recjax.load_llm(folder / form)(tokens), np.float32)
        print(f"{form}: logits differ by {np.abs(again - logits).max():.1e}")


if __name__ == "__main__":
    run_script(main)
