"""The command line of run.py."""

import argparse
import fnmatch
import sys
import time
from pathlib import Path

import yaml

from enl_detectron2.utils.errors import ConfigError

from . import local, status
from .grid import Grid, Run, load_grid
from .results import again_file, is_recorded, lines_of, origin
from .worker import begun_with, run_one


def main() -> None:
    sys.exit(run(parse_args()))


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains what a grid's results are missing.")
    parser.add_argument("grid", help="a file of experiments/, as experiments/coco_faster.yaml")
    parser.add_argument("--status", action="store_true", help="say where each run stands, and end")
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        help="of this machine, or of each job that is submitted; 0, the default: the CPU",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs side by side, which share the GPUs, several a GPU if there are more of them, or "
        "the cores; 1 by default",
    )
    parser.add_argument("--only", metavar="PATTERN", help="those whose names match, as '*R50*'")
    parser.add_argument(
        "--redo",
        action="store_true",
        help="train again what was made with other code, configuration or data and, if --only "
        "names it, what has its result; what there was is kept beside it",
    )
    parser.add_argument(
        "--rate", type=float, help="images a second on one device, for what is expected"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is expected, and end")
    parser.add_argument(
        "--output", help="where runs are kept; output/experiments/<grid> by default"
    )
    parser.add_argument(
        "--submit", metavar="ENGINE", help="a job for each run, by submitit: slurm, local …"
    )
    parser.add_argument(
        "--job-options",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="of submitit, as timeout_min=1440 slurm_partition=gpu",
    )
    # For a run's own process.
    parser.add_argument("--one", metavar="RUN", help=argparse.SUPPRESS)
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    """Does what the command line says; gives the exit status."""
    if args.jobs < 1 or args.gpus < 0:
        raise ConfigError("--jobs must be at least 1, and --gpus at least 0")
    grid = load_grid(args.grid, args.output)
    runs = _chosen(grid, args.only)
    if args.one:
        [run] = [run for run in runs if run.name == args.one]
        return run_one(grid, run, args.gpus, args.wait)
    if args.status:
        print(status.status(grid, runs, args.jobs))
        return 0
    left = _left(grid, runs, args.redo, bool(args.only))
    print(f"{len(runs)} runs, {len(left)} of them to do", flush=True)
    if not left:
        return 0
    print(status.expected(grid, left, args.rate), flush=True)
    if args.dry_run:
        return 0
    if args.redo:
        _set_aside(grid, left)
    if args.submit:
        return _submit(grid, left, args)
    for each in left:  # before several processes want the same
        for needed in (grid.start_of(each), each):
            if needed:
                grid.prepare(needed)
    failed = local.run_locally(grid, left, local.shares(args.gpus, args.jobs), _tell)
    if failed:
        print(f"failed: {', '.join(each.name for each in failed)}")
    return 1 if failed else 0


def _chosen(grid: Grid, pattern: str | None) -> list[Run]:
    runs = [run for run in grid.runs() if fnmatch.fnmatchcase(run.name, pattern or "*")]
    if not runs:
        names = ", ".join(run.name for run in grid.runs()[:5])
        raise ConfigError(f"--only {pattern}: no run of {grid.file.name} is called so; {names} …")
    return runs


def _left(grid: Grid, runs: list[Run], redo: bool, named: bool) -> list[Run]:
    """What has no line that counts; with ``redo`` also what ``--only`` has named."""
    lines = lines_of(grid)
    left = [run for run in runs if not is_recorded(grid, run, lines)]
    refused = [run for run in left if run in lines and not again_file(grid.folder(run)).exists()]
    for run in refused:
        differences = origin(grid, run).differences(lines[run], grid.code)
        print(f"{run.name}: its result comes from other {', '.join(differences)}")
    if not redo:
        if refused:
            print(
                "These count as no results. --redo trains them again; code that is as good as "
                "this one's goes into the grid's list code."
            )
        elif not left and named:
            print("All of them have their results. --redo trains them again.")
        return [run for run in left if run not in refused]
    return [run for run in runs if named or run in left]


def _set_aside(grid: Grid, left: list[Run]) -> None:
    """Gives what is trained again a new folder, with the mark that its line is to come anew."""
    lines = lines_of(grid)
    starts = [grid.start_of(run) for run in left]
    for run in dict.fromkeys([*left, *filter(None, starts)]):
        folder = grid.folder(run)
        begins = run in lines and not again_file(folder).exists()
        if folder.exists() and (begins or _is_other(grid, run)):
            print(f"{run.name}: what it had is now in {_move_aside(folder)}")
        if run in lines:
            folder.mkdir(parents=True, exist_ok=True)
            again_file(folder).touch()


def _is_other(grid: Grid, run: Run) -> bool:
    """Whether what is in a run's folder was begun with something else."""
    try:
        begun = begun_with(grid.folder(run))
    except ConfigError:  # it can't be known
        return True
    return bool(begun and origin(grid, run).differences(begun, grid.code))


def _move_aside(folder: Path) -> Path:
    """Gives a run's folder another name, so that it begins again."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(aside)


def _tell(run: Run, event: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {run.name}: {event}", flush=True)


def _submit(grid: Grid, left: list[Run], args: argparse.Namespace) -> int:
    try:
        from .cluster import submit
    except ImportError as error:
        raise ConfigError(f"--submit needs submitit: pip install submitit ({error})") from error
    options = {}
    for option in args.job_options:
        key, assigned, value = option.partition("=")
        if not assigned:
            raise ConfigError(f"--job-options: {option!r} must be KEY=VALUE")
        options[key] = yaml.safe_load(value)
    for run, job in zip(left, submit(grid, left, args.gpus, args.submit, options)):
        print(f"{run.name}: job {job.job_id}")
    print("run.py --status says where they stand")
    return 0
