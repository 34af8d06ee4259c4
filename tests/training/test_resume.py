"""A run that is taken up with another configuration, and two runs in one folder."""

import logging
import subprocess
import sys

import pytest
from tiny_training import arguments, train, write_config, write_images

from enl_detectron2.training.common import set_up
from enl_detectron2.training.config import load_config
from enl_detectron2.training.resume import differences, warn_of_changes
from enl_detectron2.utils.errors import ConfigError

HOLD = """
import sys
from enl_detectron2.training.common import _lock
_lock(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder)
    return write_config(folder)


def test_changed_keys_are_listed_and_the_run_goes_on(config, tmp_path, caplog):
    words = ("OUTPUT_DIR", tmp_path, "SOLVER.MAX_ITER")
    train(config, tmp_path / "losses", *words, 2)
    with caplog.at_level(logging.WARNING, "enl_detectron2"):
        train(config, tmp_path / "losses", "--resume", *words, 2)
        assert "--resume" not in caplog.text
        train(config, tmp_path / "losses", "--resume", *words, 3, "SOLVER.BASE_LR", 0.005)
    [said] = [r.getMessage() for r in caplog.records if r.name.endswith("resume")]
    assert said.splitlines()[1:] == ["  SOLVER.BASE_LR: 0.001 → 0.005", "  SOLVER.MAX_ITER: 2 → 3"]
    assert (tmp_path / "losses").read_text().splitlines()[-1].startswith("2 ")


def test_any_two_texts_are_compared(caplog):
    before = "a: {b: 1, c: [1, 2]}\nd: !!python/name:os.system ''\ne: x\n"
    now = "a:\n  b: 1\n  c:\n  - 1\n  - 3\nd: !!python/name:os.system ''\nf: {}\n"
    found = list(differences(before, now))
    assert found == ["a.c: [1, 2] → [1, 3]", "e: x → not there", "f: not there → {}"]
    with caplog.at_level(logging.WARNING, "enl_detectron2"):
        warn_of_changes("a: [1", "a: 2")  # as a full disk leaves it
        warn_of_changes("", "\n".join(f"key{i}: 1" for i in range(200)))
    cut, many = (record.getMessage() for record in caplog.records)
    assert "can't be compared" in cut
    assert many.endswith("  and 180 more") and many.count("\n") == 21


def test_one_folder_is_one_run(config, tmp_path):
    args = arguments(config, "OUTPUT_DIR", tmp_path)
    cfg = load_config(config, args.opts)
    holder = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(ConfigError, match=f"another training is running in {tmp_path}"):
        set_up(cfg, args)
    assert not (tmp_path / "config.yaml").exists()
    args.eval_only = True  # as of a checkpoint of a run that goes on
    set_up(cfg, args)
    holder.kill()  # nothing is left to be cleared up
    holder.wait()
    args.eval_only = False
    set_up(cfg, args)
    set_up(cfg, args)  # once more in the same process
