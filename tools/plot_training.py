#!/usr/bin/env python
"""Training curves of several runs in one plot: `enl curves`."""

from enl_detectron2.analysis.commands.curves import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
