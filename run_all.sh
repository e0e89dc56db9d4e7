#!/usr/bin/env bash
# One command reproduces the study: makes the environment if there is none, then runs what is not up to date.
set -euo pipefail
# Relative folders mean: from where the user stands.
for name in IGCONV_RESULTS IGCONV_DATA IGCONV_CACHE; do
  [[ -z ${!name:-} || ${!name} == [/~]* ]] || export "$name=$PWD/${!name}"
done
# The checkout this file lies in, also when it was started by a link; CDPATH would lead elsewhere.
here=${BASH_SOURCE[0]}
while [[ -L $here ]]; do
  target=$(readlink "$here")
  [[ $target == /* ]] || target=$(dirname "$here")/$target
  here=$target
done
unset CDPATH
cd -P -- "$(dirname "$here")"

usage() {
  cat <<'TEXT'
usage: ./run_all.sh [sample|cpu|benchmark|paper|test|lab] [--dry-run] [--jobs N] [--keep-going]
                     [--no-graphs] [--so-far] [--slurm] [--help]

  sample      (default) the whole study on photographs bundled with scikit-image, on any CPU
  cpu         the benchmark study at a budget for CPUs, some hours; what is committed in results/cpu
  benchmark   T91 + BSD200 + SunHays80, tested on Set5, Set14, B100, Urban100; one GPU
  paper       the paper's own protocol
  test        lint, types, unit tests, and every notebook on a shrunken study; further words go to pytest
  lab         JupyterLab with the notebooks, `explore` open; further words go to it

  --dry-run     list the runs with their budgets and what is still to do
  --jobs N      CPU cores to use, and trainings side by side (default: all for sample and cpu, 1 otherwise)
  --keep-going  go on with independent steps after a failure
  --no-graphs   train without CUDA graphs on a GPU, too
  --so-far      train nothing: tables and report of the runs that are finished
  --slurm       send every step to a SLURM cluster (profiles/slurm/config.yaml)

Results: results/<profile>/, the report: results/<profile>/report/index.html
The first call makes .venv (some GB of PyTorch), unless an environment with this checkout's igconv is active.
TEXT
}

profile=sample
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -* | "") ;;
  sample | cpu | benchmark | paper | smoke | test | lab) profile=$1; shift ;;
  *) echo "error: unknown profile '$1'; choose from sample, cpu, benchmark, paper, test, lab" >&2; exit 2 ;;
esac
for word in "$@"; do
  if [[ $word == -h || $word == --help ]]; then usage; exit 0; fi
done

fail() {
  echo "error: $1" >&2
  exit 2
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
}

find_python() {
  local candidate
  for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and was not found"
}

# One line of what a command has said.
in_one_line() {
  tr -s '[:space:]' ' ' <<< "$1" | cut -c 1-300
}

# What the study cannot do without, by the names that are imported; half an installation lacks some of it.
packages=(torch torchvision lightning_fabric snakemake papermill ipykernel pandas matplotlib seaborn skimage tyro)

# The checkout whose igconv a Python runs; nothing if it lacks packages of the study. They are looked for and not
# imported, which would take seconds at every start. -I: by what is installed there alone.
checkout_of() {
  "$1" -I -c 'import os, sys
from importlib.util import find_spec
found = [find_spec(name) for name in sys.argv[1:]]
if all(spec and spec.origin and os.path.isfile(spec.origin) for spec in found):
    print(os.path.dirname(os.path.dirname(os.path.realpath(found[0].origin))))' igconv "${packages[@]}" 2> /dev/null || true
}

# Where .venv was made, if that was not here: its scripts still start what lies there.
made_elsewhere() {
  local maker
  if [[ -f .venv/.checkout ]]; then maker=$(cat .venv/.checkout); else maker=$(checkout_of .venv/bin/python); fi
  [[ -z $maker || $maker == "$PWD" ]] || echo "$maker"
}

make_venv_folder() {
  local maker python why
  maker=$(made_elsewhere)
  if [[ -z $maker ]] && is_new_enough .venv/bin/python; then return; fi
  # What is there is broken, half made or another checkout's, and is emptied; not behind a link, where others use it.
  [[ ! -L .venv ]] || fail ".venv is a link to an environment that does not work here (${maker:-broken}); remove it"
  if [[ -n $maker ]]; then
    echo ".venv was made for $maker; making it again"
  elif [[ -d .venv ]]; then
    echo ".venv has no Python that works here; making it again"
  fi
  python=$(find_python)
  why=$("$python" -m venv --clear .venv 2>&1) && return
  echo "$python -m venv fails: $(in_one_line "$why")" >&2
  uv venv --quiet --clear --python "$python" .venv 2> /dev/null && return
  why=$("$python" -m venv --clear --without-pip .venv 2>&1) ||
    fail "$python cannot make .venv: $(in_one_line "$why") (Debian: apt install python3-venv)"
}

# uv is fast; where it is missing or fails (a mirror that only pip knows, a cache it cannot write), pip.
install() {
  local python=.venv/bin/python uv="" why=""
  if command -v uv > /dev/null; then
    uv=uv
  elif [[ -x .venv/bin/uv ]] || "$python" -m pip install --quiet uv 2> /dev/null; then
    uv=.venv/bin/uv
  fi
  if [[ -n $uv ]]; then
    "$uv" pip install --quiet --python "$python" --editable ".[dev]" && return
    echo "uv could not install it; trying pip"
  fi
  "$python" -m pip --version > /dev/null 2>&1 || why=$("$python" -m ensurepip 2>&1) ||
    fail "neither uv nor pip can be had in .venv: $(in_one_line "$why") (Debian: apt install python3-venv; remove .venv)"
  "$python" -m pip install --quiet --editable ".[dev]" ||
    fail "the packages could not be installed; the same command tries again"
}

# The packages of pyproject.toml in .venv. A stamp tells a finished installation from one that was interrupted, and
# from one for an older pyproject.toml or another Python.
make_venv() {
  local wanted why
  make_venv_folder
  echo "$PWD" > .venv/.checkout
  wanted="$(cksum < pyproject.toml) $(.venv/bin/python -c 'import sys; print(*sys.version_info[:2])')"
  if [[ -f .venv/.installed && $(cat .venv/.installed) == "$wanted" ]]; then
    [[ $(checkout_of .venv/bin/python) != "$PWD" ]] || return 0
  fi
  echo "making .venv (PyTorch and Jupyter; some GB, some minutes; with SRFormer's code, CC BY-NC: non-commercial use)"
  rm -f .venv/.installed
  install
  [[ $(checkout_of .venv/bin/python) == "$PWD" ]] ||
    fail "the installation in .venv is not complete; remove .venv and try again"
  # Once, and not at every start: what is there can be imported, too.
  why=$(.venv/bin/python -I -c 'import igconv, snakemake, papermill' 2>&1) ||
    fail "the installation in .venv does not work: $(in_one_line "$(tail -n 1 <<< "$why")"); remove .venv and try again"
  echo "$wanted" > .venv/.installed
}

# Folders of PYTHONPATH with a package of our name would be mixed with ours.
clean_python_path() {
  local rest=${PYTHONPATH:-}: kept="" folder
  while [[ -n $rest ]]; do
    folder=${rest%%:*}
    rest=${rest#*:}
    if [[ -n $folder && ! $folder -ef $PWD && (-e $folder/igconv || -e $folder/igconv.py) ]]; then
      echo "PYTHONPATH: $folder has another igconv; left out" >&2
    elif [[ -n $folder ]]; then
      kept+=${kept:+:}$folder
    fi
  done
  if [[ -n $kept ]]; then export PYTHONPATH=$kept; else unset PYTHONPATH; fi
}

# Jupyter, IPython, Snakemake and Matplotlib keep files below the home; where that cannot be written, below the
# temporary folder. HOME itself stays where it exists: pip's settings may lie there.
find_writable_home() {
  local trial place
  if [[ -n ${HOME:-} ]] && trial=$(mktemp -d "$HOME/.igconv-XXXXXX" 2> /dev/null); then
    rmdir "$trial"
    return
  fi
  place=${TMPDIR:-/tmp}/igconv-home-$(id -u)
  mkdir -p -m 700 "$place" 2> /dev/null && [[ -O $place && ! -L $place && -w $place ]] || place=$(mktemp -d) ||
    fail "neither HOME nor ${TMPDIR:-/tmp} can be written"
  [[ -d ${HOME:-} ]] || export HOME=$place
  export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$place/cache} XDG_DATA_HOME=${XDG_DATA_HOME:-$place/data}
  export IPYTHONDIR=${IPYTHONDIR:-$place/ipython} MPLCONFIGDIR=${MPLCONFIGDIR:-$place/matplotlib}
  export JUPYTER_DATA_DIR=${JUPYTER_DATA_DIR:-$place/jupyter}
  export JUPYTER_RUNTIME_DIR=${JUPYTER_RUNTIME_DIR:-$place/jupyter/runtime}
}

clean_python_path
find_writable_home
# Where it is set, as in many container images, no process keeps what it compiles of the packages that uv has installed,
# and each of the hundreds that are started here compiles PyTorch's modules again: most of the time of a start.
unset PYTHONDONTWRITEBYTECODE
active=""
[[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]] || active=$(checkout_of python)
if [[ $active == "$PWD" ]]; then
  python=$(command -v python)
else
  [[ -z $active ]] || echo "the active environment runs igconv of $active; taking .venv of $PWD" >&2
  make_venv
  python=$PWD/.venv/bin/python
fi

if [[ $profile == lab ]]; then
  # This environment's kernel comes before one that is registered under the same name for another Python or checkout.
  kernels=$("$python" -c 'import sys; print(sys.prefix)')/share/jupyter
  export JUPYTER_PATH=$kernels${JUPYTER_PATH:+:$JUPYTER_PATH}
  # The explorer first; `lab 03_encoder_similarity.ipynb`, or another --LabApp.default_url, opens something else.
  exec "$python" -m jupyterlab --notebook-dir=notebooks --LabApp.default_url=/lab/tree/explore.ipynb "$@"
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
  # A process per core, but few: each holds PyTorch, and some tests train. `-n 0` is one process, for a debugger. One
  # thread in each: threads that wait for one another on the other process's core cost more than they bring.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  # A file stays in one process, which makes its fixtures once, and files come in the order of tests/conftest.py.
  exec "$python" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
fi
exec "$python" -m igconv.workflow.driver "$profile" "$@"
