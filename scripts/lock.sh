#!/usr/bin/env bash
# Derives requirements/{cpu,gpu,trl}.txt from pyproject.toml: run it after changing a dependency, commit the result.
# With --upgrade every package moves to the newest version that fits; without, only what must change does.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/uv-env.sh
python=$PWD/.venv/bin/python
ensure_uv "$python"

compile() { # DEVICE NAME arguments...
    local device=$1 output=requirements/$2.txt
    shift 2
    (
        configure_uv "$python" "$device"
        # Python 3.11 on glibc 2.31 is the oldest that everything supports; what it resolves to also installs on newer ones.
        .venv/bin/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --no-annotate --python-version 3.11 \
            --python-platform x86_64-manylinux_2_31 --custom-compile-command "make lock" \
            ${UV_BACKEND[@]+"${UV_BACKEND[@]}"} --output-file "$output" "$@"
    )
    echo "lock: $output, $(grep -c '==' "$output") packages"
}

extras=(--extra hub --extra tensorboard --extra dev)
compile cpu cpu pyproject.toml --extra cpu "${extras[@]}" --override requirements/cpu-overrides.txt "$@"
compile gpu gpu pyproject.toml --extra gpu "${extras[@]}" "$@"
compile cpu trl requirements/trl.in "$@"
