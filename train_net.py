#!/usr/bin/env python
"""Trains or evaluates the model of a configuration, .yaml or LazyConfig .py; see --help."""

from detectron2.engine import default_argument_parser, launch

from enl_detectron2.engine import run

if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
