#!/usr/bin/env bash
# The project's figures on a GPU in one run of under 10 minutes: see scripts/check_gpu.py.
#
#     PYTHON=python3 scripts/check_gpu.sh --out figures.json
#     PYTHON=python3 WHEELS=folder scripts/check_gpu.sh     # what PYTHON lacks, from wheels
#
# PYTHON has jax for its GPU, and torch, transformers and peft where peers are to be compared with;
# PEERS=... names another Python for them. Nothing is downloaded: WHEELS is a folder with wheels of
# what PYTHON lacks (`pip download ml-collections tensorboardX ...` elsewhere); they go into a
# temporary environment on top of PYTHON's packages.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "PYTHON=$python is no Python 3.11 or newer" >&2; exit 2; }
missing=$("$python" scripts/check_gpu.py --missing)
if [ -n "$missing" ] && [ -n "${WHEELS:-}" ]; then
    [ -d "$WHEELS" ] || { echo "WHEELS=$WHEELS is no folder" >&2; exit 2; }
    env=$(mktemp -d)
    trap 'rm -rf "$env"' EXIT
    "$python" -m venv --without-pip --system-site-packages "$env"
    # Where PYTHON is itself that of an environment, its packages are not the system's.
    "$python" -c 'import os, sys; print(*filter(os.path.isdir, sys.path[1:]), sep="\n")' \
        > "$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
    IFS=$'\n' read -r -d '' -a wanted <<< "$missing" || true
    "$python" -m pip --python "$env/bin/python" --disable-pip-version-check install --quiet \
        --no-index --find-links "$WHEELS" "${wanted[@]}" >&2 ||
        echo "WHEELS=$WHEELS lacks some of: ${wanted[*]}" >&2
    python=$env/bin/python
fi
"$python" scripts/check_gpu.py --peers "${PEERS:-$python}" "$@"
