#!/usr/bin/env bash
# From nothing but Python 3.11+ to a recommender whose hidden states are read in words, on simulated
# readers of real books: SASRec, a small language model of the catalogue, the adapter between them,
# and a report. Minutes on 2 cores; run again, it shows the results at once.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs/quickstart}
set -- # _env.sh takes extras
. scripts/_env.sh

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" RECJAX_PROGRESS=1
configs=configs/interpreter
recjax train --config=$configs/recommender.py:sample-sasrec --workdir="$runs/sasrec"
recjax train --config=configs/llm/catalogue.py --workdir="$runs/llm"
recjax train --config=$configs/adapter.py:sample-sasrec --workdir="$runs/interpreter" \
    --config.recommender="$runs/sasrec" --config.llm="$runs/llm/hf"
recjax interpret --workdir="$runs/interpreter"
recjax report --workdir="$runs/interpreter"
