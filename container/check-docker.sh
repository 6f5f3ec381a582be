#!/usr/bin/env bash
# check-docker.sh [FOLDER]: build the image and run it as strangers will: no network, a read-only
# root, an arbitrary uid, inputs mounted read-only.
# ENGINE (podman or docker), BASE_IMAGE, PIP_ARGS and BUILD_ARGS may be set.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
engine=${ENGINE:-$(command -v podman || command -v docker)}
image=localhost/neurostorm-app:check
folder=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$folder"
chmod 777 "$folder"

build=(--tag "$image" --build-arg "PIP_ARGS=${PIP_ARGS:-}")
[[ -n ${BASE_IMAGE:-} ]] && build+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
# shellcheck disable=SC2086  # BUILD_ARGS is a list of arguments
"$engine" build "${build[@]}" ${BUILD_ARGS:-} -f "$root/Dockerfile" "$root"

run=("$engine" run --rm --network none --read-only --tmpfs /tmp:rw,size=4g,mode=1777 --user 12345:54321)
"${run[@]}" "$image" --version
"${run[@]}" -v "$folder:/data" --entrypoint neurostorm-tools "$image" \
    phantom /data/bids --participants 2 --runs 2 --scale tiny --seed 1
"${run[@]}" -v "$folder/bids:/bids:ro" -v "$folder:/data" "$image" \
    /bids /data/out participant --models connectome neurostorm-demo
"${run[@]}" -v "$folder/bids:/bids:ro" -v "$folder:/data" "$image" /bids /data/out group
test -s "$folder/out/sub-01.html" && test -s "$folder/out/group.html"
echo "the image works: reports are in $folder/out"
