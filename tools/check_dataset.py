#!/usr/bin/env python
"""What is wrong with a COCO-format data set, and what is in it: `enl check`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.analysis.commands.check import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
