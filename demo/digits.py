#!/usr/bin/env python
"""Trains a slim detector on scenes of digits, on the CPU: the second part of ``make demo``."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.digits.demo import main  # noqa: E402
from enl_detectron2.utils.command_line import run  # noqa: E402

if __name__ == "__main__":
    run(main)
