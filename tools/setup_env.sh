#!/usr/bin/env bash
# Builds .venv, once; the Makefile calls it before each target. After it only a changed lock or a moved checkout takes time.
#
#   tools/setup_env.sh demo|test
#
# "test" adds the tests' packages to the demo's. Versions are those of requirements/lock.txt. PyTorch is the build for CPUs
# where no NVIDIA GPU answers, a fifth of the other; TORCH_INDEX=URL takes it from another index, TORCH_INDEX= from pip's.
set -euo pipefail
unset CDPATH PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX # would send packages elsewhere, or bring in others
export PIP_USER=0
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

target=$1 log=.venv-setup.log
say() { echo "set-up: $*"; }
stop() { say "$@" >&2; exit 1; }

# What .venv was built from is written into it last, so that one that was cut short never passes for a whole one. The path
# belongs to it because a virtual environment can't be moved; of pyproject.toml all that is installed from.
wanted=$(pwd -P
         cat requirements/lock.in requirements/lock.txt requirements/detectron2.txt tools/setup_env.sh
         sed '/^\[tool\.ruff/,$d' pyproject.toml)
built() { [ -x .venv/bin/python ] && [ "$(cat .venv/stamp 2>/dev/null)" = "$1 $wanted" ]; }
ready() { built test || built "$target"; }
ready && exit

base= found="no python3 is installed"
for candidate in python3 python3.11 python3.12 python3.13 python3.10; do
    # Running it is the test: a version manager's shim may be on the PATH and still have no Python behind it.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in 3.10 | 3.11 | 3.12 | 3.13) base=$candidate; break ;; esac
    if [ "$candidate" = python3 ]; then found="python3 is Python $version"; fi
done
[ -n "$base" ] || stop "the default environment is pinned for Python 3.10 to 3.13, but $found:" \
    "install one of these, or use an environment of your own with PYTHON=/path/to/python make $target"

# One set-up at a time. The lock is on the open log, which whatever this script starts holds, too: if the script alone is
# killed, the next one waits for the pip left behind.
exec 9>>$log
if command -v flock >/dev/null && ! flock -n 9; then
    say "waiting for another set-up of this checkout to end"
    flock 9
    ready && exit
fi
: >$log

# Shows what is fetched; the log has it all. Only the display depends on how pip and uv word that.
try() {
    say "$1"
    shift
    "$@" 2>&1 </dev/null | while IFS= read -r line; do
        printf '%s\n' "$line" >>$log
        case $line in
            *Downloading\ *) line=${line#*Downloading }; echo "  ${line##*/}" ;;
            Installing\ collected*) echo "  unpacking" ;;
        esac
    done
}
step() { try "$@" || { tail -n 15 $log >&2; stop "this step failed; the whole log is $PWD/$log"; }; }
pip() { .venv/bin/python -m pip --no-input "$@"; }
# PyTorch of an index of its own, by uv, which knows PyTorch's.
by_uv() { .venv/uv/bin/uv pip install --python .venv --no-deps "$@" $(grep -E '^torch(vision)?==' requirements/lock.txt); }
ask() { # within seconds; what is fetched then may take its time
    pip install --target .venv/uv uv==0.13.9 &&
        UV_HTTP_CONNECT_TIMEOUT=5 UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 by_uv "$1" --dry-run
}
pytorch() { # without its own tests and a compiler that nobody asks for, a fifth of that build
    by_uv "$1" && rm -rf .venv/uv .venv/lib/*/site-packages/torch/{test,bin/*[tT]est*,bin/protoc*}
}
packages() {
    # No isolation: what comes as source is built by the pinned setuptools. No bytecode of what nobody imports.
    pip install --constraint requirements/lock.txt --no-compile setuptools hatchling &&
        pip install --constraint requirements/lock.txt --no-build-isolation --use-pep517 --no-compile \
            --requirement requirements/lock.in --editable ".[$1]"
}
detectron2() {
    # The wheel's tag says Python 3.10 (see the file for why that is right); pip overrides tags only with --target.
    local site
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') &&
        pip install --no-deps --require-hashes --python-version 3.10 --only-binary=:all: --target "$site" \
            --requirement requirements/detectron2.txt &&
        rm -f "$site"/detectron2/_C.* # built for another PyTorch; without it detectron2 is pure Python everywhere
}

extras=demo,safetensors
if [ "$target" = test ]; then extras=test; fi
if built demo; then
    : >.venv/stamp
    step "adding the tests' packages to .venv, some 0.1 GB" packages $extras
else
    if [ -e .venv ]; then # what make built goes away; anything else is the user's
        [ -e .venv/stamp ] || stop ".venv is there but was not built by make: use it with" \
            "PYTHON=.venv/bin/python make $target, or move it away"
        : >.venv/stamp
        find .venv -mindepth 1 -maxdepth 1 ! -name stamp -exec rm -rf {} +
    fi
    rm -rf .venv-optional .venv-official .venv-app # they stand on .venv
    say "building .venv with $base (Python $version), once; PYTHON=/path/to/python make $target uses your environment instead"
    mkdir -p .venv && : >.venv/stamp
    step "1/4 virtual environment" "$base" -m venv .venv
    with_cuda="PyTorch with CUDA from pip's index: downloads 3.2 GB and fills 6.0 GB of disk"
    index=
    if [ -n "${TORCH_INDEX:-}" ]; then
        index=--default-index=$TORCH_INDEX what="PyTorch from $TORCH_INDEX" cost=
    elif [ "$(uname -s)" != Linux ]; then
        what="PyTorch from pip's index: downloads some 0.3 GB"
    elif [ -n "${TORCH_INDEX-unset}" ] && ! nvidia-smi -L >/dev/null 2>&1; then
        index=--torch-backend=cpu what="no NVIDIA GPU answers, so PyTorch for CPUs from PyTorch's index"
        cost=": downloads some 0.4 GB and fills 1.0 GB of disk"
    else
        what=$with_cuda
    fi
    if [ -z "$index" ]; then
        say "2/4 $what"
    elif try "2/4 $what, if it answers" ask "$index"; then
        step "it answers$cost" pytorch "$index"
    else
        say "it doesn't ($log says why), so $with_cuda"
    fi
    step "3/4 this package and what it needs" packages $extras
    step "4/4 detectron2 (requirements/detectron2.txt)" detectron2
fi
printf '%s\n' "$target $wanted" >.venv/stamp
say "done in $SECONDS s"
