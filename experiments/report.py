#!/usr/bin/env python
"""Draws the tables and figures of grids from their results; see README.md."""

from runner.report import main

if __name__ == "__main__":
    main()
