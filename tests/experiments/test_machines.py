"""Two machines for one run, which is detectron2's own --num-machines, here on the loopback."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch

ROOT = Path(__file__).parents[2]
STEPS = 3
# One result whoever computes it: the same images in each step, all of a step's anchors and regions
# in the loss, nothing random about an image, and no statistics of a batch that two would share.
SAME = {
    "INPUT.RANDOM_FLIP": "none",
    "INPUT.MIN_SIZE_TRAIN": "(48,)",
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100_000,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1_000,
    "MODEL.RPN.NMS_THRESH": 1.0,  # so that each image has as many proposals
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.CHECKPOINT_PERIOD": 100,
}


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_training, "SIZES", [(64, 48), (64, 48)])
    tiny_training.write_images(tmp_path / "data")
    config = tiny_training.write_config(tmp_path / "data")

    def words(output, *more):
        options = [str(word) for pair in SAME.items() for word in pair]
        train = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config)]
        return [*train, *more, *options, "OUTPUT_DIR", str(output)]

    return words


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def outcome(folder):
    """The losses of the steps, and the weights after them."""
    [line] = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    losses = {name: value for name, value in line.items() if "loss" in name}
    weights = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    return losses, weights


@pytest.mark.slow
def test_two_machines_train_what_one_process_does(command, tmp_path):
    alone = subprocess.Popen(command(tmp_path / "one"), stderr=subprocess.PIPE)
    url = f"tcp://127.0.0.1:{free_port()}"
    together = ["--num-machines", "2", "--num-gpus", "1", "--dist-url", url, "--machine-rank"]
    # Each has a folder of its own, as on two machines; the first writes what comes out.
    machines = [
        subprocess.Popen(
            command(tmp_path / f"two {rank}", *together, str(rank)), stderr=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    for process in (alone, *machines):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    losses, weights = outcome(tmp_path / "one")
    losses_of_two, weights_of_two = outcome(tmp_path / "two 0")
    assert losses_of_two == pytest.approx(losses, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(weights_of_two[name], value, rtol=1e-3, atol=1e-5)
    assert not (tmp_path / "two 1" / "model_final.pth").exists()
