"""A grid, and the runner on it."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_grid import PROGRAM, STEPS
from tiny_training import write_config, write_images

from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.training.config import load_config
from enl_detectron2.utils.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def experiments_on_path(monkeypatch):
    """As when a script of experiments/ runs: its folder is where it imports from."""
    monkeypatch.syspath_prepend(ROOT / "experiments")


@pytest.fixture
def write_grid(tmp_path):
    """Writes tmp_path/grid.yaml, or another one of that name; gives its path."""
    write_images(tmp_path / "data")
    config = write_config(tmp_path / "data")
    cfg = load_config(str(config), [])
    weights = tmp_path / "weights.pth"
    torch.save({"model": build_random_model(cfg, "cpu").state_dict()}, weights)

    def write(name="grid", seconds=0.0, **content):
        program = PROGRAM.replace("STEPS", str(STEPS)).replace("SECONDS", str(seconds))
        (tmp_path / "train.py").write_text(program.replace("WEIGHTS", repr(str(weights))))
        options = {"DATASETS.TEST": str(cfg.DATASETS.TRAIN), "SOLVER.MAX_ITER": STEPS}
        content = {
            "config": str(config),
            "train": "train.py",
            "systems": {"plain": None, "other": {"options": {"SOLVER.WEIGHT_DECAY": 0.0}}},
            "baseline": "plain",
            "options": options | content.pop("options", {}),
        } | content
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return write


@pytest.fixture
def command(tmp_path):
    """The words that run run.py on a grid, its runs in tmp_path/output."""

    def words(file, *more):
        script = str(ROOT / "experiments" / "run.py")
        return [sys.executable, script, str(file), "--output", str(tmp_path / "output"), *more]

    return words


@pytest.fixture
def run(command, capsys, caplog, monkeypatch):
    """Runs run.py to its end, the trainings one by one from this process; gives what it printed,
    warnings included, and its status."""
    from runner import cli, local, worker

    def in_this_process(grid, runs, parts, tell):
        statuses = {run: worker.run_one(grid, run, len(parts[0].gpus)) for run in runs}
        return [run for run, status in statuses.items() if status != worker.DONE]

    def done(*words):
        monkeypatch.setattr(local, "run_locally", in_this_process)
        arguments = cli.parse_args(command(*words)[2:])
        capsys.readouterr()
        caplog.clear()
        try:
            status = cli.run(arguments)
        except (UserError, ValueError) as error:
            return f"run.py: error: {error}", 1
        return capsys.readouterr().out + caplog.text, status

    return done


@pytest.fixture
def quick(monkeypatch):
    """Lines without what takes a model: for tests of what is trained and recorded when."""
    from runner import worker

    monkeypatch.setattr(worker, "measure", lambda grid, run: {"metrics": {"AP": 1}, "steps": STEPS})
