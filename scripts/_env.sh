# Sourced by the other scripts: makes .venv with recjax in it, once, and puts it on the PATH.
# Usage: . scripts/_env.sh [EXTRAS], e.g. "test,dev". PYTHON=... picks the interpreter.

_is_python() { # new enough, and able to make environments
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
    "$1" -c 'import ensurepip, venv' 2>/dev/null || { _without_venv=$1; return 1; }
}

_find_python() { # sets _python
    local candidate candidates=(python3.12 python3.11 python3 python3.13 python3.14) # tested first
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    _without_venv=
    for candidate in "${candidates[@]}"; do
        if _is_python "$candidate"; then
            _python=$candidate
            return
        fi
    done
    if [ -n "$_without_venv" ]; then
        echo "$_without_venv cannot make environments; on Debian and Ubuntu:" \
            "apt install $("$_without_venv" -c \
                'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2
    elif [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is no Python 3.11 or newer" >&2
    else
        echo "recjax needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2
    fi
    return 1
}

_locked() { # the packages of some sections of a file of constraints, each once
    awk -v wanted=",$2," '
        /^# section / { here = index(wanted, "," $3 ",") }
        /^[a-z0-9]/ { split($1, name, "=="); keep = here && !seen[name[1]]++ }
        /^#/ { keep = 0 }
        keep' "$1"
}

_pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "$@"
}

_make_env() {
    local extras=$1 constraints stamp wanted
    if [ ! -x .venv/bin/python ]; then
        _find_python
        echo "making .venv with $("$_python" --version)" >&2
        "$_python" -m venv --clear .venv
    fi
    constraints=scripts/constraints-py312.txt # newer ones too
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
        constraints=scripts/constraints-py311.txt
    fi
    stamp=.venv/installed-${extras//,/-}
    wanted=$(cat pyproject.toml "$constraints" | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing recjax (a few minutes the first time)" >&2
        .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >&2
        # Each package is one of scripts/lock.py's, by its hash; recjax itself has none.
        # Python compiles each module when it is first imported; pip would compile all of them.
        _pip_install --require-hashes -r <(_locked "$constraints" build)
        _pip_install --require-hashes --no-build-isolation \
            -r <(_locked "$constraints" "recjax${extras:+,$extras}")
        _pip_install --no-deps --no-build-isolation --editable .
        echo "$wanted" > "$stamp"
    fi
}

_make_env "${1:-}"
export PATH="$PWD/.venv/bin:$PATH"
