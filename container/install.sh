#!/bin/sh
# install.sh SOURCE PREFIX: build the wheel from SOURCE and install it, with the exact versions
# of the lock file, into a virtual environment at PREFIX. The Dockerfile and the Apptainer
# definition both call this, so that the two images hold the same thing.
# shellcheck disable=SC2086  # PIP_ARGS is a list of arguments
set -eu
source=$1
prefix=$2

python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir ${PIP_ARGS:-} \
    -c "$source/requirements.lock" 'setuptools>=77' wheel
"$prefix/bin/pip" wheel --quiet --disable-pip-version-check --no-cache-dir --no-deps \
    --no-build-isolation --wheel-dir "$source/dist" "$source"
"$prefix/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir ${PIP_ARGS:-} \
    -c "$source/requirements.lock" "$source"/dist/*.whl
"$prefix/bin/pip" uninstall --quiet --yes wheel
"$prefix/bin/neurostorm-app" --version > /version
# Loops that would be compiled at the first use, for this kind of processor.
"$prefix/bin/python" -m neurostorm_app.models.scan_cpu
"$prefix/bin/python" -m neurostorm_app.pipelines.kernels
chmod -R a+rX "$prefix"/lib/python3*/site-packages/neurostorm_app/models/kernels
# Tests of our dependencies are a tenth of the image and nothing uses them.
find "$prefix" -type d -name tests -path '*/site-packages/*' \
    -not -path '*/numpy/*' -not -path '*/sklearn/*' -not -path '*/torch/*' -prune -exec rm -rf {} +
