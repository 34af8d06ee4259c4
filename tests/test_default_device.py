"""That numerical tests run where their names say, on a machine that may have no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
# Only while tests are chosen: PyTorch itself would believe it.
PRETENDED = """
import torch

answer = torch.cuda.is_available

def pytest_collection():
    torch.cuda.is_available = lambda: True

def pytest_collection_finish():
    torch.cuda.is_available = answer
"""
# Fake tensors are on any device and hold nothing.
NUMERICAL = """
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

@pytest.mark.numerical
def test_new_tensors_are_on_the_gpu():
    with FakeTensorMode():
        assert torch.zeros(1).is_cuda and torch.nn.Linear(2, 3).weight.is_cuda

@pytest.mark.numerical(gpu=False)
def test_runs_on_the_cpu_only():
    raise AssertionError("it has been selected by -m gpu")
"""


@pytest.mark.skipif(torch.__version__ < (2, 14), reason="2.5 asks for the driver of a GPU")
def test_numerical_tests_are_on_the_gpu_where_there_is_one(tmp_path):
    (tmp_path / "pretended_gpu.py").write_text(PRETENDED)
    (tmp_path / "test_numerical.py").write_text(NUMERICAL)
    paths = os.pathsep.join([str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH", "")])
    settings = ["-c", TESTS.parent / "pyproject.toml", "-m", "gpu"]
    plugins = ["-p", "pretended_gpu", "-p", "conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *plugins, tmp_path / "test_numerical.py"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "1 passed, 2 deselected" in done.stdout, done.stdout + done.stderr
