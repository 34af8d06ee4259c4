#!/usr/bin/env python
"""Trains what a grid's results are missing, here or on a cluster; see --help and README.md."""

from runner.cli import main

if __name__ == "__main__":
    main()
