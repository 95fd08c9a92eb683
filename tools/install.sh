#!/usr/bin/env bash
# Install the package, editable, and all that its tests need:
#   tools/install.sh PYTHON VENV [locked]
# A torch that PYTHON or an existing VENV has is used if it fits. Otherwise the
# newest that fits is installed. With `locked`, all versions are those of
# requirements.lock, and each file is compared with its hash there; of a torch
# that is used, the lock's own and its libraries are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
venv=$2
locked=${3:-}
# The lock begins at 3.11, as some of its newest versions do.
oldest=$([ "$locked" ] && echo 11 || echo 10)

"$python" -c "import sys; sys.exit(sys.version_info < (3, $oldest))" || {
    echo "Python 3.$oldest or newer is needed: make PYTHON=python3.11 ..." >&2
    exit 1
}
pins=$(mktemp)
chosen=$(mktemp)
trap 'rm -f "$pins" "$chosen"' EXIT

# Pins of the torch and torchvision that a Python has, if they fit.
find_torch() {
    "$1" - > "$pins" <<'EOF'
import runpy

compat = runpy.run_path('clouds_mmseg/compat.py')
pair = [compat['_version'](name) for name in ('torch', 'torchvision')]
try:
    compat['check_torch'](*pair)
except ImportError:
    pass
else:
    print(f'torch=={pair[0]}\ntorchvision=={pair[1]}')
EOF
    [ -s "$pins" ]
}

if [ ! -x "$venv/bin/python" ]; then
    if find_torch "$python"; then
        "$python" -m venv --system-site-packages "$venv"
    else
        "$python" -m venv "$venv"
    fi
fi
if find_torch "$venv/bin/python"; then
    echo "using $(tr '\n' ' ' < "$pins")"
fi
# Environments that uv has made have no pip.
"$venv/bin/python" -m pip --version > /dev/null 2>&1 ||
    "$venv/bin/python" -m ensurepip > /dev/null
pip() { "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"; }
if [ "$locked" ]; then
    # Each entry begins its line, its hashes are indented.
    [ -s "$pins" ] && torch='^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' ||
        torch='^$'
    awk -v "torch=$torch" '/^[^ ]/ {skip = $0 ~ torch} !skip' \
        requirements.lock > "$chosen"
    # In a fraction of pip's time, and no resolver has a say.
    pip uv
    "$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps \
        --require-hashes -r "$chosen"
    # By the setuptools of the lock.
    pip --no-deps --no-build-isolation -e .
    "$venv/bin/python" -m pip check
elif grep -q 'include-system-site-packages = true' "$venv/pyvenv.cfg"; then
    # Only pip sees what the system has.
    pip -c "$pins" -r requirements.txt
else
    # In a fraction of pip's time.
    pip uv
    "$venv/bin/uv" pip install -q --python "$venv/bin/python" \
        -c "$pins" -r requirements.txt
fi
