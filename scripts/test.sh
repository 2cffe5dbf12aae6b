#!/usr/bin/env bash
# Lint, types and all tests; arguments go to pytest. RECJAX_DATA names the folder of real data
# (without it the tests that need it are skipped, and say so).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_chromium.sh & # beside the other packages
chromium=$!
. scripts/_env.sh test,dev,docs
wait "$chromium"

ruff check .
ruff format --check .
found=$(mktemp)
trap 'rm -f "$found"' EXIT
mypy >"$found" 2>&1 & # one process for most of a minute; its errors are told at the end
types=$!
workers=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) # nproc: those this process may use
status=0
python -m pytest -n "$((workers < 4 ? workers : 4))" --dist worksteal "$@" || status=$?
wait "$types" || status=$?
cat "$found"
exit "$status"
