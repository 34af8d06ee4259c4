"""One run, from its start to its line, in a process of its own."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enl_detectron2.utils.errors import ConfigError, UserError
from enl_detectron2.utils.files import whole_file

from .grid import Grid, Run
from .locks import lock
from .measure import is_test, measure, metrics_of
from .results import Origin, append_line, is_recorded, origin, revision

DONE, FAILED, ELSEWHERE = 0, 1, os.EX_TEMPFAIL  # exit statuses
GRACE = 10  # seconds for a training to end


def lock_file(folder: Path) -> Path:
    return folder / "runner.lock"


def log_file(folder: Path) -> Path:
    return folder / "run.log"


def failure_file(folder: Path) -> Path:
    return folder / "failure.txt"


def run_one(grid: Grid, run: Run, gpus: int) -> int:
    """Trains what is left of a run and records it; all that is printed is its log.

    Args:
        grid: that it belongs to.
        run: one of the grid's.
        gpus: of this process; 0 is the CPU.

    Returns:
        ``DONE``, ``FAILED`` or, if another process is at it, ``ELSEWHERE``.
    """
    failure = failure_file(grid.folder(run))
    with lock(lock_file(grid.folder(run))) as held:
        if held is None:
            return ELSEWHERE
        failure.unlink(missing_ok=True)
        try:
            if not is_recorded(grid, run):
                _train_and_record(grid, run, gpus, held)
        except Exception as error:  # whatever it is, its run has failed, and the log has all of it
            if isinstance(error, UserError):
                print(f"error: {error}", flush=True)
            else:
                traceback.print_exc()
                error = f"{type(error).__name__}: {error}"
            failure.write_text(f"{error}\n")
            return FAILED
    return DONE


def _train_and_record(grid: Grid, run: Run, gpus: int, held: int) -> None:
    log = log_file(grid.folder(run))
    if start := grid.start_of(run):
        with lock(lock_file(grid.folder(start)), wait=True) as start_held:
            _train(grid, start, gpus, start_held, log)
    made_with = _train(grid, run, gpus, held, log)
    grid.register()
    line = {"run": asdict(run)} | measure(grid, run) | asdict(made_with) | {"revision": revision()}
    append_line(grid.results, line | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


def _train(grid: Grid, run: Run, gpus: int, held: int, log: Path) -> Origin:
    """Trains what is left; the training keeps the lock ``held`` should this process be killed."""
    folder = grid.folder(run)
    grid.prepare(run)
    made_with = origin(grid, run)
    begun = begun_with(folder)
    if begun is None:
        with whole_file(begun_file(folder)) as file:
            file.write(json.dumps(asdict(made_with)).encode())
    elif differences := made_with.differences(begun, grid.code):
        raise ConfigError(
            f"{folder} was begun with another {' and another '.join(differences)}; "
            "give that folder another name to begin again"
        )
    elif _is_finished(grid, run):  # on another machine, perhaps, and by code that is as good
        return Origin(**begun)
    command = train_command(grid, run, gpus)
    print(f"$ {shlex.join(command)}", flush=True)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    training = subprocess.Popen(command, pass_fds=[held])
    try:
        status = training.wait()
    finally:  # whoever ends this process means the training
        if training.poll() is None:
            training.terminate()
            try:
                training.wait(GRACE)
            except subprocess.TimeoutExpired:
                training.kill()
        signal.signal(signal.SIGTERM, before)
    if status:
        raise UserError(last_line(log) or f"ended with status {status}")
    return made_with


def _is_finished(grid: Grid, run: Run) -> bool:
    """Whether a run has trained to its end, and has been tested then, if it is tested."""
    if not grid.weights(run).exists():
        return False
    cfg = grid.configuration(run)
    tested = [step for step, entry in metrics_of(grid, run).items() if is_test(entry)]
    return not cfg.DATASETS.TEST or max(tested, default=0) >= cfg.SOLVER.MAX_ITER - 1


def train_command(grid: Grid, run: Run, gpus: int) -> list[str]:
    """What trains a run; typed by hand it does the same."""
    words = grid.words(run) | {"MODEL.DEVICE": "cuda" if gpus else "cpu"}
    command = [sys.executable, "-W", "ignore", str(grid.train)]
    command += ["--config-file", str(grid.config_of(run.system)), "--resume"]
    # "auto": a free port for each, as trainings run side by side.
    command += ["--num-gpus", str(gpus), "--dist-url", "auto"]
    return command + [word for pair in words.items() for word in pair]


def begun_file(folder: Path) -> Path:
    return folder / "made_with.json"


def begun_with(folder: Path) -> dict[str, Any] | None:
    """What a folder's training was begun with; None if it wasn't.

    Raises:
        ConfigError: if the file doesn't say it, as after a crash of the machine.
    """
    file = begun_file(folder)
    if not file.exists():
        return None
    try:
        return asdict(Origin(**json.loads(file.read_text())))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{file} is damaged, so it isn't known what {folder.name} was begun with; give that "
            "folder another name to begin again"
        ) from error


def last_line(log: Path) -> str:
    """The last line of a log that isn't empty; "" if there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:  # what it prints goes elsewhere
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
