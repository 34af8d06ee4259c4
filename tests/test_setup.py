"""The set-up script and the Makefile, in a copy of the checkout with a stand-in for Python.

The stand-in writes down every call. It plays `-m venv` and `-m pip` and passes the rest on to the
Python that runs the tests, so nothing is downloaded or installed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = f"""#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *"${{KILL_AT:-never}}"*)
        kill -9 $PPID
        sleep 0.3
        echo "end of the orphan" >> "$CALLS" ;;
    *"${{FAIL_AT:-never}}"*) echo "no such version"; exit 1 ;;
    *version_info*) echo "${{VERSION:-3.11}}" ;;
    "-m venv .venv") sleep "${{SLOW:-0}}"; mkdir .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip "*) ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""

# An environment of the user's own: its packages are empty modules that a test puts on its path.
OWN_PYTHON = f"""#!/bin/sh
echo "$*" >> "$CALLS"
exec "{sys.executable}" -S "$@"
"""
OWN_MODULES = ["numpy", "torch", "torchvision", "fvcore", "pycocotools"]
OWN_MODULES += ["cv2", "sklearn", "matplotlib", "detectron2"]
OWN_TEST_MODULES = [
    "pytest",
    "xdist",
    "pytest_timeout",
    "hypothesis",
    "ruff",
    "onnx",
    "onnxruntime",
    "safetensors",
]


class Checkout:
    def __init__(self, folder: Path):
        self.folder = folder / "checkout"
        self.calls_file = folder / "calls"
        self.bin = folder / "bin"
        for directory in (self.folder, self.bin):
            directory.mkdir()
        for name in ("requirements", "tools"):
            shutil.copytree(ROOT / name, self.folder / name)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        for name in ("python3.11", "python3"):
            self.write_program(self.bin / name, STAND_IN)

    @staticmethod
    def write_program(path, text):
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *command, **settings):
        # Of the caller's environment only the PATH: these tests run under make, with its variables.
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "CALLS": str(self.calls_file)} | settings
        return subprocess.Popen(
            command or ("tools/setup_env.sh", "test"),
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *command, **settings):
        """(exit status, standard output, standard error, what Python was called with)."""
        self.calls_file.write_text("")
        process = self.start(*command, **settings)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, self.calls()

    def calls(self):
        return self.calls_file.read_text().splitlines()

    def give_own_modules(self, names):
        own = self.folder.parent / "own"
        own.mkdir()
        for name in names:
            (own / f"{name}.py").touch()
        self.write_program(own / "python", OWN_PYTHON)
        return {"PYTHON": str(own / "python"), "PYTHONPATH": str(own)}


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def builds(calls):
    return calls.count("-m venv .venv")


def test_first_call_builds_and_second_starts_no_python_at_all(checkout):
    status, out, err, calls = checkout.run()
    assert (status, err, builds(calls)) == (0, "", 1)
    assert out.splitlines()[-1].startswith("set-up: done in")
    assert calls[-1] == "-m pip --no-input check"
    assert checkout.run() == (0, "", "", [])


def test_detectron2_is_installed_by_hash_and_without_its_dependencies(checkout):
    [call] = [call for call in checkout.run()[-1] if "detectron2.txt" in call]
    assert "--require-hashes" in call and "--no-deps" in call
    pin = (ROOT / "requirements/detectron2.txt").read_text().splitlines()[-1]
    assert re.fullmatch(r"sal-detectron2==0\.7\.2 --hash=sha256:[0-9a-f]{64}", pin)


@pytest.mark.parametrize(
    ("file", "old", "new", "rebuilds"),
    [
        ("requirements/lock.txt", "\nyacs==", "\nyacs==9", True),
        ("requirements/detectron2.txt", "0.7.2", "0.7.3", True),
        ("tools/setup_env.sh", "3 minutes", "4 minutes", True),
        ("pyproject.toml", '"fvcore>=', '"fvcore>', True),
        ("pyproject.toml", "line-length = 100", "line-length = 99", False),
        ("Makefile", "slow tests", "long tests", False),
    ],
)
def test_rebuilds_when_what_it_is_built_from_changes(checkout, file, old, new, rebuilds):
    checkout.run()
    (checkout.folder / ".venv" / "leftover").touch()
    text = (checkout.folder / file).read_text()
    assert old in text
    (checkout.folder / file).write_text(text.replace(old, new))
    status, _, _, calls = checkout.run()
    assert (status, builds(calls)) == (0, int(rebuilds))
    assert (checkout.folder / ".venv" / "leftover").exists() != rebuilds
    assert not (checkout.folder / ".venv.old").exists()
    assert checkout.run()[-1] == []


def test_rebuilds_when_the_checkout_was_moved(checkout):
    checkout.run()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("elsewhere"))
    assert builds(checkout.run()[-1]) == 1


def test_rebuilds_when_the_python_behind_it_is_gone(checkout):
    checkout.run()
    python = checkout.folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert builds(checkout.run()[-1]) == 1


@pytest.mark.parametrize(
    "step",
    [
        "-m venv",
        "setuptools",
        "--requirement requirements/lock",
        "--target",
        "--editable",
        "t check",
    ],
)
def test_killed_at_any_step_it_is_repaired_by_the_next_call(checkout, step):
    assert checkout.run(KILL_AT=step)[0] == -9
    (checkout.folder / ".venv" / "leftover").touch()
    assert not (checkout.folder / ".venv/stamp").read_text()

    # Not checkout.run(), which clears the calls: what the killed set-up had started still lives,
    # and must have ended before the repair begins.
    process = checkout.start()
    _, err = process.communicate(timeout=60)
    calls = checkout.calls()
    assert (process.returncode, err) == (0, "")
    assert not (checkout.folder / ".venv" / "leftover").exists()
    assert calls[calls.index("end of the orphan") :].count("-m venv .venv") == 1
    assert checkout.run() == (0, "", "", [])


def test_killed_before_the_stamp_was_there_it_is_repaired(checkout):
    (checkout.folder / ".venv").mkdir()
    status, _, _, calls = checkout.run()
    assert (status, builds(calls)) == (0, 1)


def test_a_failed_step_shows_the_end_of_the_log_and_is_repaired(checkout):
    status, out, err, _ = checkout.run(FAIL_AT="--target")
    log = checkout.folder / ".venv-setup.log"
    assert status == 1
    assert "done" not in out
    assert err.splitlines()[-2:] == [
        "no such version",
        f"set-up: this step failed; the whole log is {log}",
    ]
    status, _, _, calls = checkout.run()
    assert (status, builds(calls)) == (0, 1)


def test_two_at_once_build_once(checkout):
    processes = [checkout.start(SLOW="0.5") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [err for _, err in outputs] == ["", ""]
    assert builds(checkout.calls()) == 1


def test_an_environment_that_make_did_not_build_is_left_alone(checkout):
    keep = checkout.folder / ".venv" / "pyvenv.cfg"
    keep.parent.mkdir()
    keep.touch()
    status, _, err, calls = checkout.run()
    assert (status, builds(calls)) == (1, 0)
    assert keep.exists()
    assert (
        err.startswith("set-up: .venv is there but was not built by make") and err.count("\n") == 1
    )


def test_another_python_than_the_pins_are_for_is_one_sentence(checkout):
    status, _, err, calls = checkout.run(VERSION="3.12")
    assert (status, builds(calls)) == (1, 0)
    assert "pinned for Python 3.11, but python3 is Python 3.12" in err and err.count("\n") == 1


def test_own_environment_is_used_as_it_is(checkout):
    own = checkout.give_own_modules(OWN_MODULES + OWN_TEST_MODULES)
    status, out, err, calls = checkout.run(**own)
    assert (status, err) == (0, "")
    assert out.startswith("set-up: using ") and out.count("\n") == 1
    assert not any("pip" in call or "venv" in call for call in calls)
    assert not list(checkout.folder.glob(".venv*"))


@pytest.mark.parametrize(
    ("target", "missing", "named"),
    [
        ("demo", "sklearn", "-m pip install scikit-learn"),
        ("test", "pytest_timeout", "-m pip install pytest-timeout"),
        ("demo", "pytest_timeout", None),
        ("demo", "detectron2", "detectron2 does not import"),
    ],
)
def test_own_environment_lacks_a_module(checkout, target, missing, named):
    modules = set(OWN_MODULES + OWN_TEST_MODULES) - {missing}
    own = checkout.give_own_modules(sorted(modules))
    status, _, err, calls = checkout.run("tools/setup_env.sh", target, **own)
    assert not any("pip" in call for call in calls)
    if named is None:
        assert (status, err) == (0, "")
    else:
        assert status == 1
        assert named in err and err.count("\n") == 1


def test_own_python_that_is_none_is_one_sentence(checkout):
    status, _, err, _ = checkout.run(PYTHON="/nowhere/python")
    assert status == 1
    assert err == "set-up: PYTHON=/nowhere/python is not a Python (3.10 or later) that runs\n"


def test_make_runs_the_checkout_in_an_own_environment(checkout):
    """The package is not installed there, so make must put the checkout on the path."""
    (checkout.folder / "enl_detectron2").mkdir()
    (checkout.folder / "enl_detectron2" / "__init__.py").touch()
    (checkout.folder / "enl_detectron2" / "digits").mkdir()
    script = "import detectron2, enl_detectron2; print('package:', enl_detectron2.__file__)"
    (checkout.folder / "enl_detectron2" / "digits" / "demo.py").write_text(script)
    own = checkout.give_own_modules(OWN_MODULES)
    status, out, err, _ = checkout.run("make", "demo", **own)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"package: {checkout.folder}/enl_detectron2/__init__.py"


def test_make_names_every_target_in_its_help(checkout):
    status, out, err, _ = checkout.run("make")
    assert (status, err) == (0, "")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert re.findall(r"^  make ([a-z-]+) +\S", out, re.MULTILINE) == targets.split()


def test_every_pin_is_exact_and_within_the_declared_ranges():
    tomllib = pytest.importorskip("tomllib")
    lines = (ROOT / "requirements/lock.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins)
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    assert len(pinned) == len(pins)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    for requirement in map(Requirement, declared):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), (
                requirement
            )
