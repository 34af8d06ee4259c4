"""What was found on many photographs, as files: COCO's results, and a table of counts."""

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from detectron2.structures import Instances

from enl_detectron2.analysis.detector import Detector

from .results import as_results

DETECTIONS, COUNTS = "detections.json", "counts.csv"
MOST_LINES = 20  # of photographs in a summary


class Counts:
    """Detections of one photograph after the other."""

    def __init__(self, detector: Detector):
        self.detector = detector
        self.detections: list[dict[str, Any]] = []
        self.photographs: list[tuple[str, Counter]] = []  # and how many of each class

    def add(self, photograph: str | os.PathLike, instances: Instances) -> None:
        """Keeps what ``predict`` has found on a photograph."""
        classes = instances.pred_classes.tolist()
        self.photographs.append((os.path.basename(photograph), Counter(classes)))
        numbers = range(1, max(classes, default=0) + 2)
        found = as_results(instances, len(self.photographs), numbers)
        for index, detection in zip(classes, found):
            detection["file_name"] = self.photographs[-1][0]
            detection["category_name"] = self.detector.class_name(index)
        self.detections += found

    def write(self, folder: str | os.PathLike) -> None:
        """Writes both files.

        ``detections.json`` is a list in COCO's result format: photographs are numbered from 1 in
        their order, categories from 1 in the model's; "file_name" and "category_name" say which
        they are. ``counts.csv`` has a row for each photograph and class, zeros too.
        """
        Path(folder, DETECTIONS).write_text(json.dumps(self.detections))
        found = {index for _, counts in self.photographs for index in counts}
        # File names needn't be Unicode.
        with open(Path(folder, COUNTS), "w", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["photograph", "class", "count"])
            for photograph, counts in self.photographs:
                for index in sorted({*range(len(self.detector.class_names)), *found}):
                    writer.writerow([photograph, self.detector.class_name(index), counts[index]])

    def summary(self) -> str:
        """A line for each photograph, if they aren't many, and one for all."""
        lines = [f"{name}: {self._words(counts)}" for name, counts in self.photographs]
        if len(lines) > MOST_LINES:
            lines[MOST_LINES:] = [f"… {len(lines) - MOST_LINES} more, in {COUNTS}"]
        total = sum((counts for _, counts in self.photographs), Counter())
        noun = "photograph" if len(self.photographs) == 1 else "photographs"
        return "\n".join([*lines, f"{len(self.photographs)} {noun}: {self._words(total)}"])

    def _words(self, counts: Counter) -> str:
        found = [f"{n:,} {self.detector.class_name(index)}" for index, n in sorted(counts.items())]
        return ", ".join(found) or "nothing found"
