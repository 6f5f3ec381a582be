#!/usr/bin/env bash
# check-wheel.sh PYTHON: build the wheel, install it alone into an empty folder, and ask the
# commands for their version from a place where the checkout cannot be seen.
set -euo pipefail
python=$(realpath -s "${1:?the interpreter of the environment}")
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m build --quiet --wheel --outdir "$folder" "$root"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/site" "$folder"/*.whl
cd "$folder"
PYTHONPATH=$folder/site "$python" - "$folder/site" <<'CHECK'
import sys
from pathlib import Path

import neurostorm_app
from neurostorm_app import models

site = Path(sys.argv[1])
found = Path(neurostorm_app.__file__)
if not found.is_relative_to(site):
    sys.exit(f"imported {found}, expected it under {site}")
needed = ["py.typed", "models/cards/connectome.yaml", "models/data/neurostorm-demo.safetensors",
          "bids_app/report/templates", "pipelines/data"]
missing = [name for name in needed if not (found.parent / name).exists()]
if missing:
    sys.exit(f"the wheel lacks {missing}")
print("wheel:", ", ".join(models.list_models()))
CHECK
PYTHONPATH=$folder/site "$python" -m neurostorm_app.bids_app.cli --version
