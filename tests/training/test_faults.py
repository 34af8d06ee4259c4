"""A training that is killed again and again; run by `make nightly`."""

import multiprocessing
import random
import signal
import time

import pytest
from tiny_training import read_losses, train, write_config, write_images

from enl_detectron2.training.checkpoint import UNFINISHED
from enl_detectron2.training.checkpoint_files import read_checkpoint

KILLS = 20
STEPS = 200
LONGEST = 2.0  # seconds between the beginning, or the first step, and a kill


def start(config, losses, *words):
    # A server that has imported everything: each attempt begins within a second or two.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["enl_detectron2.training.trainer"])
    process = context.Process(target=train, args=(config, losses, *words))
    process.start()
    return process


def size(path):
    return path.stat().st_size if path.exists() else 0


def wait(process, losses, output, kind, seconds):
    """Until the moment of a kill: any, one of training, or one at which a file is written."""
    before = size(losses)
    while kind != "any" and process.exitcode is None and size(losses) == before:
        time.sleep(0.01)
    process.join(seconds)
    while kind == "saving" and process.exitcode is None and not (output / UNFINISHED).exists():
        pass  # it is there for milliseconds


def last_iteration(output):
    """Of the checkpoint that a resumed run goes on from, which must be whole; -1 if none is."""
    tag = output / "last_checkpoint"
    if not tag.exists():
        return -1
    content = read_checkpoint(output / tag.read_text())
    assert content["trainer"]["_trainer"]["optimizer"]["state"]
    return content["iteration"]


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    """Losses are the uninterrupted run's, whatever the moment of the kills, saving included."""
    write_images(tmp_path)
    config = write_config(tmp_path)
    # Every step saves, so that many kills meet a file that is being written.
    words = ("SOLVER.MAX_ITER", STEPS, "SOLVER.CHECKPOINT_PERIOD", 1)
    whole = start(config, tmp_path / "whole", *words, "OUTPUT_DIR", tmp_path / "uninterrupted")
    whole.join()
    expected = dict(read_losses(tmp_path / "whole"))
    assert whole.exitcode == 0 and list(expected) == list(range(STEPS))

    moments = random.Random(0)
    reached, kills, runs, unfinished = -1, 0, 0, 0
    while True:
        output, losses = tmp_path / f"killed {runs}", tmp_path / f"losses {runs}"
        process = start(config, losses, "--resume", *words, "OUTPUT_DIR", output)
        if kills < KILLS:
            kind = ("any", "training", "saving")[kills % 3]
            wait(process, losses, output, kind, moments.uniform(0, LONGEST))
            kills += process.exitcode is None
            process.kill()
        process.join()
        # One that was faster than the kill has ended well.
        assert process.exitcode in (-signal.SIGKILL, 0)
        assert last_iteration(output) >= reached  # nothing that was reached is lost
        reached = last_iteration(output)
        unfinished += (output / UNFINISHED).exists()
        if process.exitcode == 0:
            of_all = read_losses(losses)
            assert {iteration for iteration, _ in of_all} == expected.keys()
            assert all(loss == pytest.approx(expected[iteration]) for iteration, loss in of_all)
            if kills == KILLS:
                break
            reached, runs = -1, runs + 1
    assert unfinished > 1
