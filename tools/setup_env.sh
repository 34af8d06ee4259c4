#!/usr/bin/env bash
# Makes sure that there is an environment to run in; the Makefile calls it before each target.
#
#   tools/setup_env.sh demo|test|official
#
# Default: .venv, built once from requirements/ and then reused. Its stamp, a file inside, says what it was built from. The
# stamp is empty until the very last step, so an environment whose set-up was cut short never passes for a whole one: the
# next call builds it again. "official" then builds .venv-official on top of .venv: the detectron2 of the checkout
# DETECTRON2=/path, with its compiled operators, comes before .venv's packages; all others are .venv's.
# With PYTHON=/path/to/python that environment is looked at, and nothing is installed in it.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

stop() { echo "set-up: $*" >&2; exit 1; }

target=$1
if [ -n "${PYTHON:-}" ]; then
    [ "$target" != official ] || stop "make test-official has an environment of its own: call it without PYTHON," \
        "or test the detectron2 that $PYTHON has by make test"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        stop "PYTHON=$PYTHON is not a Python (3.10 or later) that runs"
    exec "$PYTHON" tools/check_env.py "$target"
fi
if [ "$target" = official ]; then
    [ -n "${DETECTRON2:-}" ] || stop "say where your checkout of detectron2 is: make test-official DETECTRON2=/path/to/it"
    [ -f "$DETECTRON2/detectron2/layers/csrc/vision.cpp" ] ||
        stop "DETECTRON2=$DETECTRON2 is no checkout of detectron2: it has no detectron2/layers/csrc"
    DETECTRON2=$(cd -- "$DETECTRON2" && pwd -P)
fi

log=.venv-setup.log

# The path belongs to it because a virtual environment cannot be moved; of pyproject.toml all that is installed from.
wanted=$(pwd -P
         cat requirements/lock.txt requirements/detectron2.txt tools/setup_env.sh
         sed '/^\[tool\.ruff/,$d' pyproject.toml)
official_sources() { (cd -- "$DETECTRON2" && find setup.py detectron2 projects -type f \
    \( -name '*.py' -o -path '*/csrc/*' \) -exec cksum {} + | LC_ALL=C sort); }
wanted_official() {
    echo "$wanted"
    echo "$DETECTRON2"
    official_sources | cksum
}
ready() { [ -x "$1/bin/python" ] && [ "$(cat "$1/stamp" 2>/dev/null)" = "$2" ]; }
step() {
    echo "set-up: $1"
    shift
    "$@" >>$log 2>&1 </dev/null || {
        tail -n 15 $log >&2
        stop "this step failed; the whole log is $PWD/$log"
    }
}
# As step, and shows what pip fetches and unpacks. Only the display depends on how pip words that.
step_with_progress() {
    echo "set-up: $1"
    shift
    "$@" 2>&1 </dev/null | tee -a $log | awk '
        /^ *(Downloading|Using cached|Processing) / {
            sub(/ *\(from .*/, ""); sub(/^ */, ""); sub(/[^ ]*\//, "")
            printf "  %3d %s\n", ++count, $0; fflush()
        }
        /^ *Installing collected/ { print "      unpacking"; fflush() }' || {
        tail -n 15 $log >&2
        stop "this step failed; the whole log is $PWD/$log"
    }
}
pip() { .venv/bin/python -m pip --no-input "$@"; }
install_pins() {
    # setuptools first, and no isolation: what comes as source is then built by the pinned setuptools, not the newest.
    pip install --constraint requirements/lock.txt setuptools &&
        pip install --no-deps --no-build-isolation --use-pep517 --requirement requirements/lock.txt
}
install_project() { pip install --no-deps --no-build-isolation --editable . && pip check; }
install_detectron2() {
    # The wheel's tag says Python 3.10 (see the file for why that is right); pip overrides tags only with --target.
    local site
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || return
    pip install --no-deps --require-hashes --python-version 3.10 --only-binary=:all: --target "$site" \
        --requirement requirements/detectron2.txt || return
    # Built for another PyTorch and for Linux on x86-64. Without it detectron2 is pure Python on 3.10 as elsewhere.
    rm -f "$site"/detectron2/_C.*
}
build_official() {
    # From a copy, since the build writes into what it builds from.
    mkdir .venv-official/source &&
        (cd -- "$DETECTRON2" && tar -cf - --exclude ./.git --exclude ./build --exclude '*.so' .) |
        tar -xf - -C .venv-official/source &&
        .venv-official/bin/python -m pip --no-input install --no-deps --no-build-isolation .venv-official/source &&
        .venv-official/bin/python -m pip --no-input install --no-deps --no-build-isolation --editable . &&
        .venv-official/bin/python -c 'import torch, detectron2._C'
}
# What make built goes away; anything else is the user's.
clear_away() {
    rmdir "$1" 2>/dev/null || true # empty: cut short before the stamp was there
    if [ -e "$1" ]; then
        [ -e "$1/stamp" ] || stop "$1 is there but was not built by make: use it with" \
            "PYTHON=$1/bin/python make $target, or move it away"
        # Renamed before it is removed, so that no half-removed one without a stamp can be left behind.
        rm -rf "$1.old"
        mv "$1" "$1.old"
    fi
    rm -rf "$1.old"
}

is_ready() {
    ready .venv "$wanted" && { [ "$target" != official ] || ready .venv-official "$(wanted_official)"; }
}
if is_ready; then exit; fi

# Settings of the caller that would send packages elsewhere than into .venv, or bring in others.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
export PIP_USER=0

base=
found="no python3 is installed"
for candidate in python3 python3.11 python3.12 python3.13 python3.10; do
    # Running it is the test: a version manager's shim may be on the PATH and still have no Python behind it.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
        3.10 | 3.11 | 3.12 | 3.13) base=$candidate; break ;;
    esac
    if [ "$candidate" = python3 ]; then found="python3 is Python $version"; fi
done
[ -n "$base" ] || stop "the default environment is pinned for Python 3.10 to 3.13, but $found:" \
    "install one of these, or use an environment of your own with PYTHON=/path/to/python make $target"

# One set-up at a time. The lock is on the open log, so whatever this script starts holds it too: if the script alone is
# killed, the next one waits for the pip left behind. (Python takes the lock since not every system has flock(1).)
exec 9>>$log
"$base" -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("set-up: waiting for another set-up of this checkout to end", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)'
if is_ready; then exit; fi
: >$log

if ! ready .venv "$wanted"; then
    clear_away .venv
    clear_away .venv-official # it and the next stand on .venv
    rm -rf .venv-optional
    case $(uname -s) in
        Linux) size="downloads about 3.3 GB, nearly all of it PyTorch with CUDA, and fills 6.2 GB of disk" ;;
        *) size="downloads about 0.3 GB" ;; # the wheels for macOS
    esac
    echo "set-up: building .venv with $base (Python $version), once: this $size."
    echo "set-up: PYTHON=/path/to/python make $target uses an environment of yours instead, such as one with the much" \
        "smaller PyTorch for CPUs only."
    mkdir .venv
    : >.venv/stamp
    step "1/4 virtual environment" "$base" -m venv .venv
    step_with_progress "2/4 pinned packages (requirements/lock.txt)" install_pins
    step "3/4 this package, and a check that all versions agree" install_project
    step "4/4 detectron2 (requirements/detectron2.txt)" install_detectron2
    printf '%s\n' "$wanted" >.venv/stamp
    echo "set-up: done in $SECONDS s"
fi
if [ "$target" = official ] && ! ready .venv-official "$(wanted_official)"; then
    clear_away .venv-official
    mkdir .venv-official
    : >.venv-official/stamp
    step "1/2 an environment on top of .venv" "$base" -m venv --without-pip .venv-official
    # A path file adds .venv's packages, pip among them, behind the environment's own.
    for python in .venv-official .venv; do
        $python/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
    done | { read -r own; read -r shared; echo "$shared" >"$own/of-venv.pth"; }
    step "2/2 detectron2 of $DETECTRON2, with compiled operators (minutes; progress: tail -f $log)" build_official
    wanted_official >.venv-official/stamp
    echo "set-up: done in $SECONDS s"
fi
