"""The command line: what ends a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from enl_detectron2 import cli
from enl_detectron2.training.launch import main
from enl_detectron2.training.trainer import Trainer

TRAIN_NET = Path(__file__).parents[2] / "train_net.py"


SCRIPT = """
from detectron2.evaluation import DatasetEvaluator
from enl_detectron2.training import launch, trainer

class Constant(DatasetEvaluator):
    def evaluate(self):
        return {"of mine": {"score": 42.0}}

class Mine(trainer.Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return Constant()

if __name__ == "__main__":
    launch.main(trainer_class=Mine)
"""


def test_a_script_with_its_own_trainer_trains_in_two_processes(config, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    words = ["--num-gpus", "2", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)]
    words += ["DATASETS.TEST", f"('tiny {config.parent}',)"]
    subprocess.run([sys.executable, script, "--config-file", config, *words], check=True)
    assert (tmp_path / "model_final.pth").exists() and (tmp_path / "log.txt.rank1").exists()
    assert '"of mine/score": 42.0' in (tmp_path / "metrics.json").read_text()


def test_a_lazy_config_is_refused_a_trainer_that_it_would_ignore(tmp_path):
    class Mine(Trainer):
        pass

    file = tmp_path / "lazy.py"
    file.write_text("")
    with pytest.raises(SystemExit, match="lazy.py is a LazyConfig, .* Mine is for .yaml files"):
        main(["--config-file", str(file)], Mine)


def test_what_the_user_can_put_right_is_a_line(config, tmp_path):
    command = [sys.executable, TRAIN_NET, "--num-gpus", "2", "--config-file"]
    words = [config, "MODEL.WEIGHTS", "no.pth", "OUTPUT_DIR", tmp_path]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search("^train_net.py: error: no.pth .*MODEL.WEIGHTS", done.stderr, re.M)
    assert "Traceback" not in done.stderr


def test_the_arguments_may_be_given(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["enl"])
    with pytest.raises(
        SystemExit, match="^enl: error: --config-file: 'none.yaml' is neither a file"
    ):
        main(["--config-file", "none.yaml"])
    with pytest.raises(SystemExit):
        main([])
    assert "--config-file FILE is needed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--config-file", str(config), "--tile", "-5"])
    assert "--tile must be a number of pixels, or 0, got -5" in capsys.readouterr().err
    # detectron2's own errors keep their tracebacks.
    with pytest.raises(KeyError, match="No object named 'RPM' found"):
        words = ["MODEL.PROPOSAL_GENERATOR.NAME", "RPM", "OUTPUT_DIR", str(tmp_path)]
        main(["--config-file", str(config), *words])
    words[:2] = ["MODEL.ENL_FPN.BLOCK_OPTIONS.position", "cos"]
    with pytest.raises(SystemExit, match="error: position must be one of 'cos_add'"):
        main(["--config-file", str(config), *words])
    words[:2] = ["SOLVER.LR_SCHEDULER_NAME", "nonsense"]
    monkeypatch.setattr(sys, "argv", ["enl", "train", "--config-file", str(config), *words])
    with pytest.raises(ValueError, match="Unknown LR scheduler: nonsense"):
        cli.main()
