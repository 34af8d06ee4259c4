"""Runs as jobs of an existing engine, through submitit: one job each, requeued by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import submitit

from .grid import Grid, Run
from .local import worker_command
from .worker import ELSEWHERE, log_file

REQUEUES = 1000  # times that a job may reach its time limit
REQUEUED = ("slurm", "local")  # what knows of such limits
GRACE = 15  # seconds for a training to end
SIGNAL_COMES = 60  # seconds between a child's signal and this process's own


class Job:
    """What a job does, and how it goes on after it was preempted or reached its time limit."""

    def __init__(self, command: list[str], log: str):
        self.command = command
        self.log = log
        self.process = None

    def __call__(self) -> str:
        """Trains; gives "done", or "elsewhere" if another process is at the run."""
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            # A group of its own, to end all of it by one signal.
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        status = self.process.wait()
        if status < 0:
            # An engine may signal all processes of a job, and this one's turn comes last.
            time.sleep(SIGNAL_COMES)
        if status not in (0, ELSEWHERE):
            last = Path(self.log).read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"status {status}: {''.join(last)} (all of it: {self.log})")
        return "elsewhere" if status else "done"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called before the job is taken away: ends the training, and says what to do next."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        return submitit.helpers.DelayedSubmission(Job(self.command, self.log))


# The job's process then needs this project's files for the training only.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def submit(
    grid: Grid, runs: list[Run], gpus: int, cluster: str, options: dict[str, Any]
) -> list[submitit.Job]:
    """Submits a job for each run, as an array where the engine has such.

    Args:
        grid: that they belong to.
        runs: not done yet.
        gpus: of each job.
        cluster: "slurm", "local", or whatever submitit has an executor for.
        options: of submitit's ``AutoExecutor.update_parameters``, as ``timeout_min`` or
            ``slurm_partition``.

    Raises:
        ValueError: if the engine isn't there, or an option isn't one of its.
    """
    try:
        requeues = {f"{cluster}_max_num_timeout": REQUEUES} if cluster in REQUEUED else {}
        executor = submitit.AutoExecutor(
            folder=grid.output / "jobs" / "%j", cluster=cluster, **requeues
        )
        executor.update_parameters(name=grid.title, gpus_per_node=gpus, **options)
    # What submitit raises at options that it doesn't know, and where an engine is missing.
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"--submit {cluster}: {error}") from error
    jobs = [Job(worker_command(grid, run, gpus), str(log_file(grid.folder(run)))) for run in runs]
    with executor.batch():
        return [executor.submit(job) for job in jobs]
