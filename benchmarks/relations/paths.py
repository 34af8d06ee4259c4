"""Where the experiment keeps things."""

from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"  # what the report is made of; in the repository
OUTPUT = FOLDER.parents[1] / "output" / "relations"  # data and trainings; not in the repository
