#!/usr/bin/env bash
# One command reproduces the study: makes the environment if there is none, then runs what is not up to date.
set -euo pipefail
# Relative folders mean: from where the user stands.
for name in IGCONV_RESULTS IGCONV_DATA IGCONV_CACHE; do
  [[ -z ${!name:-} || ${!name} == [/~]* ]] || export "$name=$PWD/${!name}"
done
cd "$(dirname "$0")"

usage() {
  cat <<'TEXT'
usage: ./run_all.sh [sample|cpu|benchmark|paper|test] [--dry-run] [--jobs N] [--keep-going]
                     [--no-graphs] [--so-far] [--slurm] [--help]

  sample      (default) the whole study on photographs bundled with scikit-image, on any CPU
  cpu         the benchmark study at a budget for CPUs, some hours; what is committed in results/cpu
  benchmark   T91 + BSD200 + SunHays80, tested on Set5, Set14, B100, Urban100; one GPU
  paper       the paper's own protocol
  test        lint, types, unit tests, and every notebook on a shrunken study; further words go to pytest

  --dry-run     list the runs with their budgets and what is still to do
  --jobs N      CPU cores to use, and trainings side by side (default: all for sample and cpu, 1 otherwise)
  --keep-going  go on with independent steps after a failure
  --no-graphs   train without CUDA graphs on a GPU, too
  --so-far      train nothing: tables and report of the runs that are finished
  --slurm       send every step to a SLURM cluster (profiles/slurm/config.yaml)

Results: results/<profile>/, the report: results/<profile>/report/index.html
The first call makes .venv (some GB of PyTorch), unless an environment that imports igconv is active.
TEXT
}

profile=sample
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -* | "") ;;
  sample | cpu | benchmark | paper | smoke | test) profile=$1; shift ;;
  *) echo "error: unknown profile '$1'; choose from sample, cpu, benchmark, paper, test" >&2; exit 2 ;;
esac
for word in "$@"; do
  if [[ $word == -h || $word == --help ]]; then usage; exit 0; fi
done

find_python() {
  local candidate
  for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed and was not found" >&2
  exit 2
}

# The packages of pyproject.toml in .venv, by uv when it can be had. A stamp tells a finished installation from one
# that was interrupted, and from one for an older pyproject.toml.
make_venv() {
  local stamp wanted
  stamp=.venv/.installed
  wanted=$(cksum < pyproject.toml)
  [[ -x .venv/bin/python && -f $stamp && $(cat "$stamp") == "$wanted" ]] && return
  echo "making .venv (PyTorch and Jupyter; some GB, some minutes; with SRFormer's code, CC BY-NC: non-commercial use only)"
  [[ -x .venv/bin/python ]] || "$(find_python)" -m venv .venv
  if command -v uv > /dev/null; then
    uv pip install --quiet --python .venv/bin/python --editable ".[dev]"
  elif .venv/bin/python -m pip install --quiet uv; then
    .venv/bin/uv pip install --quiet --python .venv/bin/python --editable ".[dev]"
  else
    .venv/bin/python -m pip install --quiet --editable ".[dev]"
  fi
  echo "$wanted" > "$stamp"
}

# `cd /`: igconv must be installed in the active environment, not merely lie in this folder.
if [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]] && (cd / && python -c 'import igconv, snakemake, papermill') 2>/dev/null; then
  python=$(command -v python)
else
  make_venv
  python=$PWD/.venv/bin/python
fi

if [[ $profile == test ]]; then
  for word in "$@"; do
    if [[ $word == --dry-run || $word == --jobs || $word == --keep-going ||
      $word == --no-graphs || $word == --so-far || $word == --slurm ]]; then
      echo "error: $word is an option of the profiles; test hands its words to pytest" >&2
      exit 2
    fi
  done
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m basedpyright --pythonpath "$python"
  exec "$python" -m pytest "$@"
fi
exec "$python" -m igconv.workflow.driver "$profile" "$@"
