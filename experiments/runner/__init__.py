"""Runs the trainings of a grid, records what comes out, and reports it; see ../README.md."""
