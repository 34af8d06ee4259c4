"""The command line of train_net.py, which is detectron2's."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm
from tabulate import tabulate
from torch.multiprocessing import ProcessExitedException

from enl_detectron2.layers.relation_block import InvalidOption
from enl_detectron2.utils.errors import UserError
from enl_detectron2.utils.imports import add_import_option, import_modules

from . import lazy, trainer
from .config import find_config


def main(argv: Sequence[str] | None = None) -> None:
    """Trains or evaluates; what the user can put right ends with a line and status 1.

    Args:
        argv: as of ``train_net.py``; by default the command line's.
    """
    parser = default_argument_parser()
    # One port for all runs of a user, as detectron2 has it, lets the second run fail.
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--per-class", action="store_true", help="with --eval-only: also a line for each class"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="evaluate on square tiles of this side, as TEST.TILE (train.tile) says; 0: whole",
    )
    add_import_option(parser)
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file FILE is needed")
    if args.tile is not None and args.tile < 0:
        parser.error(f"--tile must be a number of pixels, or 0, got {args.tile}")
    if args.num_machines > 1 and args.dist_url == "auto":
        parser.error("--dist-url must be tcp://HOST:PORT of the first of several machines")
    try:
        launch(
            _run_or_explain,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:
        if error.exit_code != 1:  # ended by a signal, say
            raise
        sys.exit(1)  # it has said why


def _run_or_explain(args: argparse.Namespace) -> None:
    """One process of a run."""
    try:
        run(args)
    except (UserError, InvalidOption) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains, or with ``--eval-only`` evaluates, the model of ``args.config_file``.

    Args:
        args: of detectron2's ``default_argument_parser``; the file is a ``.yaml``, a LazyConfig
            ``.py`` with model, dataloader, optimizer, lr_multiplier and train, as in detectron2, or
            a name of the model zoo.

    Returns:
        With ``--eval-only`` the metrics, on the main process.
    """
    import_modules(getattr(args, "imports", ()))  # each process is a new one
    # Also of --tile and the zoo's weights; what load_config does with a file changes nothing more.
    args.config_file, args.opts = find_config(
        args.config_file, args.opts or (), getattr(args, "tile", None)
    )
    results = (lazy if args.config_file.endswith(".py") else trainer).main(args)
    if args.eval_only and comm.is_main_process() and results:
        print(results_table(results, per_class=getattr(args, "per_class", False)))
    return results


def results_table(results: dict[str, Any], *, per_class: bool = False) -> str:
    """The metrics of an evaluation, a line for each task.

    Args:
        results: of detectron2's evaluators, {task: {metric: value}}, or {set: {task: …}}.
        per_class: whether each class has a line, too.
    """
    rows = list(_rows(results, "", per_class))
    return tabulate(rows, headers="keys", floatfmt=".1f", tablefmt="github")


def _rows(results: dict[str, Any], name: str, per_class: bool):
    whole, classes = {}, {}
    for key, value in results.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{name} {key}".strip(), per_class)
            continue
        metric, _, class_name = key.partition("-")  # "AP-person" is of one class
        (classes.setdefault(class_name, {}) if class_name else whole)[metric] = value
    if whole:
        yield {"": name, **whole}
    for class_name in classes if per_class else ():
        yield {"": f"{name}: {class_name}", **classes[class_name]}
