"""Speed of GLM's original code, written again in plain torch; one JSON line on stdout.

Runs in an environment with torch (and not recjax); `bench_glm.py` calls it. As the original code
computes it (facts: `third_party/glm.md`): the mask is multiplied into the scores, logits and
their loss are taken of all tokens, a step of generation maps the hidden states of all that was read
before again ("mems"), layer by layer. Without dropout; AdamW in the place of apex' fused Adam.
"""

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

from bench_llm_peers import DEVICES, Peer, main, parse


class Reader:
    """The model's tensors by the published names."""

    def __init__(self, folder: Path, torch: Any, device: str):
        from safetensors.torch import load_file

        self.torch = torch
        attributes = json.loads((folder / "config.json").read_text())
        self.layers, self.heads = attributes["num_layers"], attributes["num_attention_heads"]
        state = load_file(folder / "model.safetensors", device=device)
        self.state = {key: tensor.requires_grad_(True) for key, tensor in state.items()}

    def linear(self, x: Any, name: str) -> Any:
        functional = self.torch.nn.functional
        return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Any, name: str) -> Any:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return self.torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, 1e-5)

    def attention(self, normed: Any, before: Any, mask: Any, name: str) -> Any:
        """Of normed states [B T E], with the normed states `before` them, or None."""
        torch = self.torch
        joined = normed if before is None else torch.cat((before, normed), 1)
        q, k, v = self.linear(joined, f"{name}.query_key_value").chunk(3, -1)
        q = q[:, -normed.shape[1] :]

        def heads(a: Any) -> Any:
            return a.view(*a.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = heads(q), heads(k), heads(v)
        scores = torch.matmul(q, k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
        scores = torch.mul(scores, mask) + (-65504.0) * (1.0 - mask)
        mixed = torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2).contiguous()
        return self.linear(mixed.view(normed.shape), f"{name}.dense")

    def forward(self, tokens: Any, positions: Any, mask: Any, mems: Any = None) -> Any:
        """Logits [B T V], and the hidden states that each layer read.

        Args:
            tokens: [B T].
            positions: [B 2 T].
            mask: [B 1 T M] of 0 and 1.
            mems: of the call before.
        """
        state, torch = self.state, self.torch
        x = state["word_embeddings.weight"][tokens]
        x = x + state["transformer.position_embeddings.weight"][positions[:, 0]]
        x = x + state["transformer.block_position_embeddings.weight"][positions[:, 1]]
        kept = []
        for n in range(self.layers):
            own = f"transformer.layers.{n}"
            kept.append(x.detach() if mems is None else torch.cat((mems[n], x.detach()), 1))
            before = None if mems is None else self.norm(mems[n], f"{own}.input_layernorm")
            normed = self.norm(x, f"{own}.input_layernorm")
            x = x + self.attention(normed, before, mask, f"{own}.attention")
            normed = self.norm(x, f"{own}.post_attention_layernorm")
            wide = self.linear(normed, f"{own}.mlp.dense_h_to_4h")
            wide = torch.nn.functional.gelu(wide, approximate="tanh")
            x = x + self.linear(wide, f"{own}.mlp.dense_4h_to_h")
        x = self.norm(x, "transformer.final_layernorm")
        return torch.nn.functional.linear(x, state["word_embeddings.weight"]), kept


class Original(Peer):
    """The measurements of `bench_glm.py`."""

    def __init__(self, args: argparse.Namespace) -> None:
        import numpy as np
        import torch

        torch.set_num_threads(args.threads)
        self.torch, self.args = torch, args
        self.device, self.dtype = DEVICES[args.device], getattr(torch, args.dtype)
        self.reader = Reader(args.model, torch, self.device)
        self.work = np.load(args.work)

    def train(self, batch: str) -> dict[str, Any]:
        torch, reader = self.torch, self.reader
        tokens, labels, positions, mask = (
            self.get(f"{batch}/{name}") for name in ("tokens", "labels", "positions", "mask")
        )
        mask = mask[:, None].to(self.dtype)

        def loss() -> Any:
            logits, _ = reader.forward(tokens, positions, mask)
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.clamp(min=0).flatten(), reduction="none"
            )
            counted = (labels >= 0).flatten().float()
            return (losses * counted).sum() / counted.sum()

        before = {key: tensor.detach().clone() for key, tensor in reader.state.items()}
        out = self.steps(list(reader.state.values()), loss)
        reader.state = {key: tensor.requires_grad_(True) for key, tensor in before.items()}
        return out

    def generate(self, prompts: str) -> dict[str, Any]:
        torch, reader = self.torch, self.reader
        tokens, new = self.get(f"{prompts}/tokens"), int(self.work["new_tokens"])
        rows, length = tokens.shape
        blank = int(self.work["blank"])

        def call() -> Any:
            places = torch.arange(length, device=self.device).repeat(rows, 1)
            positions = torch.stack((places, torch.zeros_like(places)), 1)
            positions[:, 0, -1], positions[:, 1, -1] = blank, 1  # <sop>
            mask = torch.ones(rows, 1, length, length, dtype=self.dtype, device=self.device)
            mask[:, :, :-1, -1] = 0
            out = []
            with torch.no_grad():
                logits, mems = reader.forward(tokens, positions, mask)
                for step in range(new):
                    chosen = logits[:, -1].argmax(-1, keepdim=True)
                    out.append(chosen)
                    if step + 1 == new:
                        break
                    position = torch.tensor([[[blank], [step + 2]]], device=self.device)
                    position = position.expand(rows, 2, 1)
                    seen = mask.new_ones(rows, 1, 1, length + step + 1)
                    logits, mems = reader.forward(chosen, position, seen, mems)
            return torch.cat(out, 1).tolist()

        seconds, first = self.seconds(call)
        return {"seconds": seconds, "tokens": first}


if __name__ == "__main__":
    arguments = parse(__doc__)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    main(Original(arguments), (torch,), "written out")
