"""examples/odd_one_out, with the package as others get it: built, and installed elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/odd_one_out"

# Nothing of the checkout; what else the caller has on his path may be where detectron2 is.
PATHS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
PATHS = [path for path in PATHS if Path(path).resolve() != ROOT.resolve()]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
ENVIRONMENT |= {"PYTHONWARNINGS": "ignore", "PIP_NO_INDEX": "1"}

pytestmark = pytest.mark.skipif(
    int(version("setuptools").split(".")[0]) < 77, reason="building needs setuptools 77 or later"
)


def run(*command, cwd, site=None):
    """The standard output of Python, with ``site`` before all else that it imports from."""
    paths = [str(site), *PATHS] if site else PATHS
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with what `python -m build` makes: an sdist, and of that a wheel."""
    folder = tmp_path_factory.mktemp("built")
    # The build writes into its source. Left out is what runs leave behind (see .gitignore).
    left_out = (".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    left_out += ("output", "build", "dist", "datasets")
    copy = shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(*left_out))
    build = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
    run("-c", build.format("sdist"), folder, cwd=copy)
    [sdist] = folder.glob("enl_detectron2-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run("-c", build.format("wheel"), folder, cwd=folder / sdist.name.removesuffix(".tar.gz"))
    return folder


@pytest.fixture(scope="module")
def site(built):
    """A folder with the wheel installed, and nothing else."""
    [wheel] = built.glob("*.whl")
    run("-m", "pip", "install", "--no-deps", "--target", built / "site", wheel, cwd=built)
    return built / "site"


def files(root, folder, pattern="*"):
    """Relative to ``root``."""
    return {
        str(path.relative_to(root)) for path in (root / folder).rglob(pattern) if path.is_file()
    }


def test_the_wheel_holds_the_package_and_its_configurations(built):
    [wheel] = built.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    copy = built / "copy"
    configs = {f"enl_detectron2/model_zoo/{name}" for name in files(copy, "configs")}
    assert len(configs) > 60
    assert names == files(copy, "enl_detectron2") | configs


def test_the_source_distribution_holds_what_tests_and_trains_it(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    folders = ("benchmarks", "configs", "demo", "docs", "enl_detectron2", "examples")
    folders += ("experiments", "requirements", "tests", "tools")
    wanted = {name for folder in folders for name in files(built / "copy", folder)}
    wanted |= {"LICENSE", "MANIFEST.in", "Makefile", "README.md", "projects_readme.md", "setup.py"}
    wanted |= {"pyproject.toml", "train_net.py", ".ci/run", ".gitignore", "CITATION.cff"}
    wanted |= {"CHANGELOG.md", "CONTRIBUTING.md", ".pre-commit-config.yaml"}
    wanted |= {".github/workflows/test.yml"}
    assert wanted - names == set()
    extra = names - wanted
    assert all(name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name for name in extra), extra


def test_installed_configurations_are_found_and_complete(site, tmp_path):
    script = """
import enl_detectron2
from enl_detectron2 import model_zoo
print(enl_detectron2.__file__)
print(model_zoo.get_config_file("enl_rcnn_R50.yaml"))
print(model_zoo.get_config("ablations_600px/enl_rcnn_R50.yaml").MODEL.BACKBONE.NAME)
print(model_zoo.get_config("lazy/enl_rcnn_R50.py").model.backbone._target_.__name__)
print(type(model_zoo.get("cpu/digits_enl_rcnn.yaml").backbone).__name__)
"""
    lines = run("-c", script, cwd=tmp_path, site=site).splitlines()
    package = site / "enl_detectron2"
    assert lines == [
        str(package / "__init__.py"),
        str(package / "model_zoo/configs/enl_rcnn_R50.yaml"),
        "ENL_FPN",
        "ENL_FPN",
        "ENL_FPN",
    ]


def test_a_strangers_project_trains_on_the_installed_package(site, tmp_path):
    project = shutil.copytree(EXAMPLE, tmp_path / "project")
    options = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
    out = run("train.py", *options, cwd=project, site=site)
    assert "fpn_relation3): DifferenceBlock(" in out
    assert "Conv2d(64, 16, kernel_size=(1, 1)" in out  # its own key, REDUCTION: 4
    assert "copypaste: AP,AP50" in out
    output = project / "output/odd_one_out"
    assert (output / "model_final.pth").exists() and (output / "metrics.json").exists()
