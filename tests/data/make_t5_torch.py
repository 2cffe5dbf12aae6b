"""Makes `t5/`: small random T5s of transformers, and what they compute.

    python tests/data/make_t5_torch.py

A folder holds `config.json`, `model.safetensors`, and `io.npz`: the encoder's tokens with padding
on either side (`encoder`, `encoder_mask`), the decoder's `tokens`, their `logits`, the `loss` of
`labels` with two gradients, `long_logits` of an encoder of 200 tokens (distances beyond the last
bucket), and `greedy` and `beams` (with `beam_scores`) after the start token. `v10` has a new LoRA
adapter of peft (`adapter/`), `curve`, the loss of `labels` before each of 20 steps of Adam on it,
and `tuned_logits` after them. `v11` has a gated network and a head of its own, which transformers 5
would tie when it reads the folder: it is untied by hand. Without a cache, which transformers sizes
by the encoder's layers. Ran with torch 2.13, transformers 5.17, peft 0.21.2.
"""

from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent / "t5"
SIZES = {
    "vocab_size": 64, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_heads": 4, "num_layers": 2,
    "relative_attention_num_buckets": 16, "relative_attention_max_distance": 40,
    "decoder_start_token_id": 0, "initializer_factor": 1.0,
}  # fmt: skip
MODELS = {
    "v10": {"num_decoder_layers": 3},
    "v11": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
TARGETS = ["q", "v", "wo"]
# Adam's usual 1e-8 makes whole steps of gradients that are rounding errors.
NEW, BEAMS, STEPS, RATE, EPS = 8, 3, 20, 0.02, 1e-4


def make(name: str) -> None:
    config = transformers.T5Config(**(SIZES | MODELS[name]))
    torch.manual_seed(len(name))
    model = transformers.T5ForConditionalGeneration(config).eval()
    for key, value in model.named_parameters():
        if "norm" in key:
            torch.nn.init.normal_(value, 1.0, 0.3)
        elif "relative" in key:
            torch.nn.init.normal_(value, 0.0, 1.0)
    if name == "v11":
        own = torch.nn.Parameter(torch.randn(64, 24) * 0.5)
        model.lm_head.weight = own
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = ["T5ForConditionalGeneration"]
    config.dtype = "float32"
    config.save_pretrained(folder)
    state = {
        key: tensor.clone() for key, tensor in model.state_dict().items()
        if "embed_tokens" not in key and (name == "v11" or key != "lm_head.weight")
    }  # fmt: skip
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    rng = np.random.default_rng(0)
    place = np.arange(14)
    mask = np.stack([place >= 0, place < 9, place >= 5])
    encoder = np.where(mask, rng.integers(2, 64, mask.shape), 0)
    tokens = np.concatenate([np.zeros((3, 1), int), rng.integers(2, 64, (3, 7))], axis=1)
    labels = np.where(
        np.arange(8) < np.array([8, 6, 7])[:, None], rng.integers(1, 64, (3, 8)), -100
    )
    out = {"encoder": encoder, "encoder_mask": mask, "tokens": tokens, "labels": labels}
    given = {
        "input_ids": torch.tensor(encoder), "attention_mask": torch.tensor(mask.astype(int)),
    }  # fmt: skip
    given["use_cache"] = False
    result = model(**given, decoder_input_ids=torch.tensor(tokens), labels=torch.tensor(labels))
    result.loss.backward()
    out |= {"logits": result.logits.detach().numpy(), "loss": result.loss.item()}
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    parameters = dict(model.named_parameters())
    for stack in ("encoder", "decoder"):
        out[f"grad.{stack}_bias"] = parameters[f"{stack}.{bias}"].grad.numpy()
    with torch.no_grad():
        long = rng.integers(2, 64, (1, 200))
        out["long"] = long
        out["long_logits"] = model(
            input_ids=torch.tensor(long),
            decoder_input_ids=torch.tensor(long[:, :100]),
            use_cache=False,
        ).logits.numpy()
        options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": 1, "pad_token_id": 0}
        out["greedy"] = model.generate(**given, **options).numpy()[:, 1:]
        found = model.generate(
            **given, **options, num_beams=BEAMS, num_return_sequences=BEAMS, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        out["beams"] = found.sequences.numpy()[:, 1:]
        out["beam_scores"] = found.sequences_scores.numpy()
    if name == "v10":
        given |= {"decoder_input_ids": torch.tensor(tokens), "labels": torch.tensor(labels)}
        out |= trained(model, given, folder)
    np.savez(folder / "io.npz", **out)


def trained(model: torch.nn.Module, given: dict, folder: Path) -> dict[str, np.ndarray]:
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="SEQ_2_SEQ_LM")
    tuned = peft.get_peft_model(model, lora)
    tuned.peft_config["default"].base_model_name_or_path = folder.name
    tuned.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    own = (p for p in tuned.parameters() if p.requires_grad)
    optimizer = torch.optim.Adam(own, RATE, eps=EPS)
    curve = []
    for _ in range(STEPS):
        loss = tuned(**given).loss
        curve.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return {"curve": np.array(curve), "tuned_logits": tuned(**given).logits.numpy()}


if __name__ == "__main__":
    for each in MODELS:
        make(each)
