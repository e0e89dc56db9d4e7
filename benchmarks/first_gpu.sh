#!/usr/bin/env bash
# What the first hour of GPU time is for, in order: tests, rates, one profile, then block A as far as it gets.
# The same command goes on where it stopped. Needs torch, lightning, scikit-image, pandas, safetensors and pytest.
#   benchmarks/first_gpu.sh [--minutes N] [--part-mib N] [--parts tests,rates,profile,runs] [--out FOLDER]
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/first_gpu.py "$@"
