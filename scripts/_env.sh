# Sourced by the other scripts: makes .venv with recjax in it, once, and puts it on the PATH.
# Usage: . scripts/_env.sh [EXTRAS], e.g. "test,dev". PYTHON=... picks the interpreter.

_find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "recjax needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2
    return 1
}

_make_env() {
    local extras=$1 python constraints stamp wanted
    if [ ! -x .venv/bin/python ]; then
        python=$(_find_python)
        echo "making .venv with $("$python" --version)" >&2
        "$python" -m venv .venv || {
            echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        }
    fi
    constraints=scripts/constraints-py312.txt
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
        constraints=scripts/constraints-py311.txt
    fi
    stamp=.venv/installed-${extras//,/-}
    wanted=$(cat pyproject.toml "$constraints" | cksum)
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        echo "installing recjax (a few minutes the first time)" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --constraint "$constraints" --editable ".${extras:+[$extras]}"
        echo "$wanted" > "$stamp"
    fi
}

_make_env "${1:-}"
export PATH="$PWD/.venv/bin:$PATH"
