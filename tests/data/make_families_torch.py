"""Makes `families/`: small random models of transformers, their adapters, and what they compute.

    python tests/data/make_families_torch.py [NAME ...]

A folder holds `config.json` and `model.safetensors` as transformers saves them, a new LoRA adapter
of peft (`adapter/`), and `io.npz`: tokens, padded on the left (`tokens`, `real`), their `logits`;
`greedy` and `beams` (with `beam_scores`) after them; `curve`, the loss before each of 20 steps of
Adam on the adapter, on one batch; `tuned_logits` after them. Ran with torch 2.13, transformers
5.17, peft 0.21.2.
"""

import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent / "families"
SIZES = {
    "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "eos_token_id": [1, 2], "pad_token_id": 3, "bos_token_id": 4,
}  # fmt: skip
LLAMAS = ("intermediate_size", "num_key_value_heads")
MODELS = {
    "qwen3": (transformers.Qwen3Config, {"head_dim": 8, "rms_norm_eps": 1e-4}),
    "qwen3_tied_bias": (
        transformers.Qwen3Config,
        {"head_dim": 10, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "glm": (transformers.GlmConfig, {"head_dim": 8}),
    "glm_share": (
        transformers.GlmConfig,
        {
            "head_dim": 16, "tie_word_embeddings": True, "attention_bias": False,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.25,
            },
        },
    ),
    "glm4": (transformers.Glm4Config, {"head_dim": 8, "rms_norm_eps": 1e-5}),
    "gpt2": (transformers.GPT2Config, {"n_inner": 40, "layer_norm_epsilon": 1e-4}),
}  # fmt: skip
TARGETS = {
    "qwen3": ["q_proj", "v_proj"],
    "glm": ["q_proj", "v_proj", "gate_up_proj", "down_proj"],
    "glm4": ["q_proj", "o_proj", "gate_up_proj"],
    "gpt2": ["c_attn", "c_fc"],
}
NEW, BEAMS, STEPS, RATE = 8, 3, 20, 0.02


def make(name: str) -> None:
    kind, changes = MODELS[name]
    sizes = SIZES | changes
    if name == "gpt2":
        sizes = {key: value for key, value in sizes.items() if key not in LLAMAS}
    config = kind(**sizes)
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for key, value in model.named_parameters():
        if "norm" in key or "ln_" in key:
            torch.nn.init.normal_(value, 1.0, 0.3)
        elif key.endswith("bias"):
            torch.nn.init.normal_(value, 0.0, 0.5)
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rng = np.random.default_rng(0)
    real = np.arange(12) >= np.array([0, 3, 7])[:, None]
    tokens = np.where(real, rng.integers(5, 64, real.shape), 3)
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(real.astype(int))}
    out = {"tokens": tokens, "real": real}
    with torch.no_grad():
        places = np.maximum(real.cumsum(axis=1) - 1, 0)
        out["logits"] = model(**given, position_ids=torch.tensor(places)).logits.numpy()
        options = {
            "do_sample": False, "max_new_tokens": NEW, "eos_token_id": [1, 2], "pad_token_id": 3,
        }  # fmt: skip
        out["greedy"] = model.generate(**given, **options).numpy()[:, tokens.shape[1] :]
        found = model.generate(
            **given, **options, num_beams=BEAMS, num_return_sequences=BEAMS, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        out["beams"] = found.sequences.numpy()[:, tokens.shape[1] :]
        out["beam_scores"] = found.sequences_scores.numpy()
    if name in TARGETS:
        tuned = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=TARGETS[name], task_type="CAUSAL_LM"
        )
        out |= trained(peft.get_peft_model(model, tuned), folder)
    np.savez(folder / "io.npz", **out)


def trained(model: peft.PeftModel, folder: Path) -> dict[str, np.ndarray]:
    model.peft_config["default"].base_model_name_or_path = folder.name
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    batch = np.random.default_rng(1).integers(5, 64, (4, 10))
    tokens = torch.tensor(batch)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), RATE)
    curve = []
    for _ in range(STEPS):
        loss = model(tokens, labels=tokens).loss
        curve.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model(tokens).logits.numpy()
    return {"batch": batch, "curve": np.array(curve), "tuned_logits": logits}


if __name__ == "__main__":
    for each in sys.argv[1:] or MODELS:
        make(each)
