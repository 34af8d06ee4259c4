#!/usr/bin/env python
"""What a point of an image looks at, and the position term's filters, as pictures: `enl attention`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.analysis.commands.attention import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
