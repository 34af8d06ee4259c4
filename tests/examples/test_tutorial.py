"""examples/tutorial.ipynb, run from its first cell to its last as a reader would."""

import os
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="make optional fetches it")
NOTEBOOK = Path(__file__).parents[2] / "examples/tutorial.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_valid_and_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_cells_do_what_its_text_says(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="make optional fetches it")
    pytest.importorskip("efficientnet_lite_pytorch")
    command = tmp_path / "bin/enl"  # of this checkout, whatever is installed
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m enl_detectron2 "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    path = os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    for cell in notebook.cells:  # a command that fails doesn't end a notebook by itself
        if re.search("^!", cell.source, re.MULTILINE):
            cell.source += "\nassert _exit_code == 0"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
    nbformat.write(notebook, tmp_path / "run.ipynb")  # to be looked at

    said = {cell.id: _said(cell) for cell in notebook.cells if cell.cell_type == "code"}
    counts = dict(re.findall(r"^(\w+\.jpg): (\d+) nucleus", said["count"], re.MULTILINE))
    assert len(counts) == 6
    assert int(said["run"].split()[0]) == pytest.approx(
        int(counts["fluorescence_dense.jpg"]), abs=2
    )
    for step, least in (("evaluate", 0.7), ("train", 0.3)):
        ap50 = re.search(r"IoU=0\.50 +\| area= +all \| .* = (0\.\d+)", said[step])[1]
        assert float(ap50) > least, step
    assert "0 errors" in said["data"]
    assert "bright nucleus" in said["train-see"] and "dark nucleus" in said["train-see"]
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", ()) if _picture(out)]
    assert len(pictures) == 6 + 1 + 1 + 2 + 1


def _said(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def _picture(output):
    return any(kind.startswith("image/") for kind in output.get("data", {}))
