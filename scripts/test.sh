#!/usr/bin/env bash
# Lint, types and all tests; arguments go to pytest. RECJAX_DATA names the folder of real data
# (without it the tests that need it are skipped, and say so).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_env.sh test,dev,docs
. scripts/_chromium.sh

ruff check .
ruff format --check .
found=$(mktemp)
trap 'rm -f "$found"' EXIT
mypy >"$found" 2>&1 & # one process for most of a minute; its errors are told at the end
types=$!
workers=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) # nproc: those this process may use
run=(python -m pytest -n "$((workers < 4 ? workers : 4))" --dist worksteal)
status=0
if [ $# -gt 0 ]; then
    "${run[@]}" "$@" || status=$?
else
    # Whole trainings take less time when XLA compiles them as users' are compiled; all other tests
    # spend their time on the compilation (tests/conftest.py).
    whole=tests/e2e/test_learning.py
    XLA_FLAGS=--xla_force_host_platform_device_count=8 "${run[@]}" "$whole" || status=$?
    "${run[@]}" tests --ignore="$whole" || status=$?
fi
wait "$types" || status=$?
cat "$found"
exit "$status"
