#!/usr/bin/env bash
# A training run on a TPU pod slice of Google Cloud: the same command on every host.
#
#   scripts/launch/tpu_pod.sh NAME ZONE --config=/shared/config.py --workdir=/shared/runs/beauty
#
# NAME is the slice's. The hosts have recjax installed with the extra `tpu`. The paths are theirs, and
# whole ones: config, prepared data (--config.data.store=/shared/prepared/beauty) and workdir lie on a
# disk that all of them share (a file store, or a mounted bucket). TPU pods tell JAX which process is
# which. SIGTERM of a preemption lets the run save and exit; start this script again to resume. PYTHON
# names the hosts' interpreter, RECJAX_DATA their folder of raw data where a run reads such.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 NAME ZONE --config=FILE --workdir=DIR [...]" >&2; exit 2; }
name=$1 zone=$2
shift 2
command="${RECJAX_DATA:+RECJAX_DATA=$(printf '%q' "$RECJAX_DATA") }${PYTHON:-python3} -m recjax"
command+=" train --distributed"
for word in "$@"; do
    command+=" $(printf '%q' "$word")"
done
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
