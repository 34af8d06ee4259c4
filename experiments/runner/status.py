"""Where each run of a grid stands, and what the runs that are left will take."""

import math
import statistics
from dataclasses import dataclass, replace

from tabulate import tabulate

from .grid import Grid, Run
from .locks import is_locked
from .measure import metrics_of
from .results import lines_of, origin
from .worker import begun_with, failure_file, lock_file


@dataclass(frozen=True)
class State:
    """One run's.

    Attributes:
        kind: "done", "refused" (a line that doesn't come from what the grid names), "running",
            "failed", "begun" or "missing".
        step: steps that are done, as far as is known.
        steps: in all.
        seconds: of one step, None if it isn't known.
        note: what there is to say.
    """

    run: Run
    kind: str
    step: int
    steps: int
    seconds: float | None
    note: str = ""

    @property
    def left(self) -> float | None:
        """Seconds of training that are left."""
        if self.kind in ("done", "refused"):
            return 0.0
        return None if self.seconds is None else self.seconds * (self.steps - self.step)


def states(grid: Grid) -> list[State]:
    """Of all runs; one that hasn't shown its speed is taken to be as fast as the others of its
    system are, or else as the grid's."""
    lines = lines_of(grid)
    found = [_state(grid, run, lines.get(run)) for run in grid.runs()]
    known: dict[str | None, list[float]] = {}
    for state in found:
        if state.seconds is not None:
            known.setdefault(state.run.system, []).append(state.seconds)
            known.setdefault(None, []).append(state.seconds)
    estimates = {system: statistics.median(values) for system, values in known.items()}
    return [
        state
        if state.seconds is not None
        else replace(state, seconds=estimates.get(state.run.system, estimates.get(None)))
        for state in found
    ]


def _state(grid: Grid, run: Run, line: dict | None) -> State:
    if line is not None:
        steps, seconds = line["steps"], line.get("seconds_per_step")
        if differences := origin(grid, run).differences(line, grid.code):
            return State(run, "refused", steps, steps, seconds, "other " + ", ".join(differences))
        note = "" if "code" in line else "recorded without hashes"
        return State(run, "done", steps, steps, seconds, note)
    folder, steps = grid.folder(run), grid.configuration(run).SOLVER.MAX_ITER
    try:
        entries = metrics_of(grid, run)
        begun = begun_with(folder)
    except ValueError as error:  # a damaged file is this run's trouble alone
        return State(run, "failed", 0, steps, None, str(error))
    step = max((i + 1 for i, entry in entries.items() if "total_loss" in entry), default=0)
    times = [entry["time"] for entry in entries.values() if "time" in entry]
    seconds = statistics.median(times[-20:]) if times else None
    if is_locked(lock_file(folder)):
        return State(run, "running", step, steps, seconds)
    if failure_file(folder).exists():
        return State(run, "failed", step, steps, seconds, failure_file(folder).read_text().strip())
    return State(run, "begun" if begun else "missing", step, steps, seconds)


def status(grid: Grid, runs: list[Run], at_once: int) -> str:
    """A row for each of the runs, and what is left with so many side by side."""
    shown = [state for state in states(grid) if state.run in runs]
    rows = [
        {
            "run": state.run.name,
            "state": state.kind,
            "steps": f"{state.step} / {state.steps}",
            "left": "" if state.left == 0 else duration(state.left),
            "note": state.note if len(state.note) <= 300 else state.note[:297] + "…",
        }
        for state in shown
    ]
    table = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    return f"{table}\n{summary(shown, at_once)}"


def summary(shown: list[State], at_once: int) -> str:
    """One line: how many there are of each kind, and the time left with so many side by side."""
    kinds = [state.kind for state in shown]
    words = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    left = [state.left for state in shown if state.kind != "failed"]
    if not any(each != 0 for each in left):
        return words
    if None in left:
        return f"{words}; time left isn't known before a first run has shown its speed"
    total = max(sum(left) / at_once, max(left))
    return f"{words}; {duration(total)} of training left, {at_once} side by side"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def expected(grid: Grid, runs: list[Run], rate: float | None = None) -> str:
    """One line: what runs take from their start to their end.

    Args:
        grid: that they belong to.
        runs: of it.
        rate: images a second on one device, for all systems; the grid's own if None.
    """
    images, hours = 0, 0.0
    for run in runs:
        solver = grid.configuration(run).SOLVER
        a_second = rate or grid.rate.get("images_per_second", math.nan)
        if isinstance(a_second, dict):
            a_second = a_second.get(run.system, math.nan)
        images += solver.MAX_ITER * solver.IMS_PER_BATCH
        hours += solver.MAX_ITER * solver.IMS_PER_BATCH / a_second / 3600
    if math.isnan(hours):
        unknown = "hours aren't known: --rate says how many images one device does a second"
        return f"{images:,} images; {unknown}"
    device = grid.rate.get("device", "device")
    where = f"{rate:g} a second" if rate else grid.rate.get("where", "the grid's rate")
    return f"{images:,} images, {hours:,.1f} {device} hours at {where}; --rate says another"
