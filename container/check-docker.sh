#!/usr/bin/env bash
# check-docker.sh [FOLDER]: build the image and run it as strangers will: no network, a read-only
# root, an arbitrary uid, inputs mounted read-only. Reports are left in FOLDER/out.
# ENGINE (podman or docker), IMAGE (the tag), the arguments of the Dockerfile, and BUILD_ARGS
# (further arguments of `build`) may be set.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=container/check-steps.sh
. "$root/container/check-steps.sh"
engine=${ENGINE:-$(command -v podman || command -v docker)}
image=${IMAGE:-localhost/neurostorm-app:check}
folder=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$folder/bids"
chmod 777 "$folder" "$folder/bids"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

make_context "$root" "$context"
cp "$root/container/check_image.py" "$folder"
build=()
while read -r argument; do build+=(--build-arg "$argument"); done < <(build_arguments "$root")
# shellcheck disable=SC2086  # BUILD_ARGS is a list of arguments
"$engine" build --tag "$image" "${build[@]}" ${BUILD_ARGS:-} -f "$context/Dockerfile" "$context"

in_image() {
    "$engine" run --rm --network none --read-only --tmpfs /tmp:rw,exec,size=4g,mode=1777 \
        --user 12345:54321 -v "$folder/bids:/bids:ro" -v "$folder:/data" \
        --entrypoint "$1" "$image" "${@:2}"
}
check_image "$folder"
"$engine" inspect --format '{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}{{"\n"}}{{end}}' "$image"
"$engine" images "$image"
echo "the image works: reports are in $folder/out"
