"""examples/odd_one_out, with the package as others get it: built, and installed elsewhere."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/odd_one_out"


def run(*command, cwd, environment):
    """The standard output of Python."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
def test_installed_configurations_are_found_and_complete(site, elsewhere, tmp_path):
    script = """
import enl_detectron2
from enl_detectron2 import model_zoo
print(enl_detectron2.__file__)
print(model_zoo.get_config_file("enl_rcnn_R50.yaml"))
print(model_zoo.get_config("lazy/enl_rcnn_R50.py").model.backbone._target_.__name__)
print(type(model_zoo.get("cpu/digits_enl_rcnn.yaml").backbone).__name__)
"""
    package = site / "enl_detectron2"
    assert run("-c", script, cwd=tmp_path, environment=elsewhere).splitlines() == [
        str(package / "__init__.py"),
        str(package / "model_zoo/configs/enl_rcnn_R50.yaml"),
        "ENL_FPN",
        "ENL_FPN",
    ]


def test_a_strangers_project_trains_on_the_installed_package(elsewhere, tmp_path):
    project = shutil.copytree(EXAMPLE, tmp_path / "project")
    options = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
    out = run("train.py", *options, cwd=project, environment=elsewhere)
    assert "(p3): DifferenceBlock(" in out
    assert "Conv2d(64, 16, kernel_size=(1, 1)" in out  # its own option, reduction: 4
    assert "copypaste: AP,AP50" in out
    output = project / "output/odd_one_out"
    assert (output / "model_final.pth").exists() and (output / "metrics.json").exists()
