"""Runs side by side on this machine, each a process with its own share of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .grid import ROOT, Grid, Run
from .locks import is_locked
from .worker import DONE, ELSEWHERE, failure_file, is_recorded, lock_file, log_file

PERIOD = 0.5  # seconds between two looks


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
    grid: Grid, runs: list[Run], parts: list[Share], tell: Callable[[Run | None, str], None]
) -> list[Run]:
    """Runs all of them, as many at a time as there are parts.

    A run that another process is at is left to that one, and taken up if that one ends first.

    Args:
        grid: that they belong to.
        runs: not done yet.
        parts: of this machine.
        tell: is called with a run and what has become of it, and at each look with None.

    Returns:
        Those that failed.
    """
    waiting, free, failed = list(runs), list(parts), []
    active: dict[Run, tuple[subprocess.Popen, Share]] = {}
    stopped = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while waiting or active:
            for run, (process, part) in list(active.items()):
                if (status := process.poll()) is None:
                    continue
                del active[run]
                free.append(part)
                if status == DONE:
                    tell(run, "done")
                elif status == ELSEWHERE:
                    waiting.append(run)
                else:
                    failed.append(run)
                    tell(run, f"failed: {_why(grid, run, status)}")
            for run in list(waiting):
                if not free:
                    break
                if is_locked(lock_file(grid.folder(run))):
                    continue
                waiting.remove(run)
                if is_recorded(grid, run):  # another runner was faster
                    tell(run, "done by another runner")
                    continue
                part = free.pop()
                active[run] = _start(grid, run, part), part
                tell(run, "started")
            tell(None, "")
            time.sleep(PERIOD)
    finally:
        signal.signal(signal.SIGTERM, stopped)
        for process, _ in active.values():
            process.terminate()
        for process, _ in active.values():
            process.wait()
    return failed


def _start(grid: Grid, run: Run, part: Share) -> subprocess.Popen:
    folder = grid.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    with open(log_file(folder), "a") as log:
        return subprocess.Popen(
            worker_command(grid, run, len(part.gpus)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=part.environment(),
        )


def _why(grid: Grid, run: Run, status: int) -> str:
    folder = grid.folder(run)
    try:
        return f"{failure_file(folder).read_text().strip()} (all of it: {log_file(folder)})"
    except FileNotFoundError:
        return f"ended with status {status}, see {log_file(folder)}"


def _interrupt(*_) -> None:
    raise KeyboardInterrupt
