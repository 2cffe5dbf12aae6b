"""Makes `llama/peft_gqa`: an adapter of peft for `llama/llama_gqa`, and the logits with it.

    python tests/data/make_llama_peft.py

Ran with torch 2.15, transformers 5.23, peft 0.21.2.
"""

from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent / "llama"


def main() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(HERE / "llama_gqa")
    targets = ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config).eval()
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, 0.0, 0.1)
    adapted.peft_config["default"].base_model_name_or_path = "llama_gqa"
    adapted.save_pretrained(HERE / "peft_gqa")
    (HERE / "peft_gqa" / "README.md").unlink()
    tokens = np.load(HERE / "llama_gqa" / "io.npz")["full_input_ids"]
    with torch.no_grad():
        logits = adapted(torch.tensor(tokens)).logits.numpy()
    np.savez(HERE / "peft_gqa" / "io.npz", full_logits=logits)


if __name__ == "__main__":
    main()
