"""The command line: what ends a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from enl_detectron2 import cli
from enl_detectron2.training.launch import main

TRAIN_NET = Path(__file__).parents[2] / "train_net.py"


def test_train_net_trains_in_two_processes(config, tmp_path):
    words = ["--num-gpus", "2", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)]
    subprocess.run([sys.executable, TRAIN_NET, "--config-file", config, *words], check=True)
    assert (tmp_path / "model_final.pth").exists() and (tmp_path / "log.txt.rank1").exists()


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
