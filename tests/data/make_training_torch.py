"""Makes `training_torch.npz`: loss curves of a frozen LLaMA in PyTorch, and what they start from.

    python make_training_torch.py        # needs torch, transformers, peft; writes beside itself

transformers' LlamaForCausalLM with weights of std 0.15 (at the usual 0.02 a wrong formula hardly
shows), left-padded batches, labels on the answers alone, 20 steps. `adapter`: torch.nn.Linear maps
a vector to the embedding of one soft token, Adam. `lora`: peft, r = 8, on all linear maps, AdamW
with torch's default decay.
"""

from pathlib import Path

import numpy as np
import peft
import torch
import transformers

STEPS, BATCH, LENGTH, WIDTH, RATE = 20, 4, 24, 12, 5e-3
SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 500.0, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
LORA = {"r": 8, "lora_alpha": 24, "lora_dropout": 0.0, "target_modules": "all-linear"}


def base() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(**SIZES, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(std=0.15)
    return model.requires_grad_(False)


def batches() -> dict[str, torch.Tensor]:
    lengths = torch.randint(8, LENGTH + 1, (STEPS, BATCH, 1))
    lengths[:, 0] = LENGTH
    place = torch.arange(LENGTH)
    mask = place >= LENGTH - lengths
    tokens = torch.randint(1, SIZES["vocab_size"], mask.shape) * mask
    labels = torch.where(place >= LENGTH - 5, tokens, -100)
    soft = place == LENGTH - 7  # one place a row, in front of the answer
    vectors = torch.randn(STEPS, BATCH, WIDTH)
    return {"tokens": tokens, "mask": mask, "labels": labels, "is_soft": soft, "vectors": vectors}


def train(parameters, optimizer, loss) -> np.ndarray:
    optimizer, out = optimizer(parameters, lr=RATE), []
    for step in range(STEPS):
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        out.append(value.item())
    return np.array(out, np.float32)


def curves(seed: int) -> dict[str, np.ndarray]:
    """Weights, batches and loss curves, by name."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # waits of many threads outlast so small a model's work
    model, data = base(), batches()
    out = {f"batch/{name}": value.numpy().copy() for name, value in data.items()}
    out |= {f"base/{name}": value.numpy().copy() for name, value in model.state_dict().items()}

    adapter = torch.nn.Linear(WIDTH, SIZES["hidden_size"])
    out |= {f"adapter/{name}": v.detach().numpy().copy() for name, v in adapter.named_parameters()}

    def adapter_loss(step):
        x = model.get_input_embeddings()(data["tokens"][step])
        soft = adapter(data["vectors"][step])[:, None]
        x = torch.where(data["is_soft"][:, None], soft, x)
        mask, labels = data["mask"][step].long(), data["labels"][step]
        return model(inputs_embeds=x, attention_mask=mask, labels=labels).loss

    out["curve/adapter"] = train(adapter.parameters(), torch.optim.Adam, adapter_loss)

    adapted = peft.get_peft_model(model, peft.LoraConfig(**LORA))
    trained = {n: v for n, v in adapted.named_parameters() if v.requires_grad}
    out |= {f"lora/{name}": v.detach().numpy().copy() for name, v in trained.items()}

    def lora_loss(step):
        mask, labels = data["mask"][step].long(), data["labels"][step]
        return adapted(input_ids=data["tokens"][step], attention_mask=mask, labels=labels).loss

    out["curve/lora"] = train(trained.values(), torch.optim.AdamW, lora_loss)
    return out


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("training_torch.npz"), **curves(0))
