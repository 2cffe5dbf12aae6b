#!/bin/bash
# All rows of guided refinement and its policy, most important first; made for a GPU.
#
#   RECJAX_DATA=FOLDER scripts/study_guided.sh OUT [AT_A_TIME]
#
# AT_A_TIME programs share the device (4). OUT has their lines (*.jsonl); the same command goes on
# after an interruption. Then: python scripts/table.py guided OUT/rows-*.jsonl
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?the folder of results} at_a_time=${2:-4}
mkdir -p "$out"
export XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR=$out/compiled
first=base,added,items,shuffled second=joined,random,genres,scored

rows() { # NAME DATA WAVES... : the waves of a data set, with a store of their own
    local name=$1 data=$2
    shift 2
    echo "python scripts/study_guided.py $data --out=$out/rows-$name.jsonl" \
        "--store=$out/store-$name --batch=2048 $*"
}

policy() { # TASK SEEDS
    echo "python scripts/study_policy.py --data=$RECJAX_DATA --out=$out/policy --pairs=12000" \
        "--start-epochs=16 --tasks $1 --seeds=$2 --results=$out/policy-$1.jsonl" \
        "--set train.batch_size=128 --set 'reward.credit=\"aspect\"' --set train.epochs=45" \
        "--set train.evaluate_every=3 --set train.patience=5 --set optim.learning_rate=0.002" \
        "--set evaluation.batch_size=512 --set train.steps_per_call=4"
}

users=""
for name in start liked0 next0; do users+=" --users=$name=$out/policy/users-$name.tsv"; done
{
    rows ml-sasrec ml100k "sasrec-ce:$first sasrec-ce:$second" \
        "sasrec-ce:added@alpha=0.25,added@alpha=0.5,added@alpha=1,added@alpha=2" \
        "sasrec-ce:added@aspects=3,added@aspects=6,added@aspects=9,base@dim=48" \
        "sasrec-ce:linear,added@alpha=8,base@dim=20,base@dim=10 sasrec-ce:wide"
    rows ml-gru4rec ml100k "gru4rec-ce:$first sasrec-bce:$first gru4rec+-bprmax:$first" \
        "gru4rec-bce:$first gru4rec-ce:$second"
    # The start, then both tasks side by side, then the users' scores fused late.
    echo "$(policy liked 0); { $(policy liked 3); } & { $(policy next 3); } & wait;" \
        "$(rows ml-users ml100k "$users" sasrec-ce:base)"
    rows steam steam "sasrec-ce:$first gru4rec-ce:$first bert4rec-ce:$first sasrec-bce:$first" \
        "gru4rec+-bprmax:$first"
    rows ml-bert4rec ml100k "bert4rec-ce:$first bert4rec-bce:$first"
    rows beauty beauty "--seeds=3 sasrec-ce:$first sasrec-bce:$first"
    echo "python scripts/study_scorer.py --scores=$RECJAX_DATA/ml-100k-aspect-scores/item_scores.tsv" \
        "--out=$out/scorer --results=$out/scorer.jsonl --seeds=3"
    rows ml-few ml100k "--epochs=24 sasrec-ce:$first"
    rows ml-time ml100k "--split=chronological_time sasrec-ce:$first"
} | tr '\n' '\0' | xargs -0 -P "$at_a_time" -I{} bash -c '{}'
