#!/usr/bin/env python
"""The project's train_net.py with the drone's trunk and oracle."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import visdrone.network  # noqa: F401, registers both
from enl_detectron2.training.launch import main

if __name__ == "__main__":
    main()
