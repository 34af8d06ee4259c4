#!/usr/bin/env python
"""Draws the relational digits, a data set of scenes in COCO format.

    python tools/draw_digits.py output/digits    # those of `make demo` and of configs/cpu/

Other numbers and settings go into a folder of their own.
"""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from enl_detectron2.utils.command_line import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from scenes import DEMO, DEMO_COUNTS, SceneConfig, write_relational_digits


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the options, and the description as it stands."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("folder", help="where to write; a new or empty one, or one to complete")
    for name, default in DEMO_COUNTS.items():
        option, split = "--" + name.replace("_", "-"), name.removeprefix("num_")
        parser.add_argument(option, type=int, default=default, help=f"number of {split} scenes")
    parser.add_argument("--seed", type=int, default=0, help="what the scenes are drawn from")
    for setting in fields(SceneConfig):
        option, default = "--" + setting.name.replace("_", "-"), getattr(DEMO, setting.name)
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
