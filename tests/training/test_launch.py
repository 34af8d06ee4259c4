"""The command line: what ends a run, and what two processes have in common."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import write_config, write_images

INTERRUPTED = "train_net.py: interrupted; --resume goes on from the last checkpoint"
TRAIN_NET = Path(__file__).parents[2] / "train_net.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder)
    return write_config(folder)


class Run:
    """train_net.py in processes of its own, whose words go to files."""

    def __init__(self, folder, config, *words):
        self.files = [folder / "stdout.txt", folder / "stderr.txt"]
        command = [sys.executable, TRAIN_NET, "--config-file", config, *map(str, words)]
        with self.files[0].open("w") as out, self.files[1].open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)

    def end(self):
        """Its status and what it has written; it is killed if it doesn't end."""
        try:
            self.process.wait(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, *(path.read_text() for path in self.files)


@pytest.fixture
def run(config, tmp_path):
    def start(*words, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        runs.append(Run(folder, config, *words, "OUTPUT_DIR", folder))
        return runs[-1]

    runs = []
    yield start
    for one in runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("processes, to_all", [(1, True), (2, True), (2, False)])
def test_ctrl_c_ends_a_run_with_a_line(run, tmp_path, processes, to_all):
    """A terminal sends it to all processes of a run, `kill` to the first alone."""
    words = ("SOLVER.MAX_ITER", 100_000, "DATALOADER.NUM_WORKERS", 1)
    started = run("--num-gpus", processes, *words)
    deadline = time.monotonic() + 90
    while not (tmp_path / "last_checkpoint").exists():
        assert started.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if to_all:
        os.killpg(started.process.pid, signal.SIGINT)
    else:
        started.process.send_signal(signal.SIGINT)
    status, _, said = started.end()
    assert status == 130
    # Python's own tracker of shared memory may have a word after it.
    assert INTERRUPTED in said.splitlines() and said.count("train_net.py:") == 1
    # Python's thread that hands over a worker's images says so if it is cut off meanwhile, and so
    # does PyTorch's loader while it ends its workers.
    theirs = ("multiprocessing/resource_sharer.py", "torch/utils/data/dataloader.py")
    for line, following in itertools.pairwise(said.splitlines()):
        assert not line.startswith("Traceback") or any(file in following for file in theirs)
    assert (tmp_path / (tmp_path / "last_checkpoint").read_text()).exists()


def test_two_runs_of_two_processes_do_not_collide(run, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    runs = [run("--num-gpus", 2, "SOLVER.MAX_ITER", 2, folder=folder) for folder in folders]
    for folder, started in zip(folders, runs):
        status, _, said = started.end()
        assert status == 0, said
        assert (folder / "model_final.pth").exists()


def test_levels_without_a_reader_need_a_key(run):
    """The convolutions of p2 and p3 have no part in any loss."""
    words = ("--num-gpus", 2, "MODEL.ROI_HEADS.IN_FEATURES", "['p4']")
    words += ("MODEL.RPN.IN_FEATURES", "['p4']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]")
    words += ("SOLVER.MAX_ITER", 3)
    status, _, said = run(*words).end()
    assert status == 1
    assert said.count("train_net.py: error: ") == 1 and "SOLVER.FIND_UNUSED_PARAMETERS" in said
    assert "backbone.fpn_" in said
    status, _, said = run(*words, "SOLVER.FIND_UNUSED_PARAMETERS", True).end()
    assert status == 0, said


def test_the_log_holds_what_was_said_before_there_was_a_folder(run, tmp_path):
    _, output, _ = run("SOLVER.MAX_ITER", 1).end()
    log = (tmp_path / "log.txt").read_text()
    for text in ("Loaded 6 images in COCO format", "(fpn_relation3): ENLBlock(", "ing sampler"):
        assert log.count(text) == 1 and output.count(text) == 1, text
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1
