#!/usr/bin/env python
"""Trains what a grid's results are missing, here or on a cluster; see --help and README.md."""

from enl_detectron2.utils import command_line


def main() -> None:
    from runner import cli  # takes seconds

    cli.main()


if __name__ == "__main__":
    command_line.run(main)
