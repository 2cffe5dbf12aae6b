#!/usr/bin/env bash
# Builds the API reference as HTML: scripts/docs.sh [FOLDER], by default build/docs. A warning is an
# error.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/docs}
set -- # _env.sh takes extras
. scripts/_env.sh docs

JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" python scripts/_docs.py "$folder"
echo "$folder/index.html"
