#!/usr/bin/env python
"""Writes one self-contained HTML page an image, in which any pixel can be asked what it looks at: `enl attention explorer`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.analysis.commands.explorer import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
