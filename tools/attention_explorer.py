#!/usr/bin/env python
"""``enl attention explorer``, by its old name."""

import sys

from enl_detectron2.analysis.commands.attention import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(lambda: main(["explorer", *sys.argv[1:]]))
