"""Does policy gradient teach a language model which way users lean? MovieLens-100K, from scratch.

    python scripts/study_policy.py --data=FOLDER_OF_DATA --out=runs/policy --seeds=3

1. A small LLaMA is trained on answers of a teacher that rates as the paper's start does: the mean
   scores of films that a user has liked (of a part of them, so that its answers differ).
2. `configs/guided/ml100k_policy.py` fine-tunes it by policy gradient, for each seed and task.

It prints the AUC and MRR of the start and of each run, beside those of the mean of recent films and
of the lean (liked less others), which need no language model.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from flax import nnx

import recjax
from recjax.config import build, load_config
from recjax.convert.language_model import language_model, write_language_model
from recjax.guided.policy import PolicyConfig, PolicyRun
from recjax.guided.prompts import answer_form
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.text.tokenizers import train_bpe

CONFIG = Path(__file__).parent.parent / "configs" / "guided" / "ml100k_policy.py"
SIZES = {"dim": 96, "mlp_dim": 256, "layers": 3, "heads": 4, "kv_heads": 4, "head_dim": 24}


def taught(examples, aspects, rng, user, cut):
    """The teacher's answer: the mean of a part of the liked films, as a rating each."""
    store = examples.store
    start = max(int(store.offsets[user]), cut - examples.config.history)
    chosen, liked = store.items[start:cut], examples.liked[start:cut]
    pool = chosen[liked] if liked.any() else chosen
    pool = rng.choice(pool, max(1, len(pool) // 4), replace=False)
    mean = examples.items.values[pool].mean(0)
    ratings = np.clip(np.rint(mean), aspects.least, aspects.most).astype(int) - aspects.least
    return answer_form(aspects).text(ratings)


def write_pairs(examples, aspects, path, count):
    """`count` prompts of training cuts with the teacher's answers."""
    rng = np.random.default_rng(0)
    form, lines = answer_form(aspects), []
    for place in range(count):
        user = int(examples.users[place % len(examples.users)])
        low, high = int(store_start(examples, user)) + 5, int(examples.store.offsets[user + 1]) - 30
        cut = int(rng.integers(min(low, high), high + 1))
        prompt = examples.asked(user, cut).text
        lines.append({"prompt": prompt, "answer": taught(examples, aspects, rng, user, cut)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [line["prompt"] + line["answer"] for line in lines] + [form.text([9] * len(aspects))]


def store_start(examples, user):
    return examples.store.offsets[user]


class _NoTokenizer:
    pad_id = 0


def references(run):
    """AUC and MRR of vectors that no language model made, on the test."""
    import jax.numpy as jnp

    from recjax.guided.rewards import auc, match, reciprocal_rank

    batch, data, store = run.batches.at("test"), run.data, run.store
    items = np.asarray(data["items"])
    vectors = {"mean of liked": [], "lean (liked less others)": [], "mean of the last ten": []}
    for user, cut in zip(batch["users"], run.batches.cuts("test"), strict=True):
        start = max(int(store.offsets[user]), int(cut) - run.config.users.history)
        own, liked = items[store.items[start:cut]], run.batches.liked[start:cut]
        good = own[liked].mean(0) if liked.any() else own.mean(0)
        bad = own[~liked].mean(0) if (~liked).any() else own.mean(0)
        vectors["mean of liked"].append(good)
        vectors["lean (liked less others)"].append(good - bad)
        vectors["mean of the last ten"].append(own[-10:].mean(0))
    out = {}
    for name, rows in vectors.items():
        users = jnp.asarray(np.stack(rows))
        scores = jnp.einsum("BA,BCA->BC", users, items[batch["targets"]])
        area, some = auc(scores, batch["liked"], batch["targets"] > 0)
        ranks = reciprocal_rank(
            match(users, jnp.asarray(items)), batch["targets"], batch["targets"] > 0,
            batch["history"],
        )  # fmt: skip
        out[name] = (float(area[some].mean()), float(ranks.mean()))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=8000)
    parser.add_argument("--tasks", nargs="*", default=["liked", "next"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder, start = args.out / "random", args.out / "start"

    def run_of(config):
        own = {key: value for key, value in config.items() if key != "system"}
        return PolicyRun(build(PolicyConfig, own, "config"), store)

    def section(task, seed=0, llm=folder):
        config = load_config(f"{CONFIG}:next" if task == "next" else str(CONFIG))[0].to_dict()
        config["llm"], config["seed"] = str(llm), seed
        config["items"] = str(args.data / "ml-100k-aspect-scores" / "item_scores.tsv")
        config["data"] |= {"path": str(args.data / "ml-100k"), "store": str(args.out / "store")}
        return config

    store = recjax.prepare(section("liked"))
    run = run_of(section("liked"))
    examples = run.batches if folder.exists() else None
    if not (start / "hf").exists():
        if examples is None:  # the tokenizer is made of the prompts, which need none
            from recjax.guided.user_examples import UserExamples

            examples = UserExamples(
                run.config.users, store, run.aspects, run.items, _NoTokenizer(), batch_size=1
            )
            texts = write_pairs(examples, run.aspects, args.out / "pairs.jsonl", args.pairs)
            tokenizer = train_bpe(texts[:500], 400)
            sizes = Config(vocab_size=tokenizer.size, max_length=512, **SIZES)
            model = language_model(sizes, params_of(Llama(sizes, rngs=nnx.Rngs(0))))
            write_language_model(folder, model)
            tokenizer.save(folder)
        recjax.train(
            {
                "system": "finetune", "llm": str(folder), "method": "full",
                "data": {"path": str(args.out / "pairs.jsonl")},
                "optim": {"learning_rate": 1e-3, "warmup_steps": 50, "clip_norm": 1.0},
                "train": {"batch_size": 64, "epochs": 6.0, "patience": 2},
            },
            start,
        )  # fmt: skip
    rows = []
    for task in args.tasks:
        for seed in range(args.seeds):
            workdir = args.out / f"{task}{seed}"
            config = section(task, seed, start / "hf")
            run = run_of(config)
            if not rows:
                found = references(run)
                before = run.evaluator("test").run(run.whole(run.init_state().params))
                rows.append(("start", before["test/users/auc"], before["test/full/mrr"]))
                rows += [(name, *values) for name, values in found.items()]
                for row in rows:
                    print(f"{row[0]:30s} AUC {row[1]:.4f}  MRR {row[2]:.4f}", flush=True)
            after = recjax.train(config, workdir)
            rows.append((f"{task}, seed {seed}", after["test/users/auc"], after["test/full/mrr"]))
            print(f"{rows[-1][0]:30s} AUC {rows[-1][1]:.4f}  MRR {rows[-1][2]:.4f}", flush=True)
    (args.out / "result.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
