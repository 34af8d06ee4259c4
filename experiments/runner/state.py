"""Where each run of a grid stands, and what is left."""

import statistics
from dataclasses import dataclass, replace

from tabulate import tabulate

from .grid import Grid, Run
from .locks import is_locked
from .results import lines_of, origin
from .worker import begun_with, failure_file, lock_file, metrics_lines

BAR = 20  # characters


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


def states(grid: Grid, runs: list[Run] | None = None) -> list[State]:
    """Of some runs, of all if None.

    A run that hasn't shown its speed is taken to be as fast as others of its system are, or else
    as the grid's.
    """
    lines = lines_of(grid)
    found = [_state(grid, run, lines.get(run)) for run in grid.runs()]
    known: dict[str | None, list[float]] = {}
    for state in found:
        if state.seconds is not None:
            known.setdefault(state.run.system, []).append(state.seconds)
            known.setdefault(None, []).append(state.seconds)
    estimates = {system: statistics.median(values) for system, values in known.items()}
    found = [state for state in found if runs is None or state.run in runs]
    return [
        state
        if state.seconds is not None
        else replace(state, seconds=estimates.get(state.run.system, estimates.get(None)))
        for state in found
    ]


def _state(grid: Grid, run: Run, line: dict | None) -> State:
    folder = grid.folder(run)
    if line is not None:
        steps, seconds = line["steps"], line.get("seconds_per_step")
        differences = origin(grid, run).differences(line, grid.code)
        if differences:
            return State(run, "refused", steps, steps, seconds, "other " + ", ".join(differences))
        note = "" if "code" in line else "recorded without hashes"
        return State(run, "done", steps, steps, seconds, note)
    steps = grid.configuration(run).SOLVER.MAX_ITER
    step, seconds = _progress(grid, run)
    if is_locked(lock_file(folder)):
        return State(run, "running", step, steps, seconds)
    if failure_file(folder).exists():
        note = failure_file(folder).read_text().strip()
        return State(run, "failed", step, steps, seconds, note)
    return State(run, "begun" if begun_with(folder) else "missing", step, steps, seconds)


def _progress(grid: Grid, run: Run) -> tuple[int, float | None]:
    lines = metrics_lines(grid.folder(run))
    steps = [line["iteration"] + 1 for line in lines if "total_loss" in line]
    times = [line["time"] for line in lines if "time" in line]
    return max(steps[-1:], default=0), statistics.median(times[-20:]) if times else None


def table(shown: list[State]) -> str:
    rows = [
        {
            "run": state.run.name,
            "state": state.kind,
            "steps": f"{bar(state.step / max(state.steps, 1))} {state.step} / {state.steps}",
            "left": "" if state.left == 0 else duration(state.left),
            "": state.note if len(state.note) <= 100 else state.note[:97] + "…",
        }
        for state in shown
    ]
    return tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)


def summary(shown: list[State], at_once: int) -> str:
    """One line: how many there are of each kind, and the time left with so many side by side."""
    kinds = ("done", "running", "begun", "missing", "failed", "refused")
    counts = {kind: sum(state.kind == kind for state in shown) for kind in kinds}
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    left = [state.left for state in shown if state.kind != "failed"]
    if not any(each != 0 for each in left):
        return words
    if None in left:
        return f"{words}; time left isn't known before a first run has shown its speed"
    total = max(sum(left) / at_once, max(left))
    return f"{words}; {duration(total)} of training left, {at_once} side by side"


def bar(share: float) -> str:
    full = round(BAR * min(share, 1))
    return "█" * full + "░" * (BAR - full)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
