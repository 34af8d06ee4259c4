"""The set-up script and the Makefile, in a copy of the checkout with a stand-in for Python.

The stand-in writes down every call. It plays `-m venv` and `-m pip`, has a folder of its own for
packages, and passes the rest on to the Python that runs the tests. So nothing is downloaded, and
nothing changes the environment of the tests.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = f"""#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *"${{KILL_AT:-never}}"*)
        kill -9 "$(cat "$CALLS.script")"
        sleep 0.3
        echo "end of the orphan" >> "$CALLS" ;;
    *"${{FAIL_AT:-never}}"*) echo "no such version"; exit 1 ;;
    *version_info*)
        case "$0" in *python3) echo "${{VERSION:-3.11}}" ;; *) echo "${{0##*python}}" ;; esac ;;
    "-m venv "*)
        sleep "${{SLOW:-0}}"
        for folder do :; done  # the last argument
        mkdir "$folder/bin"; cp "$0" "$folder/bin/python" ;;
    "-m pip "*) ;;
    *sysconfig*) site="$PWD/${{0%/bin/python}}/site"; mkdir -p "$site"; echo "$site" ;;
    *detectron2._C*) ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""

# An environment of the user's own: its packages are empty modules that a test puts on its path.
OWN_PYTHON = f"""#!/bin/sh
echo "$*" >> "$CALLS"
exec "{sys.executable}" -S "$@"
"""
OWN_MODULES = ["numpy", "torch", "torchvision", "fvcore", "pycocotools"]
OWN_MODULES += ["cv2", "sklearn", "matplotlib", "safetensors", "efficientnet_lite_pytorch"]
OWN_MODULES += ["detectron2"]
OWN_TEST_MODULES = [
    "pytest",
    "xdist",
    "pytest_timeout",
    "hypothesis",
    "ruff",
    "mypy",
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
        self.write_program(self.bin / "python3", STAND_IN)
        for name in ("python3.10", "python3.11", "python3.12", "python3.13"):
            self.write_program(self.bin / name, "#!/bin/sh\nexit 127\n")  # as if not installed

    @staticmethod
    def write_program(path, text):
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *command, **settings):
        # Of the caller's environment only the PATH: these tests run under make, with its variables.
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "CALLS": str(self.calls_file)} | settings
        note_pid = ["sh", "-c", 'echo $$ >"$CALLS.script"; exec "$@"', "sh"]
        return subprocess.Popen(
            [*note_pid, *(command or ("tools/setup_env.sh", "test"))],
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
    assert calls.count("-m pip --no-input check") == 1
    assert checkout.run() == (0, "", "", [])


def test_detectron2_is_left_without_operators_compiled_for_another_pytorch(checkout):
    """On Python 3.10 they would be picked up."""
    compiled = checkout.folder / ".venv/site/detectron2/_C.cpython-310-x86_64-linux-gnu.so"
    unpack = (
        f'"-m pip "*--target*) mkdir {compiled.parent}; touch {compiled} ;;\n    "-m pip "*) ;;'
    )
    stand_in = STAND_IN.replace('"-m pip "*) ;;', unpack)
    checkout.write_program(checkout.bin / "python3", stand_in)
    status, _, err, _ = checkout.run()
    assert (status, err) == (0, "")
    assert compiled.parent.is_dir() and not compiled.exists()


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
        ("tools/setup_env.sh", "downloads about", "fetches some", True),
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
        "import sysconfig",
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


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_the_python_that_is_python3_is_taken(checkout, version):
    checkout.write_program(checkout.bin / "python3.11", STAND_IN)
    status, out, err, calls = checkout.run(VERSION=version)
    assert (status, err, builds(calls)) == (0, "", 1)
    assert f"with python3 (Python {version})" in out


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_another_python_that_will_do_is_found(checkout, version):
    checkout.write_program(checkout.bin / "python3.12", STAND_IN)
    status, out, err, calls = checkout.run(VERSION=version)
    assert (status, err, builds(calls)) == (0, "", 1)
    assert "with python3.12 (Python 3.12)" in out


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_a_python_that_will_not_do_is_one_sentence(checkout, version):
    status, _, err, calls = checkout.run(VERSION=version)
    assert (status, builds(calls)) == (1, 0)
    assert f"pinned for Python 3.10 to 3.13, but python3 is Python {version}" in err
    assert err.count("\n") == 1


def test_what_is_downloaded_is_said_before(checkout):
    status, out, _, _ = checkout.run(FAIL_AT="-m venv")
    assert status == 1
    assert re.search(r"downloads about [\d.]+ GB", out)
    assert "PYTHON=/path/to/python make test" in out


def test_each_fetched_file_is_shown_with_its_size(checkout):
    """As pip prints them; what is not a file stays in the log."""
    printed = "Collecting torch==2\\n  Downloading torch-2.whl (554.6 MB)\\nInstalling collected"
    stand_in = STAND_IN.replace('"-m pip "*) ;;', f'"-m pip "*) printf "{printed}" ;;')
    checkout.write_program(checkout.bin / "python3", stand_in)
    status, out, err, _ = checkout.run()
    assert (status, err) == (0, "")
    assert "\n    1 Downloading torch-2.whl (554.6 MB)\n" in out
    assert "Collecting" not in out
    assert "Collecting" in (checkout.folder / ".venv-setup.log").read_text()


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
    (checkout.folder / "demo").mkdir()
    script = "import detectron2, enl_detectron2; print('package:', enl_detectron2.__file__)"
    (checkout.folder / "demo" / "look.py").touch()
    (checkout.folder / "demo" / "digits.py").write_text(script)
    own = checkout.give_own_modules(OWN_MODULES)
    status, out, err, _ = checkout.run("make", "demo", **own)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"package: {checkout.folder}/enl_detectron2/__init__.py"


def test_make_names_every_target_in_its_help(checkout):
    status, out, err, _ = checkout.run("make")
    assert (status, err) == (0, "")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert re.findall(r"^  make ([a-z-]+) +\S", out, re.MULTILINE) == targets.split()


def give_detectron2(checkout):
    """A folder that has what is looked for in a checkout of detectron2."""
    folder = checkout.folder.parent / "detectron2-checkout"
    for name in ("detectron2/layers/csrc/vision.cpp", "setup.py", "projects/a.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


OFFICIAL = ("tools/setup_env.sh", "official")


def test_an_official_detectron2_is_built_on_top_once(checkout):
    source = give_detectron2(checkout)
    status, out, err, calls = checkout.run(*OFFICIAL, DETECTRON2=str(source))
    assert (status, err, builds(calls)) == (0, "", 1)
    assert any(call.endswith("--no-build-isolation .venv-official/source") for call in calls)
    assert not list(source.glob("build*"))
    path_file = checkout.folder / ".venv-official/site/of-venv.pth"
    assert path_file.read_text() == f"{checkout.folder}/.venv/site\n"
    assert builds(checkout.run(*OFFICIAL, DETECTRON2=str(source))[-1]) == 0
    assert checkout.run() == (0, "", "", [])  # .venv is there for the other targets


def test_an_official_detectron2_is_built_anew_when_its_source_changes(checkout):
    source = give_detectron2(checkout)
    checkout.run(*OFFICIAL, DETECTRON2=str(source))
    (source / "detectron2/layers/csrc/vision.cpp").write_text("// changed")
    calls = checkout.run(*OFFICIAL, DETECTRON2=str(source))[-1]
    assert (builds(calls), calls.count("-m venv --without-pip .venv-official")) == (0, 1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "make test-official DETECTRON2=/path"),
        ({"DETECTRON2": "/nowhere"}, "DETECTRON2=/nowhere is no checkout of detectron2"),
        ({"DETECTRON2": "/nowhere", "PYTHON": sys.executable}, "call it without PYTHON"),
    ],
)
def test_an_official_detectron2_that_is_none_is_one_sentence(checkout, settings, named):
    status, _, err, calls = checkout.run(*OFFICIAL, **settings)
    assert (status, calls) == (1, [])
    assert named in err and err.count("\n") == 1


def test_the_files_that_make_names_are_there():
    named = re.findall(
        r"(?:tests|tools|examples|requirements)/[\w./]+", (ROOT / "Makefile").read_text()
    )
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_pin_is_exact_and_within_the_declared_ranges(python):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    lines = (ROOT / "requirements/lock.txt").read_text().splitlines()
    machine = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins)
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    assert len(pinned) == len(pins)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    declared += detectron2_needs()
    for requirement in map(Requirement, declared):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), (
                requirement
            )


def detectron2_needs():
    """What the installed detectron2 declares, but for NumPy's range: see requirements/lock.in."""
    names = set(packages_distributions()["detectron2"])
    needs = [Requirement(need) for name in names for need in requires(name) or []]
    return [
        str(need)
        for need in needs
        if need.name != "numpy" and (need.marker is None or need.marker.evaluate({"extra": ""}))
    ]
