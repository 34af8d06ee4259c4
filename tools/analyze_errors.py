#!/usr/bin/env python
"""``enl errors``, by its old name."""

from enl_detectron2.analysis.commands.errors import main
from enl_detectron2.utils.command_line import run

if __name__ == "__main__":
    run(main)
