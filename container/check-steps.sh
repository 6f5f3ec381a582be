#!/usr/bin/env bash
# check-steps.sh: what is checked of any image; check-docker.sh and check-apptainer.sh source it.
# They define in_image COMMAND...: run COMMAND in the image as strangers will, with the folder of
# the check at /data, its datasets read-only at /bids, a read-only root and no network.

# make_context ROOT CONTEXT: what the recipes copy, and beside it weights and a template to bake.
# Both are of the package, under the names that fetched ones would have: no hub is needed.
make_context() {
    local root=$1 context=$2 file
    mkdir -p "$context"
    (cd "$root" && cp -r --parents pyproject.toml requirements.lock README.md LICENSE NOTICE \
        Dockerfile apptainer.def .dockerignore container src bids_app pipelines models "$context")
    find "$context" -name __pycache__ -prune -exec rm -rf {} +
    mkdir -p "$context/baked/weights/neurostorm-demo" "$context/baked/templates/tpl-MNI152NLin6Asym"
    cp "$root"/models/data/neurostorm-demo.safetensors "$context/baked/weights/neurostorm-demo"
    for file in "$root"/pipelines/data/tpl-MNI152NLin6Asym_res-02_{desc,label}-*.nii.gz; do
        cp "$file" "$context/baked/templates/tpl-MNI152NLin6Asym"
    done
    chmod -R a+rX "$context"
}

# build_arguments ROOT: name=value of each argument of a build that is set, one a line.
build_arguments() {
    local name
    export WEIGHTS_DIR=baked/weights TEMPLATES_DIR=baked/templates
    VERSION=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$1/pyproject.toml")}
    REVISION=${REVISION:-$(git -C "$1" rev-parse HEAD 2>/dev/null || echo unknown)}
    for name in BOOTSTRAP BASE_IMAGE VARIANT TORCH_INDEX PIP_ARGS EXTRAS TEMPLATES TEMPLATES_DIR \
        WEIGHTS WEIGHTS_DIR ACCEPT_LICENCE VERSION REVISION CREATED SOURCE; do
        [[ -z ${!name:-} ]] || echo "$name=${!name}"
    done
}

# check_image FOLDER: the steps.
check_image() {
    local folder=$1
    echo "==> version"
    in_image neurostorm-app --version
    echo "==> what is in the image, and what is out of its reach"
    in_image python /data/check_image.py
    echo "==> a phantom dataset"
    in_image neurostorm-tools phantom /data/bids --participants 2 --runs 1 --scale tiny --seed 1
    echo "==> participant level"
    in_image neurostorm-app /bids /data/out participant --models connectome neurostorm-demo
    echo "==> group level"
    in_image neurostorm-app /bids /data/out group
    test -s "$folder/out/sub-01.html"
    test -s "$folder/out/group.html"
    echo "==> the template and the weights that were baked were used"
    grep -rhoE '"[^"]*TemplateFlow[^"]*"' "$folder/out" --include='*.json' | sort | uniq -c
    in_image neurostorm-tools weights list | grep -F /opt/weights/
}
