"""examples/odd_one_out, with the package as others get it: built, and installed elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/odd_one_out"

# Nothing of the checkout; what else the caller has on his path may be where detectron2 is.
PATHS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
PATHS = [path for path in PATHS if Path(path).resolve() != ROOT.resolve()]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
ENVIRONMENT |= {"PYTHONWARNINGS": "ignore", "PIP_NO_INDEX": "1"}


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
    build = ("-m", "hatchling", "build", "--directory", folder, "--target")
    run(*build, "sdist", cwd=ROOT)
    [sdist] = folder.glob("enl_detectron2-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run(*build, "wheel", cwd=folder / sdist.name.removesuffix(".tar.gz"))
    return folder


@pytest.fixture(scope="module")
def site(built):
    """A folder with the wheel installed, and nothing else."""
    [wheel] = built.glob("*.whl")
    run("-m", "pip", "install", "--no-deps", "--target", built / "site", wheel, cwd=built)
    return built / "site"


def files(folder):
    """Of the checkout, but for what runs leave behind."""
    paths = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {str(p.relative_to(ROOT)) for p in paths if p.suffix != ".pyc"}


def test_wheel_and_source_distribution_hold_the_package_and_its_configurations_alone(built):
    [wheel], [sdist] = built.glob("*.whl"), built.glob("*.tar.gz")
    package, configs = files("enl_detectron2"), files("configs")
    assert len(configs) > 60
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == package | {f"enl_detectron2/model_zoo/{name}" for name in configs}
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    about = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"}
    assert names == package | configs | about | {"PKG-INFO", ".gitignore"}


@pytest.mark.slow
def test_installed_configurations_are_found_and_complete(site, tmp_path):
    script = """
import enl_detectron2
from enl_detectron2 import model_zoo
print(enl_detectron2.__file__)
print(model_zoo.get_config_file("enl_rcnn_R50.yaml"))
print(model_zoo.get_config("lazy/enl_rcnn_R50.py").model.backbone._target_.__name__)
print(type(model_zoo.get("cpu/digits_enl_rcnn.yaml").backbone).__name__)
"""
    package = site / "enl_detectron2"
    assert run("-c", script, cwd=tmp_path, site=site).splitlines() == [
        str(package / "__init__.py"),
        str(package / "model_zoo/configs/enl_rcnn_R50.yaml"),
        "ENL_FPN",
        "ENL_FPN",
    ]


def test_a_strangers_project_trains_on_the_installed_package(site, tmp_path):
    project = shutil.copytree(EXAMPLE, tmp_path / "project")
    options = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
    out = run("train.py", *options, cwd=project, site=site)
    assert "(p3): DifferenceBlock(" in out
    assert "Conv2d(64, 16, kernel_size=(1, 1)" in out  # its own option, reduction: 4
    assert "copypaste: AP,AP50" in out
    output = project / "output/odd_one_out"
    assert (output / "model_final.pth").exists() and (output / "metrics.json").exists()
