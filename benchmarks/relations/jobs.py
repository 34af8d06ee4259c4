"""Many trainings side by side, each a process with one thread and, once done, a line of a file."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

Job = Any  # a dataclass with the attributes name and folder, and fields that JSON has


def in_parallel(script: str, jobs: list[Job], workers: int) -> None:
    """Calls ``script --job <its fields as JSON>`` for each job; ends the program if one failed."""
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(lambda job: in_own_process(script, job), jobs))
    if not all(outcomes):
        failed = [str(job.folder) for job, succeeded in zip(jobs, outcomes) if not succeeded]
        sys.exit("failed: " + "; ".join(failed))


def in_own_process(script: str, job: Job) -> bool:
    """One of them; whether it succeeded. What it prints is in output.txt of its folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", script, "--job", json.dumps(asdict(job))]
    with open(job.folder / "output.txt", "a") as output:
        status = subprocess.run(
            command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ).returncode
    outcome = "done" if status == 0 else f"failed, see {output.name}"
    print(f"{time.strftime('%H:%M:%S')} {job.name}: {outcome}", flush=True)
    return status == 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While a process is in here, others that want the same folder wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def append_line(file: Path, record: dict) -> None:
    """Adds a line of JSON, whole, whoever else does so at this moment."""
    file.parent.mkdir(exist_ok=True)
    with open(file, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps(record) + "\n")


def read_lines(file: Path) -> Iterable[dict]:
    return map(json.loads, file.read_text().splitlines()) if file.exists() else ()
