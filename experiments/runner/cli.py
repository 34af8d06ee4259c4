"""The command line of run.py."""

import argparse
import dataclasses
import fnmatch
import sys
import time

import yaml

from enl_detectron2.utils.errors import ConfigError

from . import local, status
from .grid import Grid, Run, load_grid
from .locks import is_locked
from .results import AGAIN, append_line, is_recorded, lines_of, origin
from .worker import lock_file, run_one


def main() -> None:
    sys.exit(run(parse_args()))


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains the runs of a grid that have no result yet."
    )
    parser.add_argument("grid", help="a file of experiments/, such as experiments/coco_faster.yaml")
    parser.add_argument(
        "--status", action="store_true", help="print the state of each run, and end"
    )
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
    parser.add_argument("--only", metavar="PATTERN", help="runs whose names match, such as '*R50*'")
    parser.add_argument(
        "--redo",
        action="store_true",
        help="train the runs of --only again; what there was is kept beside it",
    )
    parser.add_argument(
        "--rate", type=float, help="images a second on one device, for what is expected"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what is expected, and end")
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
        help="options of submitit, such as timeout_min=1440 slurm_partition=gpu",
    )
    # For a run's own process.
    parser.add_argument("--one", metavar="RUN", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    """Does what the command line says; gives the exit status."""
    if args.jobs < 1 or args.gpus < 0:
        raise ConfigError("--jobs must be at least 1, and --gpus at least 0")
    if args.redo and not args.only:
        raise ConfigError("--redo needs --only, with the runs to train again")
    grid = load_grid(args.grid, args.output)
    runs = _chosen(grid, args.only)
    if args.one:
        [run] = [run for run in runs if run.name == args.one]
        return run_one(grid, run, args.gpus)
    if args.status:
        print(status.status(grid, runs, args.jobs))
        return 0
    left = runs if args.redo else _left(grid, runs)
    print(f"{len(left)} of {len(runs)} runs to do", flush=True)
    if not left:
        return 0
    print(status.expected(grid, left, args.rate), flush=True)
    if args.dry_run:
        return 0
    if args.redo:
        _begin_again(grid, left)
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


def _left(grid: Grid, runs: list[Run]) -> list[Run]:
    """What has no line yet; names the runs whose line doesn't count."""
    lines = lines_of(grid)
    refused = [run for run in runs if run in lines and not is_recorded(grid, run, lines)]
    for run in refused:
        differences = origin(grid, run).differences(lines[run], grid.code)
        print(f"{run.name}: its result comes from other {', '.join(differences)}")
    if refused:
        print(
            "These count as no results. --only NAME --redo trains one again; code that is as good "
            "as this one's goes into the grid's list code."
        )
    return [run for run in runs if run not in lines]


def _begin_again(grid: Grid, runs: list[Run]) -> None:
    """Moves the runs' folders aside, and says in the results that older lines don't count.

    Raises:
        ConfigError: if a process trains in one of the folders, which would go on in the one moved.
    """
    for run in runs:
        if is_locked(lock_file(grid.folder(run))):
            raise ConfigError(f"--redo: {run.name} is being trained; end that first")
    for run in runs:
        folder, number = grid.folder(run), 1
        while (aside := folder.with_name(f"{run.name}.{number}")).exists():
            number += 1
        if folder.exists():
            print(f"{run.name}: what it had is now in {folder.rename(aside)}")
        append_line(grid.results, {"run": dataclasses.asdict(run), AGAIN: True})


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
