#!/usr/bin/env python
"""The project's train_net.py, with one more backbone registered; see --help."""

import efficientnet_lite  # noqa: F401  registers build_efficientnet_lite_backbone
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
