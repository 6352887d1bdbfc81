#!/usr/bin/env bash
# Makes a virtual environment from a lock file, or leaves it alone when it already is what the lock says.
#
# usage: scripts/setup.sh cpu|gpu     .venv            rlft itself, for development and for use
#        scripts/setup.sh trl         benchmarks/.venv  the peer that `make bench` measures
#
# Installs nothing outside these folders and needs no rights beyond them. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/uv-env.sh

kind=${1:-cpu}
case $kind in
    cpu | gpu) venv=.venv device=$kind files=("requirements/$kind.txt" requirements/assets.txt pyproject.toml) ;;
    trl) venv=benchmarks/.venv device=cpu files=(requirements/trl.txt) ;;
    *) echo "setup: '$kind' is not one of cpu, gpu, trl (make setup EXTRA=cpu)" >&2 && exit 2 ;;
esac
stamp=$venv/.rlft-setup
place="$kind in $PWD/$venv"
lock=$(cat scripts/setup.sh scripts/uv-env.sh "${files[@]}" | sha256sum | cut -d' ' -f1)

if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$place"$'\n'"$lock" ]; then
    exit 0
fi

find_python() { # the first interpreter that is new enough and not too new
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "setup: needs Python 3.11 to 3.14, found ${PYTHON:-none on the PATH}. Give one: make setup PYTHON=/path/to/python3" >&2
    return 1
}

make_venv() {
    local python
    python=$(find_python)
    echo "setup: making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv"; then
        echo "setup: '$python -m venv' failed. Debian and Ubuntu ship it apart: ask for the package python3-venv," >&2
        echo "setup: or give another interpreter: make setup PYTHON=/path/to/python3" >&2
        return 1
    fi
}

# An environment that was made for another device or stood in another folder is not mended but made again. One
# without a stamp is an interrupted setup, or somebody's own: it is completed.
if [ ! -x "$venv/bin/python" ] || { [ -e "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$place" ]; }; then
    make_venv
fi
rm -f "$stamp"
python=$PWD/$venv/bin/python
SECONDS=0
ensure_uv "$python"
configure_uv "$python" "$device"
# Byte code is made now, once, instead of by every process of the first run.
install() { "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$python" --no-deps "$@"; }

# The lock is complete, so nothing is resolved here: --no-deps also keeps out what the lock left out on purpose.
echo "setup: installing requirements/$kind.txt (about 90 s the first time)"
install ${UV_BACKEND[@]+"${UV_BACKEND[@]}"} --requirement "requirements/$kind.txt"
if [ "$kind" != trl ]; then
    install --requirement requirements/assets.txt
    install --no-build-isolation --editable .
fi
printf '%s\n%s\n' "$place" "$lock" >"$stamp"
echo "setup: $venv is ready ($SECONDS s)"
