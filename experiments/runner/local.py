"""Runs side by side on this machine, each a process with its own share of it."""

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .grid import ROOT, Grid, Run
from .results import is_recorded
from .worker import DONE, ELSEWHERE, failure_file, log_file


@dataclass(frozen=True)
class Share:
    """What one run has of this machine: the ids of its GPUs, none for the CPU; its threads."""

    gpus: tuple[str, ...]
    threads: int

    def environment(self) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(self.threads)}  # unless the user has said
        return threads | os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


def shares(gpus: int, jobs: int) -> list[Share]:
    """This machine, cut into as many equal parts; several of them may be of one GPU.

    Raises:
        ValueError: if there are GPUs, and they can't be shared equally.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(number) for number in range(gpus)]
    if len(ids) < gpus:
        raise ValueError(f"--gpus {gpus}: CUDA_VISIBLE_DEVICES has {len(ids)}")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if not gpus:
        return [Share((), threads)] * jobs
    if gpus % jobs and jobs % gpus:
        raise ValueError(f"--gpus {gpus} can't be shared equally by --jobs {jobs}")
    each = max(1, gpus // jobs)
    starts = [each * job % gpus for job in range(jobs)]
    return [Share(tuple(ids[start : start + each]), threads) for start in starts]


def worker_command(grid: Grid, run: Run, gpus: int) -> list[str]:
    """What makes a process of a run; a cluster's job runs the same."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "experiments" / "run.py")]
    command += [str(grid.file), "--output", str(grid.output)]
    return [*command, "--one", run.name, "--gpus", str(gpus)]


def run_locally(
    grid: Grid, runs: list[Run], parts: list[Share], tell: Callable[[Run, str], None]
) -> list[Run]:
    """Runs all of them, as many at a time as there are parts.

    A run that another process is at is left to it.

    Args:
        grid: that they belong to.
        runs: not done yet.
        parts: of this machine.
        tell: is called with a run and what has become of it.

    Returns:
        Those that failed.
    """
    free: queue.SimpleQueue[Share] = queue.SimpleQueue()
    for part in parts:
        free.put(part)
    processes: set[subprocess.Popen] = set()
    stopped = False

    def attempt(run: Run) -> int:
        if stopped:
            return ELSEWHERE
        if is_recorded(grid, run):
            tell(run, "done by another runner")
            return DONE
        part = free.get()
        log = log_file(grid.folder(run))
        log.parent.mkdir(parents=True, exist_ok=True)
        tell(run, "started")
        with open(log, "a") as stream:
            process = subprocess.Popen(
                worker_command(grid, run, len(part.gpus)),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=part.environment(),
            )
        processes.add(process)
        status = process.wait()
        processes.remove(process)
        free.put(part)
        if status == DONE:
            tell(run, "done")
        elif status == ELSEWHERE:
            tell(run, "another process is at it")
        elif not stopped:
            tell(run, f"failed: {_why(grid, run, status)}")
        return status

    before = signal.signal(signal.SIGTERM, _end)
    with ThreadPoolExecutor(len(parts)) as pool:
        try:
            statuses = dict(zip(runs, pool.map(attempt, runs)))
        finally:
            stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                process.terminate()
            signal.signal(signal.SIGTERM, before)
    return [run for run, status in statuses.items() if status not in (DONE, ELSEWHERE)]


def _why(grid: Grid, run: Run, status: int) -> str:
    folder = grid.folder(run)
    try:
        return f"{failure_file(folder).read_text().strip()} (all of it: {log_file(folder)})"
    except FileNotFoundError:
        return f"ended with status {status}, see {log_file(folder)}"


def _end(*_) -> None:
    sys.exit(128 + signal.SIGTERM)
