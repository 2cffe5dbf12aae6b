"""Does policy gradient teach a language model which way users lean? MovieLens-100K, from scratch.

    python scripts/study_policy.py --data=FOLDER_OF_DATA --out=runs/policy --seeds=3

1. A small LLaMA is trained on answers of a teacher that tells what a user has seen: the mean scores
   of a part of the films of which the prompt tells, liked or not (of a part, so that its answers
   differ). Training ends where the likelihood of held-out answers no longer rises.
2. `configs/guided/ml100k_policy.py` fine-tunes it by policy gradient, for each seed and task.

It prints the AUC and MRR of the start and of each run, beside those of another user's scores and of
one vector for all users, and those of the mean of recent films and of the lean (liked less others),
which need no language model. `--results FILE` takes a line of JSON
for each of these and for each validation. The users' scores before and after are in the folder, of
what stands `--before` items before the end (`users-start.tsv`, `users-liked0.tsv`, ...).
"""

import dataclasses
import json
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

import recjax
from recjax.arguments import Parser, count, positive
from recjax.config import build, load_config
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.errors import run_script
from recjax.guided.aspects import USER
from recjax.guided.policy import PolicyRun
from recjax.guided.policy_config import PolicyConfig
from recjax.guided.prompts import answer_form
from recjax.guided.rewards import auc, match, reciprocal_rank
from recjax.guided.score_files import write_scores
from recjax.guided.user_examples import UserExamples
from recjax.models.definition import params_of
from recjax.models.llama import Config, Llama
from recjax.paths import flag_file, flag_path
from recjax.text.bpe import train_bpe

CONFIG = Path(__file__).parent.parent / "configs" / "guided" / "ml100k_policy.py"


def taught(examples, aspects, rng, user, cut):
    """The teacher's answer: the mean of a part of the user's films, as a rating each."""
    store = examples.store
    start = max(int(store.offsets[user]), cut - examples.config.history)
    seen = store.items[start:cut]
    part = rng.choice(seen, max(1, len(seen) // 4), replace=False)
    mean = examples.items.values[part].mean(0)
    ratings = np.clip(np.rint(mean), aspects.least, aspects.most).astype(int) - aspects.least
    return answer_form(aspects).text(ratings)


def write_pairs(examples, aspects, path, count):
    """`count` prompts of training cuts with the teacher's answers.

    Prompts tell of 1 to `history` films, as many of one size as of twice that size. Means of many
    films are nearly alike for all users, and a model that never saw others would not read them.
    """
    rng = np.random.default_rng(0)
    form, lines = answer_form(aspects), []
    most = examples.config.history
    told = [
        dataclasses.replace(examples, config=dataclasses.replace(examples.config, history=films))
        for films in range(1, most + 1)
    ]
    for place in range(count):
        examples = told[int(np.exp(rng.uniform(0, np.log(most + 1)))) - 1]
        user = int(examples.users[place % len(examples.users)])
        low, high = (
            int(examples.store.offsets[user]) + 5,
            int(examples.store.offsets[user + 1]) - 30,
        )
        cut = int(rng.integers(min(low, high), high + 1))
        prompt = examples.asked(user, cut).text
        lines.append({"prompt": prompt, "answer": taught(examples, aspects, rng, user, cut)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [line["prompt"] + line["answer"] for line in lines] + [form.text([9] * len(aspects))]


class _NoTokenizer:
    pad_id = 0


def measured(run, users):
    """(AUC, MRR) on the test of standardised vectors [n A] of the first n users."""
    batch = {name: jnp.asarray(a[: len(users)]) for name, a in run.batches.at("test").items()}
    items, real, users = jnp.asarray(run.data["items"]), batch["targets"] > 0, jnp.asarray(users)
    scores = jnp.einsum("BA,BCA->BC", users, items[batch["targets"]])
    area, some = auc(scores, batch["liked"], real)
    ranks = reciprocal_rank(match(users, items), batch["targets"], real, batch["history"])
    return float(area[some].mean()), float(ranks.mean())


def references(run):
    """AUC and MRR of vectors that no language model made, on the test."""
    batch, store, items = run.batches.at("test"), run.store, np.asarray(run.data["items"])
    names = ("mean of all", "mean of liked", "lean (liked less others)", "mean of the last ten")
    vectors = {name: [] for name in names}
    for user, cut in zip(batch["users"], run.batches.cuts("test"), strict=True):
        start = max(int(store.offsets[user]), int(cut) - run.config.users.history)
        own, liked = items[store.items[start:cut]], run.batches.liked[start:cut]
        good = own[liked].mean(0) if liked.any() else own.mean(0)
        bad = own[~liked].mean(0) if (~liked).any() else own.mean(0)
        for name, row in zip(
            names, (own.mean(0), good, good - bad, own[-10:].mean(0)), strict=True
        ):
            vectors[name].append(row)
    return {name: measured(run, np.stack(rows)) for name, rows in vectors.items()}


def controls(run, params):
    """AUC and MRR of another user's scores, and of the mean of all users'."""
    ratings = run.evaluator("test").ratings(params)
    users = np.asarray(run.vectors(ratings, run.data))
    other = np.random.default_rng(0).permutation(len(users))
    return {
        "another user's": measured(run, users[other]),
        "one for all": measured(run, np.broadcast_to(users.mean(0), users.shape)),
    }


def parse():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=flag_path, required=True, help="the folder of real data")
    parser.add_argument("--out", type=flag_path, required=True)
    parser.add_argument("--results", type=flag_file, help="default: OUT/results.jsonl")
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--pairs", type=positive, default=8000)
    parser.add_argument("--start-epochs", type=float, default=20.0, help="of the start, at most")
    parser.add_argument(
        "--start-batch", type=positive, default=128, help="pairs a step of the start"
    )
    parser.add_argument("--dim", type=positive, default=96, help="of the language model")
    parser.add_argument("--layers", type=positive, default=3)
    parser.add_argument("--tasks", nargs="*", default=["liked", "next"])
    parser.add_argument(
        "--before", type=count, default=13, help="items that the scores do not know"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="of the policy's config"
    )
    return parser.parse_args()


def section_of(args, task, seed, llm):
    """The config of a run."""
    config = load_config(f"{CONFIG}:next" if task == "next" else str(CONFIG))[0].to_dict()
    config["llm"], config["seed"] = str(llm), seed
    config["items"] = str(args.data / "ml-100k-aspect-scores" / "item_scores.tsv")
    config["data"] |= {"path": str(args.data / "ml-100k"), "store": str(args.out / "store")}
    for text in args.set:
        key, _, value = text.partition("=")
        *path, last = key.split(".")
        part = config
        for name in path:
            part = part.setdefault(name, {})
        part[last] = json.loads(value)
    return config


def make_start(args, run, folder, start):
    """Trains the language model that the policies start from."""
    # The tokenizer is made of the prompts, which need none.
    examples = UserExamples(
        run.config.users, run.store, run.aspects, run.items, _NoTokenizer(), batch_size=1
    )
    pairs = args.out / "pairs.jsonl"
    texts = write_pairs(examples, run.aspects, pairs, args.pairs)
    if not (folder / "tokenizer.json").exists():  # an interrupted start goes on
        tokenizer = train_bpe(texts[:500], 400)
        sizes = Config(
            vocab_size=tokenizer.size, max_length=512, dim=args.dim, mlp_dim=8 * args.dim // 3,
            layers=args.layers, heads=4, kv_heads=4, head_dim=args.dim // 4,
        )  # fmt: skip
        model = language_model(sizes, params_of(Llama(sizes, rngs=nnx.Rngs(0))))
        write_language_model(folder, model, overwrite=True)
        tokenizer.save(folder)
    recjax.train(
        {
            "system": "finetune", "llm": str(folder), "method": "full",
            "data": {"path": str(pairs)},
            "optim": {"learning_rate": 2e-3, "warmup_steps": 50, "clip_norm": 1.0},
            "train": {
                "batch_size": args.start_batch, "epochs": args.start_epochs, "patience": 2,
            },
        },
        start,
    )  # fmt: skip


def write_users(run, params, before, path):
    """Expected ratings of all users from what stands `before` items before their end."""
    batches = run.batches
    cuts = run.store.offsets[batches.users + 1] - before
    evaluator = dataclasses.replace(run.evaluator("test"), users=batches.at_cuts(cuts))
    keys = [run.store.user_keys[int(user)] for user in evaluator.examples]
    write_scores(path, keys, evaluator.ratings(params), run.aspects, USER)


def main():
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.results or args.out / "results.jsonl"
    folder, start = args.out / "random", args.out / "start"

    def told(kind, name, auc, mrr, **more):
        line = {"kind": kind, "name": name, "auc": round(auc, 5), "mrr": round(mrr, 5), **more}
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if kind != "validation":
            print(f"{name:30s} AUC {auc:.4f}  MRR {mrr:.4f}", flush=True)

    def run_of(config):
        own = {key: value for key, value in config.items() if key != "system"}
        return PolicyRun(build(PolicyConfig, own, "config"), store)

    store = recjax.prepare(section_of(args, "liked", 0, folder))
    if not (start / "hf").exists():
        make_start(args, run_of(section_of(args, "liked", 0, folder)), folder, start)
    first = True
    for seed in range(args.seeds):
        for task in args.tasks:
            config = section_of(args, task, seed, start / "hf")
            run = run_of(config)
            if first:
                params = run.whole(run.init_state().params)
                before = run.evaluator("test").run(params)
                told("start", "start", before["test/users/auc"], before["test/full/mrr"])
                write_users(run, params, args.before, args.out / "users-start.tsv")
                for name, values in controls(run, params).items():
                    told("control", f"start, {name}", *values)
                for name, values in references(run).items():
                    told("reference", name, *values)
                first = False
            workdir, name = args.out / f"{task}{seed}", f"{task}, seed {seed}"
            begun = time.perf_counter()
            after = recjax.train(config, workdir)
            took = round(time.perf_counter() - begun, 1)
            for line in (workdir / "metrics.jsonl").read_text().splitlines():
                row = json.loads(line)
                if "validation/users/auc" in row:
                    values = row["validation/users/auc"], row["validation/full/mrr"]
                    told("validation", name, *values, step=row["step"])
            values = after["test/users/auc"], after["test/full/mrr"]
            told("tuned", name, *values, step=after["step"], seconds=took)
            params = recjax.open_run(workdir).restore(after["step"])
            write_users(run, params, args.before, args.out / f"users-{task}{seed}.tsv")
            for own, values in controls(run, params).items():
                told("control", f"{name}, {own}", *values)


if __name__ == "__main__":
    run_script(main)
