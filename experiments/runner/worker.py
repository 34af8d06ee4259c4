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

from .grid import Grid, Run
from .locks import lock
from .results import Origin, append_line, lines_of, origin, revision

DONE, FAILED, ELSEWHERE = 0, 1, 75  # exit statuses; the last is os.EX_TEMPFAIL
BEGUN = "made_with.json"


def lock_file(folder: Path) -> Path:
    return folder / "lock"


def log_file(folder: Path) -> Path:
    return folder / "run.log"


def failure_file(folder: Path) -> Path:
    return folder / "failure.txt"


def run_one(grid: Grid, run: Run, gpus: int) -> int:
    """Trains what is left of a run and records it; all that is printed is its log.

    Args:
        grid: that it belongs to.
        run: one of the grid's, or what one starts from.
        gpus: of this process; 0 is the CPU.

    Returns:
        ``DONE``, ``FAILED`` or, if another process is at it, ``ELSEWHERE``.
    """
    folder = grid.folder(run)
    with lock(lock_file(folder)) as held:
        if held is None:
            return ELSEWHERE
        failure_file(folder).unlink(missing_ok=True)
        try:
            if not is_recorded(grid, run):
                _train_and_record(grid, run, gpus, held)
        except UserError as error:
            print(f"error: {error}", flush=True)
            failure_file(folder).write_text(f"{error}\n")
            return FAILED
        except Exception as error:  # whatever it is, its run has failed, and the log has all of it
            traceback.print_exc()
            failure_file(folder).write_text(f"{type(error).__name__}: {error}\n")
            return FAILED
    return DONE


def is_recorded(grid: Grid, run: Run) -> bool:
    """Whether a run has a line that comes from what the grid names."""
    line = lines_of(grid).get(run)
    return line is not None and not origin(grid, run).differences(line, grid.code)


def _train_and_record(grid: Grid, run: Run, gpus: int, held: int) -> None:
    log = log_file(grid.folder(run))
    if start := grid.start_of(run):
        with lock(lock_file(grid.folder(start)), wait=True) as start_held:
            grid.prepare(start)
            _require_same(grid.folder(start), origin(grid, start), grid)
            if not grid.weights(start).exists():
                _train(grid, start, gpus, start_held, log)
    made_with = _train(grid, run, gpus, held, log)
    from .measure import measure  # takes seconds to import, and what was not trained needs none

    grid.register()
    line = {"run": asdict(run)} | measure(grid, run) | asdict(made_with) | {"revision": revision()}
    append_line(grid.results, line | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


def _train(grid: Grid, run: Run, gpus: int, held: int, log: Path) -> Origin:
    """Trains what is left; the training keeps the lock ``held`` should this process be killed."""
    folder = grid.folder(run)
    grid.prepare(run)
    made_with = origin(grid, run)
    _require_same(folder, made_with, grid)
    if _is_tested(grid, run):  # on another machine, perhaps, and by code that is as good
        return Origin(**begun_with(folder))
    command = train_command(grid, run, gpus)
    print(f"$ {shlex.join(command)}", flush=True)
    training = subprocess.Popen(command, pass_fds=[held])
    # Whoever ends this process means the training.
    signal.signal(signal.SIGTERM, lambda *_: _end(training))
    status = training.wait()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if status:
        raise UserError(_last_line(log) or f"ended with status {status}")
    return made_with


def _is_tested(grid: Grid, run: Run) -> bool:
    """Whether a run has trained to its end, and has been tested then."""
    last = grid.configuration(run).SOLVER.MAX_ITER - 1
    tested = any(
        "bbox/AP" in line and line["iteration"] >= last for line in metrics_lines(grid.folder(run))
    )
    return tested and grid.weights(run).exists()


def train_command(grid: Grid, run: Run, gpus: int) -> list[str]:
    """What trains a run; typed by hand it does the same."""
    words = grid.words(run)
    words["MODEL.DEVICE"] = "cuda" if gpus else "cpu"
    command = [sys.executable, "-W", "ignore", str(grid.train)]
    command += ["--config-file", str(grid.config_of(run.system)), "--resume"]
    # "auto": a free port for each, as trainings run side by side.
    command += ["--num-gpus", str(gpus), "--dist-url", "auto"]
    return command + [word for pair in words.items() for word in pair]


def _require_same(folder: Path, made_with: Origin, grid: Grid) -> None:
    """Refuses to go on with what was begun with something else; notes what it is begun with."""
    if begun := begun_with(folder):
        if differences := made_with.differences(begun, grid.code):
            raise ConfigError(
                f"{folder} was begun with another {' and another '.join(differences)}; "
                "--redo moves it aside and begins again"
            )
        return
    unfinished = folder / "made_with.unfinished"
    unfinished.write_text(json.dumps(asdict(made_with)))
    unfinished.replace(folder / BEGUN)


def begun_with(folder: Path) -> dict[str, Any] | None:
    """What a folder's training was begun with; None if it wasn't."""
    file = folder / BEGUN
    return json.loads(file.read_text()) if file.exists() else None


def _end(training: subprocess.Popen) -> None:
    training.terminate()
    try:
        training.wait(10)
    except subprocess.TimeoutExpired:
        training.kill()
    os._exit(128 + signal.SIGTERM)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:  # what it prints goes elsewhere
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def move_aside(folder: Path) -> Path | None:
    """Gives a run's folder another name, so that it begins again; None if there is none."""
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(aside)


def metrics_lines(folder: Path) -> list[dict[str, Any]]:
    """What detectron2 has written of a training so far."""
    try:
        text = (folder / "metrics.json").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
