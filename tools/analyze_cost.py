#!/usr/bin/env python
"""Parameters, multiply-adds, memory and time of one or several configurations, side by side: `enl cost`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.analysis.commands.cost import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
