#!/usr/bin/env python
"""Detects objects on images, a video or a webcam, with a YAML or LazyConfig model: `enl detect`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.analysis.commands.detect import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
