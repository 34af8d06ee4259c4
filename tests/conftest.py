import logging
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from tiny_training import slim_config

from enl_detectron2.analysis.cost.random_model import build_random_model

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    # All other tests are of the CPU on any machine: detectron2 would start one process a GPU if it
    # saw any.
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_generate_tests(metafunc):
    """Numerical tests run on the GPU too: with ``-m gpu``, where there is one.

    But for those marked ``numerical(gpu=False)``: a gradient by differences is thousands of calls.
    """
    marker = metafunc.definition.get_closest_marker("numerical")
    if marker and marker.kwargs.get("gpu", True) and torch.cuda.is_available():
        devices = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
        metafunc.parametrize("default_device", devices, indirect=True)


@pytest.fixture(autouse=True)
def default_device(request):
    """Where a numerical test's new tensors and modules are, as if it had said so."""
    if not hasattr(request, "param"):
        yield
        return
    request.getfixturevalue("without_tf32")
    with torch.device(request.param):
        yield


@pytest.fixture
def without_tf32():
    """Which has 10 bits, and isn't asked for by numerical comparisons."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(autouse=True)
def same_random_weights():
    """So that a failure is the same whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def forget_data_sets():
    """Takes back what a test has registered."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def forget_loggers():
    """Takes back the handlers a command has added: they write to a test's own standard output."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "enl_detectron2")]
    before = [(list(each.handlers), each.propagate, each.level) for each in loggers]
    yield
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)
    setup_logger.cache_clear()  # which remembers what has handlers


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Runs a command line in this process: its status, standard output and standard error."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
        capsys.readouterr()
        status, said = 0, ""
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        if isinstance(status, str):  # which Python writes to standard error when it ends
            status, said = 1, status
        out, err = capsys.readouterr()
        return status, out, err + said

    return run


@pytest.fixture
def slim_cfg():
    return slim_config()


@pytest.fixture
def slim_model(slim_cfg, tmp_path):
    """Two files, the configuration and the weights of a slim model with random weights.

    It takes images as they are, and claims something anywhere, with low scores.
    """
    slim_cfg.DATASETS.TEST = ()
    slim_cfg.INPUT.MIN_SIZE_TEST = 0
    slim_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    slim_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    config, weights = tmp_path / "slim.yaml", tmp_path / "slim.pth"
    config.write_text(slim_cfg.dump())
    torch.save({"model": build_random_model(slim_cfg, "cpu").state_dict()}, weights)
    return config, weights


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A folder with what `python -m build` makes: an sdist, and of that a wheel."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", folder, "--target"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True)
    [sdist] = folder.glob("enl_detectron2-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    subprocess.run([*build, "wheel"], cwd=folder / sdist.name.removesuffix(".tar.gz"), check=True)
    return folder


@pytest.fixture(scope="session")
def site(built):
    """A folder with the wheel installed, and nothing else."""
    [wheel] = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, built / "site", wheel], check=True)
    return built / "site"


@pytest.fixture
def elsewhere(site):
    """The environment of a process that has the installed package, and nothing of the checkout."""
    # What else the caller has on his path may be where detectron2 is.
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [str(site), *(path for path in paths if Path(path).resolve() != ROOT)]
    programs = [str(site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PATH": os.pathsep.join(programs)}
    return environment | {"PYTHONWARNINGS": "ignore"}
