"""The command line of train_net.py, which is detectron2's."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessExitedException

from enl_detectron2.layers.relation_block import InvalidOption
from enl_detectron2.utils.errors import ConfigError, UserError
from enl_detectron2.utils.imports import add_import_option, import_modules

from . import lazy, trainer
from .config import find_config


def main(
    argv: Sequence[str] | None = None, trainer_class: type[trainer.Trainer] = trainer.Trainer
) -> None:
    """Trains or evaluates; what the user can put right ends with a line and status 1.

    Args:
        argv: as of ``train_net.py``; by default the command line's.
        trainer_class: as of :func:`run`.
    """
    parser = default_argument_parser()
    # One port for all runs of a user, as detectron2 has it, lets the second run fail.
    parser.set_defaults(dist_url="auto")
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
            args=(args, trainer_class),
        )
    except ProcessExitedException as error:
        if error.exit_code != 1:  # ended by a signal, say
            raise
        sys.exit(1)  # it has said why


def _run_or_explain(args: argparse.Namespace, trainer_class: type[trainer.Trainer]) -> None:
    """One process of a run."""
    try:
        run(args, trainer_class)
    except (UserError, InvalidOption) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def run(
    args: argparse.Namespace, trainer_class: type[trainer.Trainer] = trainer.Trainer
) -> dict[str, Any] | None:
    """Trains, or with ``--eval-only`` evaluates, the model of ``args.config_file``.

    Args:
        args: of detectron2's ``default_argument_parser``; the file is a ``.yaml``, a LazyConfig
            ``.py`` with model, dataloader, optimizer, lr_multiplier and train, as in detectron2, or
            a name of the model zoo.
        trainer_class: yours, perhaps with another ``build_evaluator``; of a ``.yaml`` only.

    Returns:
        With ``--eval-only`` the metrics, on the main process.

    Raises:
        ConfigError: (a ValueError) if a LazyConfig comes with a trainer class, which it can't use.
    """
    import_modules(getattr(args, "imports", ()))  # each process is a new one
    # Also of --tile and the zoo's weights; what load_config does with a file changes nothing more.
    args.config_file, args.opts = find_config(
        args.config_file, args.opts or (), getattr(args, "tile", None)
    )
    if not args.config_file.endswith(".py"):
        return trainer.main(args, trainer_class)
    if trainer_class is not trainer.Trainer:
        raise ConfigError(
            f"--config-file: {args.config_file} is a LazyConfig, which names its parts itself, as "
            f"dataloader.evaluator: {trainer_class.__name__} is for .yaml files"
        )
    return lazy.main(args)
