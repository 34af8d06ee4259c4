"""A run that is taken up with another configuration, and two runs in one folder."""

import logging
import subprocess
import sys

import pytest
import yaml
from tiny_training import arguments, train

from enl_detectron2.layers import RelationBlock
from enl_detectron2.modeling import RELATION_BLOCK_REGISTRY
from enl_detectron2.training.common import prepare_run
from enl_detectron2.training.config import load_config
from enl_detectron2.training.folder import differences, warn_of_changes
from enl_detectron2.training.trainer import setup
from enl_detectron2.utils.errors import ConfigError
from enl_detectron2.utils.files import whole_file

HOLD = """
import sys
from enl_detectron2.training.folder import lock
lock(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def test_changed_keys_are_listed_and_the_run_goes_on(config, tmp_path, caplog):
    words = ("OUTPUT_DIR", tmp_path, "SOLVER.MAX_ITER")
    train(config, tmp_path / "losses", *words, 2)
    with caplog.at_level(logging.WARNING, "enl_detectron2"):
        train(config, tmp_path / "losses", "--resume", *words, 2)
        assert "--resume" not in caplog.text
        train(config, tmp_path / "losses", "--resume", *words, 3, "SOLVER.BASE_LR", 0.005)
    [said] = [r.getMessage() for r in caplog.records if r.name.endswith("folder")]
    assert said.splitlines()[1:] == ["  SOLVER.BASE_LR: 0.001 → 0.005", "  SOLVER.MAX_ITER: 2 → 3"]
    assert (tmp_path / "losses").read_text().splitlines()[-1].startswith("2 ")


def test_a_run_that_starts_anew_keeps_the_older_ones_metrics_apart(config, tmp_path, caplog):
    args = arguments(config, "OUTPUT_DIR", tmp_path)
    for number in (1, 2):
        (tmp_path / "metrics.json").write_text(f'{{"iteration": {number}}}\n')
        (tmp_path / "last_checkpoint").write_text(f"model_{number}.pth")
        with whole_file(tmp_path / "model_final.pth") as file:  # as a checkpoint is written
            file.write(f"weights {number}".encode())
        prepare_run(load_config(config, args.opts), args)
        assert not (tmp_path / "metrics.json").exists()  # nor is there an older run to take up
        assert (tmp_path / f"metrics.json.{number}").read_text() == f'{{"iteration": {number}}}\n'
        assert (tmp_path / f"last_checkpoint.{number}").read_text() == f"model_{number}.pth"
        assert (tmp_path / "model_final.pth").read_text() == f"weights {number}"  # MODEL.WEIGHTS?
        assert (tmp_path / f"model_final.pth.{number}").read_text() == f"weights {number}"
        assert f"kept is metrics.json as metrics.json.{number} and last_check" in caplog.text


def test_a_run_that_is_resumed_writes_behind_whole_lines(config, tmp_path, caplog):
    args = arguments(config, "--resume", "OUTPUT_DIR", tmp_path)
    whole = '{"iteration": 19, "total_loss": 1.0}\n'
    (tmp_path / "metrics.json").write_text(whole + '{"iteration": 39, "tot')  # a full disk
    prepare_run(load_config(config, args.opts), args)
    assert (tmp_path / "metrics.json").read_text() == whole
    assert "its last line was cut" in caplog.text


def test_a_runs_configuration_lists_its_own_blocks_options(config, tmp_path):
    class Gain(RelationBlock):
        def __init__(self, channels, *, init_gain=0.1):
            super().__init__()

    with_gain = ("MODEL.ENL_FPN.BLOCK", "Gain", "OUTPUT_DIR", tmp_path)
    RELATION_BLOCK_REGISTRY.register(Gain)
    try:
        setup(arguments(config, *with_gain))
        written = yaml.safe_load((tmp_path / "config.yaml").read_text())["MODEL"]["ENL_FPN"]
        assert written["BLOCK"] == "Gain" and written["BLOCK_OPTIONS"] == {"init_gain": None}
        # The same run, when its configuration listed those of other blocks, too.
        assert not list(differences("a: {b: null}", "a: {c: null}"))
        cfg = load_config(tmp_path / "config.yaml", ["MODEL.ENL_FPN.BLOCK", "ENLBlock"])
        assert cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.position is None  # a command line can set it
    finally:
        RELATION_BLOCK_REGISTRY._obj_map.pop("Gain")


def test_any_two_texts_are_compared(caplog):
    before = "a: {b: 1, c: [1, 2]}\nd: !!python/name:os.system ''\ne: x\n"
    now = "a:\n  b: 1\n  c:\n  - 1\n  - 3\nd: !!python/name:os.system ''\nf: {}\n"
    found = list(differences(before, now))
    assert found == ["a.c: [1, 2] → [1, 3]", "e: x → not there", "f: not there → {}"]
    warn_of_changes("a: [1", "a: 2")  # as a full disk leaves it
    assert "can't be compared" in caplog.text


def test_one_folder_is_one_run(config, tmp_path):
    args = arguments(config, "OUTPUT_DIR", tmp_path)
    cfg = load_config(config, args.opts)
    command = [sys.executable, "-W", "ignore", "-c", HOLD, tmp_path]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(ConfigError, match=f"another training is running in {tmp_path}"):
        prepare_run(cfg, args)
    assert not (tmp_path / "config.yaml").exists()
    args.eval_only = True  # as of a checkpoint of a run that goes on
    prepare_run(cfg, args)
    holder.kill()  # nothing is left to be cleared up
    holder.wait()
    args.eval_only = False
    prepare_run(cfg, args)
    prepare_run(cfg, args)  # once more in the same process
