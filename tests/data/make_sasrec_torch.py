"""Makes `sasrec_torch.npz`: random weights in PyTorch's layout, and what the public versions score.

    python make_sasrec_torch.py        # needs torch and numpy; writes beside itself

The formulas are those of pmixer/SASRec.pytorch (see third_party/sasrec_pytorch.md), written anew
with torch's own MultiheadAttention, LayerNorm and Conv1d, so that its state dict loads as it is.

Two sets of weights: `sharp`, where every part of the model shows in the scores, and `small`, whose
first LayerNorms see variances near their epsilon. `zeroed` is `sharp` with padding rows of zero, as
upstream's training leaves them since 2024.
"""

from pathlib import Path

import numpy as np
import torch

DIM, HEADS, LAYERS, ITEMS, ROWS = 8, 2, 2, 21, 11
VERSIONS = ("2020-09", "2020", "2024", "2025-post", "2025-pre")


class PointWise(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv1d(DIM, DIM, kernel_size=1)
        self.conv2 = torch.nn.Conv1d(DIM, DIM, kernel_size=1)

    def forward(self, x, activate):
        return self.conv2(activate(self.conv1(x.mT))).mT


class SASRec(torch.nn.Module):
    def __init__(self):
        super().__init__()

        def each(make):
            return torch.nn.ModuleList([make() for _ in range(LAYERS)])

        def norm():
            return torch.nn.LayerNorm(DIM, eps=1e-8)

        self.item_emb = torch.nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.pos_emb = torch.nn.Embedding(ROWS, DIM)
        self.attention_layernorms = each(norm)
        self.attention_layers = each(lambda: torch.nn.MultiheadAttention(DIM, HEADS))
        self.forward_layernorms = each(norm)
        self.forward_layers = each(PointWise)
        self.last_layernorm = norm()

    def forward(self, ids, version):
        """Scores [B I] of the item after each row of ids [B L]."""
        real, length = (ids != 0)[..., None], ids.shape[1]
        x = self.item_emb(ids) * DIM**0.5
        if version.startswith("2020"):
            x = (x + self.pos_emb(torch.arange(length))) * real
        else:
            x = x + self.pos_emb(torch.arange(1, length + 1) * (ids != 0))
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        activate = torch.nn.Identity() if version == "2020-09" else torch.relu
        layers = (
            self.attention_layernorms,
            self.attention_layers,
            self.forward_layernorms,
            self.forward_layers,
        )
        for norm, attention, mlp_norm, mlp in zip(*layers, strict=True):

            def attend(queries, memory, attention=attention):
                q, m = queries.transpose(0, 1), memory.transpose(0, 1)
                return attention(q, m, m, attn_mask=future)[0].transpose(0, 1)

            if version == "2025-pre":
                x = x + attend(norm(x), norm(x))
                x = x + mlp(mlp_norm(x), activate)
            elif version == "2025-post":
                x = norm(x + attend(x, x))
                x = mlp_norm(x + mlp(x, activate))
            else:
                x = mlp_norm(norm(x) + attend(norm(x), x))
                x = x + mlp(x, activate)
                if version.startswith("2020"):
                    x = x * real
        return self.last_layernorm(x)[:, -1] @ self.item_emb.weight.T


def weights(generator, *, small):
    """A state dict of random numbers."""
    state = {}
    for key, value in SASRec().state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in key:
            state[key] = 0.3 * noise + key.endswith("weight")
        elif small and ("emb" in key or "bias" in key):
            state[key] = 0.001 * noise
        else:
            state[key] = 0.5 * noise
    return state


def rows(generator, length):
    """Histories of many lengths, left-padded."""
    ids = torch.randint(1, ITEMS, (6, length), generator=generator)
    for row, known in zip(ids, (length, length - 1, 5, 3, 2, 1), strict=True):
        row[: length - known] = 0
    return ids


def main():
    generator = torch.Generator().manual_seed(0)
    model, out = SASRec().eval(), {}

    def score(name, versions):
        for version in versions:
            ids = rows(generator, ROWS if version.startswith("2020") else ROWS - 1)
            out[f"{name}/{version}/ids"] = ids.numpy().astype(np.int32)
            with torch.no_grad():
                out[f"{name}/{version}/scores"] = model(ids, version).numpy()

    for name in ("small", "sharp"):
        state = weights(generator, small=name == "small")
        model.load_state_dict(state)
        out |= {f"{name}/{key}": value.numpy().copy() for key, value in state.items()}
        score(name, VERSIONS)
    with torch.no_grad():
        model.item_emb.weight[0] = 0
        model.pos_emb.weight[0] = 0
    score("zeroed", VERSIONS[2:])
    np.savez_compressed(Path(__file__).with_name("sasrec_torch.npz"), **out)


if __name__ == "__main__":
    main()
