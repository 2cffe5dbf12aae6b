"""A straightforward interpreter in PyTorch, and its speed; one JSON line on stdout.

Runs in an environment with torch and transformers (and not recjax); `bench_interpreter.py` calls
it. `LlamaForCausalLM` frozen by `requires_grad_(False)`, an `nn.Linear` behind a filter over the
positions, whole rows padded on the right to the longest of the batch, `labels=` with -100 on the
question, AdamW; `generate` with `inputs_embeds`, greedily. The question's own tokens are made once.
"""

import json
import os
from typing import Any

import numpy as np
from bench_llm_peers import Peer, main, parse

BATCH = 64


class Interpreter(Peer):
    def __init__(self, args: Any) -> None:
        super().__init__(args)
        import transformers

        self.work = dict(self.work)  # read once
        self.texts = json.loads(args.work.with_suffix(".json").read_text())
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        self.model.generation_config.eos_token_id = self.texts["stop"]

    def adapter(self, task: str) -> Any:
        """[b L D] -> [b E], with the same weights at the start as ours; states come whitened."""
        torch, get = self.torch, self.get

        class Adapter(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.filter = torch.nn.Parameter(get(f"{task}/body/filter").clone())
                kernel = get(f"{task}/body/out/kernel")
                self.linear = torch.nn.Linear(*kernel.shape)
                self.linear.weight.data = kernel.T.clone()
                self.linear.bias.data = get(f"{task}/body/out/bias").clone()

            def forward(self, h: Any) -> Any:
                return self.linear(torch.einsum("bld,l->bd", h, self.filter))

        return Adapter().to(self.device)

    def states(self, rows: Any, task: str) -> Any:
        """[B n L D]: before and after, or after alone."""
        names = ("before", "after") if task == "residual" else ("after",)
        stacked = np.stack([self.work[f"{task}/{name}"][rows] for name in names], axis=1)
        return self.torch.from_numpy(stacked).to(self.device)

    def embed(self, tokens: Any, is_soft: Any, states: Any, adapter: Any) -> Any:
        """Embeddings of tokens [B T], the soft ones in their places."""
        x = self.model.get_input_embeddings()(tokens)
        soft = adapter(states.flatten(0, 1)).to(x.dtype)
        return x.masked_scatter(is_soft[..., None].expand_as(x), soft)

    def batch(self, rows: Any, task: str) -> tuple[Any, ...]:
        """Token ids, soft places, attention mask and labels of examples, [B T] each."""
        torch, asked = self.torch, self.texts[task]
        question = asked["question"]
        answers = [
            " " + asked["answer"].format(titles=", ".join(asked["titles"][row])) for row in rows
        ]
        ids = self.tokenizer(answers, add_special_tokens=False).input_ids
        ids = [(one + [self.texts["end"]])[: asked["longest"]] for one in ids]
        length = len(question) + max(map(len, ids))
        tokens = torch.full((len(ids), length), self.texts["pad"])
        mask = torch.zeros(len(ids), length, dtype=torch.long)
        labels = torch.full((len(ids), length), -100)
        is_soft = torch.zeros(len(ids), length, dtype=torch.bool)
        is_soft[:, : len(question)] = torch.tensor(asked["is_soft"])
        for row, one in enumerate(ids):
            end = len(question) + len(one)
            tokens[row, :end] = torch.tensor(question + one)
            labels[row, len(question) : end] = torch.tensor(one)
            mask[row, :end] = 1
        return tuple(a.to(self.device) for a in (tokens, is_soft, mask, labels))

    def train(self, task: str) -> dict[str, Any]:
        """Seconds an example, and the loss of each step."""
        torch, model, rows = self.torch, self.model, self.work[f"{task}/rows"]

        def run() -> list[float]:
            adapter, losses = self.adapter(task), []
            optimizer = torch.optim.AdamW(
                adapter.parameters(), lr=self.texts["rate"], weight_decay=self.texts["weight_decay"]
            )
            for some in rows:
                tokens, is_soft, mask, labels = self.batch(some, task)
                x = self.embed(tokens, is_soft, self.states(some, task), adapter)
                loss = model(
                    inputs_embeds=x, attention_mask=mask, labels=labels, use_cache=False
                ).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return losses

        seconds, losses = self.seconds(run)
        return {"seconds": seconds / rows.size, "losses": losses}

    def read(self, task: str) -> dict[str, Any]:
        """Seconds an answer, and the answers."""
        torch, asked, adapter = self.torch, self.texts[task], self.adapter(task)
        tokens = torch.tensor([asked["question"]] * BATCH, device=self.device)
        is_soft = torch.tensor([asked["is_soft"]] * BATCH, device=self.device)

        def part(rows: Any) -> list[str]:
            with torch.no_grad():
                x = self.embed(tokens, is_soft, self.states(rows, task), adapter)
                out = self.model.generate(
                    inputs_embeds=x, attention_mask=torch.ones_like(tokens), do_sample=False,
                    max_new_tokens=asked["longest"], pad_token_id=self.texts["pad"],
                )  # fmt: skip
            return self.tokenizer.batch_decode(out, skip_special_tokens=True)

        def call() -> list[str]:
            rows = np.arange(self.texts["read"]).reshape(-1, BATCH)
            return [text for some in rows for text in part(some)]

        seconds, texts = self.seconds(call)
        return {"seconds": seconds / self.texts["read"], "texts": texts}


if __name__ == "__main__":
    arguments = parse(__doc__)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch
    import transformers

    main(Interpreter(arguments), (torch, transformers))
