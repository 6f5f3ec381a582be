#!/bin/sh
# Let other packages read what our app writes: scripts for `make test-consumers`.
#
#   tests/consumers/run.sh PYTHON_OF_THE_APP
#
# NEUROSTORM_TREE   a derivative folder of ours; without it one is made from a phantom
# XCPD, GIGA        where to install XCP-D and giga_connectome from: a pip requirement or a folder
# PYTHON, PIP_ARGS  as in the Makefile
set -eu

app=$(cd "$(dirname "$1")" && pwd)
[ -z "${NEUROSTORM_TREE:-}" ] || NEUROSTORM_TREE=$(cd "$NEUROSTORM_TREE" && pwd)
cd "$(dirname "$0")"
XCPD=${XCPD:-xcp_d @ git+https://github.com/PennLINC/xcp_d@26.1.1}
GIGA=${GIGA:-giga_connectome @ git+https://github.com/SIMEXP/giga_connectome@fd1ae3017034de4b6f9527bff9ab695579cfd59f}
root=../..
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make_environment() {  # folder, requirements
    if [ ! -f "$1/installed" ] || [ "$2" -nt "$1/installed" ]; then
        echo "==> making $1"
        "${PYTHON:-python3}" -m venv "$1"
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} -r "$2"
        touch "$1/installed"
    fi
}

make_environment $root/.venv-consumers requirements.txt
# fitlins pins an old nilearn and an old pybids; its code runs with the new ones.
$root/.venv-consumers/bin/python -c 'import fitlins; assert fitlins.__version__ == "0.11.0"' 2>/dev/null ||
    $root/.venv-consumers/bin/python -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
        --no-deps fitlins==0.11.0
make_environment $root/.venv-consumers-xcpd requirements-xcpd.txt
xcpd_pip="$root/.venv-consumers-xcpd/bin/python -m pip install --quiet --disable-pip-version-check"
if ! $root/.venv-consumers-xcpd/bin/python -c 'import xcp_d, giga_connectome' 2>/dev/null; then
    echo "nilearn==0.12.1" > "$work/pins.txt"
    export SETUPTOOLS_SCM_PRETEND_VERSION_FOR_XCP_D=26.1.1
    export SETUPTOOLS_SCM_PRETEND_VERSION_FOR_GIGA_CONNECTOME=0.4.2.dev77
    # giga_connectome pins an old pybids; its code runs with the new one.
    { $xcpd_pip -c "$work/pins.txt" "$XCPD" && $xcpd_pip --no-deps "$GIGA"; } ||
        echo "==> XCP-D or giga_connectome cannot be installed here: tiers B and C will be skipped"
fi

if [ -z "${NEUROSTORM_TREE:-}" ]; then
    echo "==> a phantom through the app"
    "$app/neurostorm-tools" phantom "$work/bids" --participants 1 --runs 1 --volumes 70 --seed 3
    "$app/neurostorm-app" "$work/bids" "$work/out" participant --models connectome \
        --output-spaces MNI152NLin6Asym:res-2 MNI152NLin2009cAsym:res-2
    NEUROSTORM_TREE=$work/out
fi
echo "==> made-up runs and our confounds of them"
"$app/python" make_case.py "$work/cases"
echo "==> damaged copies of the folder, and what check-compat says of each"
"$app/python" make_damaged.py "$NEUROSTORM_TREE" "$work/damaged"
export NEUROSTORM_TREE NEUROSTORM_CASES="$work/cases" NEUROSTORM_DAMAGED="$work/damaged" NO_ET=1

status=0
for each in .venv-consumers .venv-consumers-xcpd; do
    echo "==> the consumers of $each"
    files="consume_nilearn.py consume_bids.py consume_fmriprep.py consume_movement.py consume_confounds.py consume_tedana.py consume_compat.py"
    [ $each = .venv-consumers ] || files="consume_xcpd.py consume_compat_xcpd.py"
    PATH="$(cd $root/$each/bin && pwd):$PATH" $root/$each/bin/python -m pytest -c pytest.ini -q -s \
        -p no:cacheprovider $files || status=1
done
exit $status
