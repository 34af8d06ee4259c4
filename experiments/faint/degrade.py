"""Photographs made harder to recognise by what cameras do: less light, fewer pixels.

    cd experiments; python -m faint.degrade SET LEVEL ...    # in $DETECTRON2_DATASETS

A photograph of a level is a function of its pixels and its id, the same for every system, seed and
machine. With less light, a pixel of linear intensity v (1 is white) is counted as photons::

    count = Poisson(v · photons) + Normal(0, READ_NOISE)        v' = count / photons

which is what a sensor does, and is then stored in 8 bits as before. With fewer pixels, each two by
two become one, and the photograph is scaled back to its size, so that boxes and COCO's ranges of
size stay what they are.
"""

import argparse
import json
import os
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

# Photons that a white pixel collects, for each channel; None is the photograph as it is.
LEVELS = {"sharp": None, "dim": 64, "dark": 16, "darker": 4, "half": "half"}
READ_NOISE = 1.0  # electrons, of a good sensor


def degrade(image: np.ndarray, level: str, image_id: int) -> np.ndarray:
    """One photograph of a level.

    Args:
        image: (height, width, 3) uint8.
        level: one of ``LEVELS``.
        image_id: of the annotation file, at least 0, which the noise is drawn from.

    Returns:
        (height, width, 3) uint8.
    """
    strength = LEVELS[level]
    if strength is None:
        return image
    height, width = image.shape[:2]
    if strength == "half":
        size = max(width // 2, 1), max(height // 2, 1)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    random = np.random.default_rng([strength, image_id])
    photons = to_linear(image) * strength
    count = random.poisson(photons) + random.normal(0, READ_NOISE, image.shape)
    return to_stored(count / strength)


def to_linear(image: np.ndarray) -> np.ndarray:
    """sRGB's 8 bits as linear light, from 0 to 1."""
    stored = image / 255.0
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def to_stored(linear: np.ndarray) -> np.ndarray:
    """Linear light as sRGB's 8 bits; what lies outside of 0 to 1 is cut off."""
    linear = linear.clip(0, 1)
    stored = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (stored * 255).round().astype(np.uint8)


def write_set(folder: Path, name: str, level: str) -> None:
    """Writes ``name``_``level`` beside ``name``: an annotation file and a folder of PNG files."""
    record = json.loads((folder / f"{name}.json").read_text())
    target = folder / f"{name}_{level}"
    target.mkdir(exist_ok=True)
    for image in tqdm(record["images"], desc=target.name):
        pixels = cv2.imread(str(folder / name / image["file_name"]))
        file_name = Path(image["file_name"]).with_suffix(".png").name
        cv2.imwrite(str(target / file_name), degrade(pixels, level, image["id"]))
        image["file_name"] = file_name
    (folder / f"{target.name}.json").write_text(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a set's photographs at other levels.")
    parser.add_argument("set", help="name.json and name/ in $DETECTRON2_DATASETS")
    parser.add_argument("levels", nargs="+", choices=LEVELS)
    args = parser.parse_args()
    for level in args.levels:
        write_set(Path(os.environ.get("DETECTRON2_DATASETS", "datasets")), args.set, level)


if __name__ == "__main__":
    main()
