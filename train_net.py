#!/usr/bin/env python
"""Trains or evaluates the model of a configuration, .yaml or LazyConfig .py; see --help."""

from enl_detectron2.training.launch import main

if __name__ == "__main__":
    main()
