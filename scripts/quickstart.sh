#!/usr/bin/env bash
# From nothing but Python 3.11+ to a trained and tested recommender, on simulated readers of real
# books. Runs in minutes on 2 cores; run again, it shows the result at once.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_env.sh

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" RECJAX_PROGRESS=1
workdir=${1:-runs/quickstart}
recjax train --config=configs/recommenders/sample_sasrec.py:ce --workdir="$workdir"
