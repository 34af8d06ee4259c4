"""Runs the trainings of a grid, records what comes out, and reports it; see ../README.md."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "demo"))  # whose scenes grids draw
