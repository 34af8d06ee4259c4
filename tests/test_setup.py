"""The set-up script and the Makefile, in a copy of the checkout with a stand-in for Python.

The stand-in writes down every call and plays `-m venv`, `-m pip` and uv; nothing is downloaded. One
slow test lets the real ones choose between two indexes.
"""

import functools
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
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
        kill -9 "$(cat "$CALLS.script")"; sleep 0.3; echo "end of the orphan" >> "$CALLS" ;;
    *"${{FAIL_AT:-never}}"*) echo "no such version"; exit 1 ;;
    *version_info*) case "$0" in *python3) echo "${{VERSION:-3.11}}" ;; *) echo "3.12" ;; esac ;;
    "-m venv "*) mkdir .venv/bin; cp "$0" .venv/bin/python ;;
    *" .venv/uv "*) mkdir -p .venv/uv/bin; cp "$0" .venv/uv/bin/uv ;;
    *sysconfig*) echo "$PWD/.venv/site" ;;
    "-m pip "*) echo "  Downloading torch-2.whl (554.6 MB)" ;;
    "pip install "*) ;; # uv
    *) exec "{sys.executable}" -S "$@" ;;
esac
"""


class Checkout:
    def __init__(self, folder: Path):
        self.folder, self.bin, self.log = folder / "checkout", folder / "bin", folder / "calls"
        for name in ("requirements", "tools"):
            shutil.copytree(ROOT / name, self.folder / name)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        self.bin.mkdir()
        for name in ("python3.10", "python3.11", "python3.13", "nvidia-smi"):  # as if not installed
            self.program(name, "#!/bin/sh\nexit 127\n")
        self.program("python3", STAND_IN)
        self.program("python3.12", STAND_IN)

    def program(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *command, **settings):
        # Of the caller's environment only the PATH: these tests run under make, with its variables.
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        note_pid = ["sh", "-c", 'echo $$ >"$CALLS.script"; exec "$@"', "sh"]
        return subprocess.Popen(
            [*note_pid, *(command or ("tools/setup_env.sh", "test"))],
            cwd=self.folder,
            env={"PATH": path, "CALLS": str(self.log)} | settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *command, **settings):
        """(exit status, standard output, standard error, what Python was called with)."""
        self.log.write_text("")
        process = self.start(*command, **settings)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def builds(calls):
    return calls.count("-m venv .venv")


def test_the_first_call_builds_and_the_next_starts_no_python_at_all(checkout):
    status, out, err, calls = checkout.run("tools/setup_env.sh", "demo")
    assert (status, err, builds(calls)) == (0, "", 1)
    assert "\n  torch-2.whl (554.6 MB)\n" in out
    assert [call for call in calls if "--require-hashes" in call and "--no-deps" in call]
    assert checkout.run("tools/setup_env.sh", "demo") == (0, "", "", [])
    _, _, _, calls = checkout.run()
    assert builds(calls) == 0 and any("--editable .[test]" in call for call in calls)


def test_it_is_rebuilt_when_what_it_is_built_from_changes(checkout):
    checkout.run()
    for file, old, rebuilds in (
        ("requirements/lock.txt", "\nyacs==", 1),
        ("pyproject.toml", '"fvcore>=', 1),
        ("pyproject.toml", "line-length = ", 0),
    ):
        text = (checkout.folder / file).read_text()
        assert old in text
        (checkout.folder / file).write_text(text.replace(old, old + "9"))
        assert builds(checkout.run()[-1]) == rebuilds
        assert checkout.run()[-1] == []


@pytest.mark.parametrize("step", ["-m venv", "--editable"])
def test_killed_at_any_step_it_is_repaired_by_the_next_call(checkout, step):
    assert checkout.run(KILL_AT=step)[0] == -9
    # Not run(), which clears the calls: what the killed set-up had started still lives, and must
    # have ended before the repair begins.
    assert checkout.start().communicate(timeout=60)[1] == ""
    calls = checkout.log.read_text().splitlines()
    assert builds(calls[calls.index("end of the orphan") :]) == 1
    assert checkout.run() == (0, "", "", [])


def test_a_failed_step_shows_the_end_of_the_log_and_what_make_did_not_build_stays(checkout):
    status, _, err, _ = checkout.run(FAIL_AT="--require-hashes")
    assert status == 1
    assert "no such version\nset-up: this step failed; the whole log is " in err
    assert builds(checkout.run()[-1]) == 1
    shutil.rmtree(checkout.folder / ".venv")
    keep = checkout.folder / ".venv/pyvenv.cfg"
    keep.parent.mkdir()
    keep.touch()
    status, _, err, calls = checkout.run()
    assert (status, builds(calls), keep.exists()) == (1, 0, True)
    assert "was not built by make" in err and err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one build of PyTorch")
@pytest.mark.parametrize(
    ("settings", "gpu", "asked", "said"),
    [
        ({}, False, ["--torch-backend=cpu"] * 2, "set-up: it answers: downloads some 0.4 GB"),
        ({"FAIL_AT": "--torch-backend"}, False, ["--torch-backend=cpu"], "so PyTorch with CUDA"),
        ({"FAIL_AT": "uv=="}, False, [], "so PyTorch with CUDA"),
        ({}, True, [], "2/4 PyTorch with CUDA"),
        ({"TORCH_INDEX": ""}, False, [], "2/4 PyTorch with CUDA"),
        ({"TORCH_INDEX": "file:///me"}, True, ["--default-index=file:///me"] * 2, "file:///me, if"),
    ],
)
def test_pytorch_is_for_cpus_where_no_gpu_answers(checkout, settings, gpu, asked, said):
    checkout.program("nvidia-smi", f"#!/bin/sh\nexit {0 if gpu else 9}\n")
    status, out, err, calls = checkout.run(**settings)
    assert (status, err) == (0, "") and said in out
    uv = [call for call in calls if call.startswith("pip install --python .venv --no-deps")]
    assert [call.split()[5] for call in uv] == asked
    assert ["--dry-run" in call for call in uv] == [True, False][: len(asked)]
    assert any("--editable" in call for call in calls)


def test_a_python_that_will_do_is_found_or_it_is_one_sentence(checkout):
    assert "with python3 (Python 3.10)" in checkout.run(VERSION="3.10", FAIL_AT="venv")[1]
    shutil.rmtree(checkout.folder / ".venv")
    assert "with python3.12 (Python 3.12)" in checkout.run(VERSION="3.14", FAIL_AT="venv")[1]
    checkout.program("python3.12", "#!/bin/sh\nexit 127\n")
    status, _, err, _ = checkout.run(VERSION="3.9")
    assert "Python 3.10 to 3.13, but python3 is Python 3.9" in err
    assert (status, err.count("\n")) == (1, 1)


def test_make_uses_an_own_environment_as_it_is_or_says_what_it_lacks(checkout, tmp_path):
    own = {"PYTHON": str(checkout.bin / "python3"), "PYTHONPATH": str(tmp_path)}
    modules = "numpy torch torchvision fvcore pycocotools cv2 matplotlib safetensors"
    for name in [*modules.split(), "efficientnet_lite_pytorch", "detectron2"]:
        (tmp_path / f"{name}.py").touch()
    (checkout.folder / "enl_detectron2.py").touch()
    (checkout.folder / "demo").mkdir()
    (checkout.folder / "demo/look.py").write_text("import enl_detectron2 as e; print(e.__file__)")
    status, out, err, _ = checkout.run("make", "look", **own)
    assert (status, err, out.splitlines()[0][:14]) == (0, "", "set-up: using ")
    assert out.splitlines()[-1] == f"{checkout.folder}/enl_detectron2.py"
    assert not list(checkout.folder.glob(".venv*"))
    _, _, err, _ = checkout.run("make", "lint", **own)
    assert re.search("lacks pytest.* so do it yourself: .* -m pip install pytest", err)


def test_make_names_every_target_in_its_help_and_files_that_are_there(checkout):
    _, out, _, _ = checkout.run("make")
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1]
    assert re.findall(r"^  make ([a-z-]+) +\S", out, re.MULTILINE) == targets.split()
    named = re.findall(r"(?:tests|tools|demo|examples|requirements)/[\w./]+", makefile)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_pin_is_exact_and_within_the_declared_ranges(python):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    machine = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = map(Requirement, (ROOT / "requirements/lock.txt").read_text().splitlines())
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins)
    assert len(pinned) == len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extras.pop("app")  # requirements/app.txt pins it, beside the lock
    declared = project["dependencies"] + sum(extras.values(), [])
    # What detectron2 declares, but for NumPy's range: see requirements/lock.in.
    for name in set(packages_distributions()["detectron2"]):
        declared += [need for need in requires(name) or [] if not need.startswith("numpy")]
    for need in map(Requirement, declared):
        if need.name != project["name"] and (
            not need.marker or need.marker.evaluate({"extra": ""})
        ):
            version = pinned[canonicalize_name(need.name)]
            assert need.specifier.contains(version), need


def write_wheel(folder, name, version):
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


@pytest.mark.slow  # fetches uv, hatchling and detectron2's wheel from pip's index
def test_an_index_that_does_not_answer_is_given_up_for_the_default_one(checkout, tmp_path):
    for name in ("torch", "torchvision"):
        write_wheel(tmp_path / "of_pip", name, "0.0.1")
        write_wheel(tmp_path / "of_pytorch" / name, name, "0.0.1+cpu")
    (checkout.bin / "python3").unlink()
    (checkout.bin / "python3").symlink_to(Path(sys.base_prefix, "bin/python3"))
    (checkout.folder / "requirements/lock.txt").write_text("torch==0.0.1\ntorchvision==0.0.1\n")
    (checkout.folder / "requirements/lock.in").write_text("torch\ntorchvision\n")
    (checkout.folder / "enl_detectron2").mkdir()
    (checkout.folder / "configs").mkdir()
    (checkout.folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "enl-detectron2"\nversion = "0"\n'
        '[tool.hatch.build]\ndev-mode-dirs = ["."]\npackages = ["enl_detectron2"]\n'
    )
    settings = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "HTTP"))}
    settings |= {"HOME": str(tmp_path), "PIP_FIND_LINKS": str(tmp_path / "of_pip")}

    def version(index):
        status, out, err, _ = checkout.run(TORCH_INDEX=index, **settings)
        assert status == 0, out + err
        (checkout.folder / ".venv/stamp").write_text("")  # the next call builds anew
        [info] = (checkout.folder / ".venv").glob("lib/*/site-packages/torch-*.dist-info")
        return info.name.split("-")[1].removesuffix(".dist")

    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path / "of_pytorch"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert version(f"http://127.0.0.1:{server.server_port}") == "0.0.1+cpu"
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert version(f"http://127.0.0.1:{silent.getsockname()[1]}") == "0.0.1"
