#!/usr/bin/env python
"""What is wrong with a COCO-format data set, and what is in it: `enl check`."""

from enl_detectron2.analysis.commands.check import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
