#!/usr/bin/env python
"""The command `enl detect`."""

from enl_detectron2.analysis.commands.detect import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
