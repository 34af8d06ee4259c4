#!/usr/bin/env python
"""Trains or evaluates the model of a configuration, .yaml or LazyConfig .py; see --help."""

import argparse
import sys

from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessExitedException

from enl_detectron2.engine import run
from enl_detectron2.errors import UserError


def main(args: argparse.Namespace) -> None:
    """One process of a run; what the user can put right ends it with a line and status 1."""
    try:
        run(args)
    except UserError as error:
        sys.exit(f"train_net.py: error: {error}")


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    try:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:  # that process has said why
        sys.exit(error.exit_code)
