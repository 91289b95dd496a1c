#!/bin/sh
# Build the wheel, install it alone in a fresh environment, and track from there, without PyTorch and under 450 MB.
# Usage: tests/wheel.sh PYTHON_WITH_BUILD   (PYTHON names the interpreter of the fresh environment)
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build_python=$(cd "$root" && cd "$(dirname "$1")" && pwd)/$(basename "$1")
(cd "$root" && "$build_python" -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1) || {
    cat "$work/build.log"
    exit 1
}
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/constraints.txt" "$work"/dist/*.whl

cd "$work"
venv/bin/fartrack version
venv/bin/fartrack demo --output demo.mp4
test -s demo.mp4
venv/bin/python - <<'PYTHON'
import sys

import fartrack
from fartrack.demo import demo_frames

frames = list(demo_frames())[:5]
tracker = fartrack.load("pico")
tracker.init(*frames[0])
for image, _ in frames[1:]:
    track = tracker.update(image)
assert 0 < track.score <= 1, track
heavy = {"torch", "onnx", "openvino", "safetensors"} & set(sys.modules)
assert not heavy, f"tracking imported {heavy}"
PYTHON

packages=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# pip itself belongs to every environment, and so does setuptools, of which pkg_resources is a part, to those of
# Python 3.11: they are not what the wheel brings.
size=$(du -sm --exclude=pip --exclude='pip-*' --exclude=setuptools --exclude=pkg_resources "$packages" | cut -f1)
echo "core install: $size MB"
test "$size" -lt 450
