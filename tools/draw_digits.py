#!/usr/bin/env python
"""Draws the relational digits, a data set of scenes in COCO format.

python tools/draw_digits.py output/digits --num-train 2000
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

import argparse
import logging
from dataclasses import fields

from enl_detectron2.digits.scenes import SceneConfig, write_relational_digits
from enl_detectron2.utils.command_line import run


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the options, and the description as it stands."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("folder", help="where to write; a new or empty one, or one to complete")
    parser.add_argument("--num-train", type=int, default=1000, help="number of training scenes")
    parser.add_argument("--num-test", type=int, default=200, help="number of test scenes")
    parser.add_argument("--seed", type=int, default=0, help="what the scenes are drawn from")
    for setting in fields(SceneConfig):
        option, default = "--" + setting.name.replace("_", "-"), setting.default
        shape = {"type": type(default)}
        if isinstance(default, tuple):
            shape = {"type": int, "nargs": 2, "metavar": ("LOWEST", "HIGHEST")}
        parser.add_argument(option, default=default, help=setting.metadata["help"], **shape)
    options = vars(parser.parse_args())

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = SceneConfig(**{s.name: options.pop(s.name) for s in fields(SceneConfig)})
    write_relational_digits(**options, config=config)


if __name__ == "__main__":
    run(main)
