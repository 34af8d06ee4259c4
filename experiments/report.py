#!/usr/bin/env python
"""Draws the tables and figures of grids from their results; see README.md."""

from enl_detectron2.utils import command_line


def main() -> None:
    from runner import report  # takes seconds

    report.main()


if __name__ == "__main__":
    command_line.run(main)
