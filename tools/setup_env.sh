#!/usr/bin/env bash
# Makes sure that there is an environment to run in; the Makefile calls it before each target.
#
#   tools/setup_env.sh demo|test
#
# Default: .venv, built once from requirements/ and then reused. .venv/stamp says what it was built from. It is empty
# until the very last step, so an environment whose set-up was cut short never passes for a whole one: the next call
# builds it again. With PYTHON=/path/to/python that environment is looked at, and nothing is installed in it.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

stop() { echo "set-up: $*" >&2; exit 1; }

if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        stop "PYTHON=$PYTHON is not a Python (3.10 or later) that runs"
    exec "$PYTHON" tools/check_env.py "$1"
fi

log=.venv-setup.log

# The path belongs to it because a virtual environment cannot be moved; of pyproject.toml all that is installed from.
wanted=$(pwd -P
         cat requirements/lock.txt requirements/detectron2.txt tools/setup_env.sh
         sed '/^\[tool\.ruff/,$d' pyproject.toml)
ready() { [ -x .venv/bin/python ] && [ "$(cat .venv/stamp 2>/dev/null)" = "$wanted" ]; }
step() {
    echo "set-up: $1"
    shift
    "$@" >>$log 2>&1 </dev/null || {
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
install_detectron2() {
    # The wheel's tag says Python 3.10 (see the file for why that is right); pip overrides tags only with --target.
    pip install --no-deps --require-hashes --python-version 3.10 --only-binary=:all: \
        --target "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        --requirement requirements/detectron2.txt
}
install_project() { pip install --no-deps --no-build-isolation --editable . && pip check; }

if ready; then exit; fi

# Settings of the caller that would send packages elsewhere than into .venv, or bring in others.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
export PIP_USER=0

base=
found="no python3 is installed"
for candidate in python3.11 python3; do
    # Running it is the test: a version manager's shim may be on the PATH and still have no Python behind it.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if [ "$version" = 3.11 ]; then base=$candidate; break; fi
    found="$candidate is Python $version"
done
[ -n "$base" ] || stop "the default environment is pinned for Python 3.11, but $found:" \
    "install Python 3.11, or use an environment of your own with PYTHON=/path/to/python make $1"

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
if ready; then exit; fi

rmdir .venv 2>/dev/null || true # empty: cut short before the stamp was there
if [ -e .venv ]; then
    [ -e .venv/stamp ] || stop ".venv is there but was not built by make: use it with PYTHON=.venv/bin/python make $1," \
        "or move it away"
    # Renamed before it is removed, so that no half-removed .venv without a stamp can be left behind.
    rm -rf .venv.old
    mv .venv .venv.old
fi
rm -rf .venv.old
: >$log
echo "set-up: building .venv with $base, once; about 3 minutes and 6 GB (progress: tail -f $log)"
mkdir .venv
: >.venv/stamp
step "1/4 virtual environment" "$base" -m venv .venv
step "2/4 pinned packages (requirements/lock.txt)" install_pins
step "3/4 detectron2 (requirements/detectron2.txt)" install_detectron2
step "4/4 this package, and a check that all versions agree" install_project
printf '%s\n' "$wanted" >.venv/stamp
echo "set-up: done in $SECONDS s"
