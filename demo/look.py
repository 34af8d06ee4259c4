#!/usr/bin/env python
"""Finds cell nuclei on six photographs with the trained detector: ``make look``."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.look import main  # noqa: E402
from enl_detectron2.utils.command_line import run  # noqa: E402

if __name__ == "__main__":
    run(main)
