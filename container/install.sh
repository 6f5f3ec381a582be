#!/bin/sh
# install.sh STEP SOURCE PREFIX: one step of building an image. The Dockerfile and the Apptainer
# definition call the same steps in the same order, so that the two images hold the same thing:
#   packages   a virtual environment at PREFIX with what requirements.lock pins
#   app        the wheel of SOURCE in it, what can be compiled ahead, /version, /sbom.cdx.json
#   bake       TemplateFlow templates and weights that were asked for, in /opt
# From the environment: VARIANT (cpu or cuda), TORCH_INDEX, PIP_ARGS, EXTRAS, TEMPLATES, WEIGHTS,
# ACCEPT_LICENCE (yes), SOURCE_DATE_EPOCH; docs/containers.md says what they mean.
# shellcheck disable=SC2086  # PIP_ARGS, TEMPLATES and WEIGHTS are lists
set -eu
step=$1
source=$2
prefix=$3
here=$source/container
python=$prefix/bin/python
pins=$prefix/pins.txt
epoch=${SOURCE_DATE_EPOCH:-315532800}  # 1980, the first moment a wheel can name
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
export PYTHONDONTWRITEBYTECODE=1 SOURCE_DATE_EPOCH="$epoch"

install() {
    "$python" -m pip install --quiet --no-compile ${PIP_ARGS:-} -c "$pins" "$@"
}

# settle FOLDER: byte code for the packages below it that does not know when its source was
# written, and times that do not tell when the image was built: two builds of one source give the
# same files.
settle() {
    # Tests of our dependencies are a tenth of the image and nothing uses them.
    find "$1" -type d -name tests -not -path '*/numpy/*' -not -path '*/sklearn/*' \
        -not -path '*/torch/*' -prune -exec rm -rf {} +
    # Some packages carry templates that only look like Python; pip passes over them too.
    "$python" -m compileall -qq -j 0 --invalidation-mode unchecked-hash "$1" || :
    find "$prefix" -newermt "@$((epoch + 1))" -exec touch -h -d "@$epoch" {} +
    chmod -R a+rX "$1"
}

case $step in
packages)
    case ${VARIANT:=cpu} in
    cpu) index=https://download.pytorch.org/whl/cpu; set -- ;;
    cuda) index=; set -- "$here/cuda.lock" ;;
    *) echo "install.sh: VARIANT is $VARIANT, expected cpu or cuda" >&2; exit 64 ;;
    esac
    set -- "$source/requirements.lock" "$here/build.lock" "$@"
    index=${TORCH_INDEX:-$index}
    python3 -m venv "$prefix"
    "$python" "$here/pins.py" merge "$@" > "$pins"
    install setuptools wheel
    # torch first and alone: its index need not hold the rest, and the rest not be looked for there.
    install --no-deps ${index:+--index-url "$index"} "$(grep '^torch==' "$pins")"
    "$python" "$here/pins.py" needs "$source/pyproject.toml" ${EXTRAS:-} > "$prefix/needs.txt"
    install -r "$prefix/needs.txt"
    "$python" "$here/pins.py" check "$pins"
    "$python" -m pip check
    rm "$prefix/needs.txt"
    settle "$(echo "$prefix"/lib/python3*/site-packages)"
    ;;
app)
    "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/wheel "$source"
    install --no-deps /tmp/wheel/*.whl
    "$python" -m pip uninstall --quiet --yes wheel
    "$python" -m pip check
    rm -r /tmp/wheel
    settle "$(echo "$prefix"/lib/python3*/site-packages/neurostorm_app)"
    "$prefix/bin/neurostorm-app" --version > /version
    # Loops that would be compiled at the first use, for this kind of processor.
    "$python" -m neurostorm_app.models.scan_cpu
    "$python" -m neurostorm_app.pipelines.kernels
    chmod -R a+rX "$(echo "$prefix"/lib/python3*/site-packages/neurostorm_app)"
    # The bill of materials is written by a tool that the image does not carry.
    python3 -m venv /tmp/sbom
    /tmp/sbom/bin/pip install --quiet --no-deps ${PIP_ARGS:-} -r "$here/sbom.lock"
    /tmp/sbom/bin/cyclonedx-py environment --pyproject "$source/pyproject.toml" \
        --mc-type application --output-reproducible --validate -o /tmp/packages.json "$python"
    /tmp/sbom/bin/python "$here/sbom.py" /tmp/packages.json /var/lib/dpkg/status /sbom.cdx.json
    rm -r /tmp/sbom /tmp/packages.json
    ;;
bake)
    # What was copied from the build context is there already.
    mkdir -p /opt/templateflow /opt/weights
    [ -z "${TEMPLATES:-}" ] || "$python" "$here/bake_templates.py" /opt/templateflow $TEMPLATES
    if [ -n "${WEIGHTS:-}" ]; then
        accept=
        [ "${ACCEPT_LICENCE:-}" != yes ] || accept=--accept-licence
        "$prefix/bin/neurostorm-tools" weights fetch $WEIGHTS --weights-dir /opt/weights $accept
    fi
    chmod -R a+rX /opt/templateflow /opt/weights
    find /opt/templateflow /opt/weights -exec touch -h -d "@$epoch" {} +
    ;;
*) echo "install.sh: the step is $step, expected packages, app or bake" >&2; exit 64 ;;
esac
