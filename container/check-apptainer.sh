#!/usr/bin/env bash
# check-apptainer.sh [FOLDER]: build FOLDER/neurostorm-app.sif from apptainer.def and run it as
# strangers will: contained, no network, inputs read-only. Reports are left in FOLDER/out.
# The arguments of the definition (BOOTSTRAP, BASE_IMAGE, ...) and BUILD_ARGS (further arguments
# of `apptainer build`) may be set.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=container/check-steps.sh
. "$root/container/check-steps.sh"
folder=$(realpath -m "${1:-$(mktemp -d)}")
image=$folder/neurostorm-app.sif
mkdir -p "$folder/bids"
context=$(mktemp -d)
scratch=$(mktemp -d)
trap 'rm -rf "$context" "$scratch"' EXIT

make_context "$root" "$context"
cp "$root/container/check_image.py" "$folder"
build=()
while read -r argument; do build+=(--build-arg "$argument"); done < <(build_arguments "$root")
# What %test does, and more, is done below. shellcheck disable=SC2086  # BUILD_ARGS is a list
(cd "$context" && apptainer build --fakeroot --force --notest "${build[@]}" ${BUILD_ARGS:-} \
    "$image" apptainer.def)

# --containall gives 64 MB of /tmp in memory, which is not enough to preprocess a scan.
in_image() {
    apptainer exec --containall --no-home --net --network none --bind "$folder/bids:/bids:ro" \
        --bind "$folder:/data" --bind "$scratch:/tmp" --pwd /tmp "$image" "$@"
}
check_image "$folder"
apptainer run --containall --no-home --pwd /tmp "$image" --version
apptainer inspect --labels "$image"
ls -l "$image"
echo "the image works: reports are in $folder/out"
