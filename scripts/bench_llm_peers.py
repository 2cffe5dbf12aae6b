"""Speed of transformers + peft on a language model's work; one JSON line on stdout.

Runs in an environment that has them (and not recjax); `bench_llm.py` calls it, so that all figures
of a comparison come from one run on one machine. The work (`--work`, an npz file) and the weights
(`--model`, a folder) are those that recjax gets.

Straightforward use: the attention that transformers picks (SDPA), a frozen base with
`requires_grad_(False)`, AdamW, `generate` with `inputs_embeds` or ids, left padding and its cache.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parse(doc: str) -> argparse.Namespace:
    """The flags of a peer's script, of which `doc` is the docstring."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face's form")
    parser.add_argument("--work", type=Path, required=True, help="npz of the script that calls it")
    parser.add_argument("--what", required=True, help="names of measurements, with commas")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    return parser.parse_args()


DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class Peer:
    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        import transformers

        torch.set_num_threads(args.threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch, self.args = torch, args
        self.device = DEVICES[args.device]
        dtype = getattr(torch, args.dtype)
        auto = transformers.AutoModelForCausalLM
        if args.device == "cpu":
            model = auto.from_pretrained(args.model, dtype=dtype)
        else:  # a config alone: random weights, born on the card
            config = transformers.AutoConfig.from_pretrained(args.model)
            with torch.device(self.device):
                model = auto.from_config(config, dtype=dtype)
        self.model = model.eval().requires_grad_(False)
        self.model.generation_config.eos_token_id = None  # all rows write all tokens
        self.work = np.load(args.work)

    def get(self, name: str) -> Any:
        return self.torch.from_numpy(self.work[name]).to(self.device)

    def seconds(self, call: Any) -> tuple[float, Any]:
        """Median seconds of a call that has run once before, and what it returned first."""
        out, times, now = call(), list[float](), CLOCKS[self.args.clock]
        for _ in range(self.args.repeats):
            self.wait()
            start = now()
            call()
            self.wait()
            times.append(now() - start)
        return statistics.median(times), out

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def steps(self, parameters: Any, loss: Any) -> dict[str, Any]:
        optimizer = self.torch.optim.AdamW(parameters, lr=1e-3)

        def step() -> float:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            return value.item()

        seconds, first = self.seconds(step)
        return {"seconds": seconds, "loss": first}

    def adapter(self, batch: str) -> dict[str, Any]:
        torch, model = self.torch, self.model
        tokens, labels = self.get(f"{batch}/tokens"), self.get(f"{batch}/labels")
        mask, is_soft = self.get(f"{batch}/mask").long(), self.get(f"{batch}/is_soft")
        vectors = self.get(f"{batch}/vectors")
        adapter = torch.nn.Linear(vectors.shape[-1], model.config.hidden_size, bias=False)
        adapter.weight.data = self.get("adapter").T.contiguous()
        adapter.to(self.device)

        def loss() -> Any:
            x = model.get_input_embeddings()(tokens)
            soft = adapter(vectors).to(x.dtype)[:, None]
            x = torch.where(is_soft[..., None], soft, x)
            return model(inputs_embeds=x, attention_mask=mask, labels=labels, use_cache=False).loss

        return self.steps(adapter.parameters(), loss)

    def lora(self, batch: str) -> dict[str, Any]:
        import peft

        tokens, labels = self.get(f"{batch}/tokens"), self.get(f"{batch}/labels")
        mask = self.get(f"{batch}/mask").long()
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(self.model, config)

        def loss() -> Any:
            out = model(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False)
            return out.loss

        out = self.steps([p for p in model.parameters() if p.requires_grad], loss)
        self.model = model.unload()
        return out

    def generate(self, prompts: str) -> dict[str, Any]:
        torch, model = self.torch, self.model
        tokens, mask = self.get(f"{prompts}/tokens"), self.get(f"{prompts}/mask").long()
        inputs = {"input_ids": tokens}
        if f"{prompts}/is_soft" in self.work:
            is_soft, vectors = self.get(f"{prompts}/is_soft"), self.get(f"{prompts}/vectors")
            x = model.get_input_embeddings()(tokens)
            soft = (vectors @ self.get("adapter")).to(x.dtype)[:, None]
            inputs = {"inputs_embeds": torch.where(is_soft[..., None], soft, x)}
        new = int(self.work["new_tokens"])

        def call() -> Any:
            with torch.no_grad():
                return model.generate(
                    **inputs, attention_mask=mask, do_sample=False, max_new_tokens=new,
                    use_cache=True, pad_token_id=0,
                )[:, -new:].tolist()  # fmt: skip

        seconds, first = self.seconds(call)
        return {"seconds": seconds, "tokens": first}


def main(peer: Any, packages: Sequence[Any], attention: str) -> None:
    """Measures what is asked; a measurement `kind:which` is the peer's method `kind`."""
    out: dict[str, Any] = {}
    for name in peer.args.what.split(","):
        kind, _, which = name.partition(":")
        out[name] = getattr(peer, kind)(which)
        print(name, f"{out[name]['seconds']:.3f} s", file=sys.stderr, flush=True)
    versions = {m.__name__: m.__version__ for m in packages}
    print(json.dumps({"versions": versions, "attention": attention, "figures": out}))


if __name__ == "__main__":
    arguments = parse(__doc__)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import peft
    import torch
    import transformers

    model = Peer(arguments)
    main(model, (torch, transformers, peft), model.model.config._attn_implementation)
