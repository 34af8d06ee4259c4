#!/usr/bin/env python
"""Trains or evaluates the model of a configuration, .yaml or LazyConfig .py; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet until run() says it: imports take seconds

from enl_detectron2.training.launch import main

if __name__ == "__main__":
    main()
