"""The page on photographs, as a reader types it: from a wheel, in an empty folder."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from enl_detectron2.model_zoo import PHOTOGRAPHS

ROOT = Path(__file__).parents[2]
COMMANDS = [
    line.split("    #")[0]
    for block in re.findall(
        r"```bash\n(.*?)```", (ROOT / "docs/your_photographs.md").read_text(), re.DOTALL
    )
    for line in block.replace("\\\n", "").splitlines()
]

SHORT = "MAX_ITER 3 SOLVER.STEPS '()' SOLVER.WARMUP_ITERS 0 SOLVER.IMS_PER_BATCH 2"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_command_works_as_printed(elsewhere, tmp_path):
    shutil.copytree(PHOTOGRAPHS, tmp_path / "photos")
    (tmp_path / "photos/nuclei.json").rename(tmp_path / "photos.json")
    for other in tmp_path.glob("photos/*.md"):
        other.unlink()

    def bash(command):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=elsewhere, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    where = "python -c 'import enl_detectron2 as e; print(e.__file__)'"
    assert "/site/enl_detectron2/" in bash(where)
    said = {}
    for command in COMMANDS:
        if command.startswith("pip install"):  # which is done
            continue
        # A few steps are enough to see that they are taken.
        command = command.replace('MAX_ITER 200 SOLVER.STEPS "(160, 186)"', SHORT)
        said[command.split("--output ")[-1].split()[0]] = bash(command)
    assert "nucleus" in said["found"] and "6 photographs" in said["found"]
    counts = {}
    for folder in ("found", "tiled", "found_tuned"):
        with open(tmp_path / folder / "counts.csv") as file:
            rows = list(csv.DictReader(file))
        assert {row["class"] for row in rows} == {"nucleus"}
        counts[folder] = sum(int(row["count"]) for row in rows)
    annotated = len(json.loads((tmp_path / "photos.json").read_text())["annotations"])
    assert 0.5 < counts["found"] / annotated < 1.5 and 0.5 < counts["tiled"] / annotated < 1.5
    assert (tmp_path / "comparison/index.html").exists()
    assert (tmp_path / "errors/errors.png").exists() and "plain: " in said["errors"]
    results = tmp_path / "evaluated/inference/coco_instances_results.json"
    assert json.loads(results.read_text())
