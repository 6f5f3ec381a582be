#!/usr/bin/env bash
# check-apptainer.sh [IMAGE.sif]: build the image from apptainer.def and run its %test.
# BOOTSTRAP, BASE_IMAGE and PIP_ARGS may be set, as for `apptainer build --build-arg`, and
# BUILD_ARGS to further arguments of the build.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
image=$(realpath -m "${1:-$(mktemp -d)/neurostorm-app.sif}")

build=()
for name in BOOTSTRAP BASE_IMAGE PIP_ARGS; do
    [[ -n ${!name:-} ]] && build+=(--build-arg "$name=${!name}")
done
cd "$root"
# shellcheck disable=SC2086  # BUILD_ARGS is a list of arguments
apptainer build --fakeroot --force "${build[@]}" ${BUILD_ARGS:-} "$image" apptainer.def
# --containall gives 64 MB of /tmp in memory, which is not enough to preprocess a scan.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
apptainer run --containall --no-home "$image" --version
apptainer test --containall --no-home --bind "$scratch:/tmp" "$image"
echo "the image works: $image"
