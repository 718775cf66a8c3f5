#!/usr/bin/env bash
# Runs the tests of exactness on a 64-bit ARM processor, which QEMU emulates:
#
#     tests/aarch64.sh FOLDER [arguments of pytest]
#
# FOLDER keeps what is downloaded, which is Debian's Python for ARM and PyPI's wheels for ARM, and
# the compiled kernels. The digests in the tests were made on x86-64, so tests that pass have found
# the same bits. They take 7 minutes of one core. QEMU does not reorder memory accesses as an ARM
# processor may; see the comment above `_execute` in oobleck_stream/engine/cpu/interpreter.py.
#
# It needs Debian's packages qemu-user-static and mmdebstrap.
set -euo pipefail
tests=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?a folder was expected}"
folder=$(cd "$1" && pwd)
shift

if [ ! -e "$folder/root/usr/bin/python3.11" ]; then
    mmdebstrap --variant=extract --architectures=arm64 --include=python3.11,libstdc++6 \
        bookworm "$folder/root"
fi
if [ ! -e "$folder/site/numba" ]; then
    platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64
        --platform manylinux_2_26_aarch64 --platform manylinux2014_aarch64)
    python3 -m pip install --quiet --target "$folder/site" --python-version 3.11 \
        "${platforms[@]}" --only-binary=:all: \
        numba numpy safetensors click tqdm soundfile soxr sounddevice pytest hypothesis
fi

selected=(
    test_kernels.py::test_the_bits_of_every_version
    test_kernels.py::test_snake_and_tanh_have_the_bits_of_numpy
    test_kernels.py::test_the_fused_multiply_add_of_these_tests_rounds_once
    test_fast_convolution.py::test_the_bits_of_every_version
    "test_decoder.py::test_two_threads[yue2]"
    "test_decoder.py::test_cuts[yue2]"
    test_demo.py::test_sounds_as_it_was_heard
)
cd "$tests"
[ $# -gt 0 ] || set -- "${selected[@]}"
exec env PYTHONPATH="$folder/site:$tests/.." NUMBA_CACHE_DIR="$folder/kernels" \
    PYTHONDONTWRITEBYTECODE=1 \
    qemu-aarch64-static -L "$folder/root" "$folder/root/usr/bin/python3.11" -S -m pytest \
    -p no:cacheprovider -v --durations=0 "$@"
