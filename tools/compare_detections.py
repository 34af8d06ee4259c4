#!/usr/bin/env python
"""What two or three models find and miss on the same images, side by side with the ground truth: `enl compare`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.analysis.commands.compare import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
