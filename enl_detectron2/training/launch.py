"""The command line of train_net.py, which is detectron2's."""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessExitedException

from enl_detectron2.utils.command_line import hear_ctrl_c
from enl_detectron2.utils.errors import UserError
from enl_detectron2.utils.imports import add_import_option, import_modules

from . import lazy, trainer

INTERRUPTED = 130  # the status of a process that Ctrl-C has ended
PATIENCE = 5  # seconds that the processes of a run have to end by themselves


def main() -> None:
    """Trains or evaluates as the command line says; ends with a line where the user can help."""
    hear_ctrl_c()
    parser = default_argument_parser()
    # One port for all runs of a user, as detectron2 has it, lets the second run fail.
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error comes from, too"
    )
    add_import_option(parser)
    args = parser.parse_args()
    if args.num_machines > 1 and args.dist_url == "auto":
        parser.error("--dist-url must be tcp://HOST:PORT of the first of several machines")
    messages = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        launch(
            _run_or_explain,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args, messages if args.num_gpus * args.num_machines > 1 else None),
        )
    except ProcessExitedException as error:
        # The first of the processes that have said why; the others were ended with it.
        if error.exit_code == INTERRUPTED:
            _end_interrupted()
        sys.exit(error.exit_code if messages.empty() else messages.get())
    except KeyboardInterrupt:
        _end_interrupted()


def _end_interrupted() -> None:
    deadline = time.monotonic() + PATIENCE
    for process in multiprocessing.active_children():
        # A terminal interrupts all processes: this one has then only to end what it began.
        process.join(max(deadline - time.monotonic(), 0))
        process.terminate()
        process.join()
    print(f"{_name()}: interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
    sys.exit(INTERRUPTED)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains, or with ``--eval-only`` evaluates, the model of ``args.config_file``.

    Args:
        args: of detectron2's ``default_argument_parser``; the file is a ``.yaml`` or a LazyConfig
            ``.py`` with model, dataloader, optimizer, lr_multiplier and train, as in detectron2.

    Returns:
        With ``--eval-only`` the metrics, on the main process.
    """
    import_modules(getattr(args, "imports", ()))  # each process is a new one
    kind = lazy if args.config_file.endswith(".py") else trainer
    return kind.train_or_evaluate(args)


def _run_or_explain(args: argparse.Namespace, messages: Any) -> None:
    """One process of a run; what the user can put right ends it with a line and status 1.

    With several processes, the line goes to ``messages``, whose reader says it once.
    """
    hear_ctrl_c()
    try:
        run(args)
    except UserError as error:
        if args.traceback:
            sys.excepthook(*sys.exc_info())
        line = f"{_name()}: error: {error}"
        if messages is None:
            sys.exit(line)
        messages.put(line)
        sys.exit(1)
    except KeyboardInterrupt:
        if messages is None:
            raise
        sys.exit(INTERRUPTED)


def _name() -> str:
    return Path(sys.argv[0]).name
