"""Photographs made harder to recognise by what cameras do: less light, fewer pixels.

    cd experiments
    python -m faint.degrade SET                        # draws six photographs at each level
    python -m faint.degrade PHOTOGRAPH --level dark    # writes one

A photograph of a level is a function of its pixels and its id, the same for every system, seed and
machine. With less light, a pixel of linear intensity v (1 is white) is counted as photons::

    count = Poisson(v · photons) + Normal(0, READ_NOISE)        v' = count / photons

which is what a sensor does, and is then stored in 8 bits as before. With fewer pixels, each two by
two become one, and the photograph is scaled back to its size, so that boxes and COCO's ranges of
size stay what they are.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from enl_detectron2.analysis.command_line import require_new
from enl_detectron2.utils.command_line import run
from enl_detectron2.utils.files import whole_file

# Photons that a white pixel collects, for each channel; None is the photograph as it is.
LEVELS = {"sharp": None, "dim": 64, "dark": 16, "darker": 4, "half": "half"}
READ_NOISE = 1.0  # electrons, of a good sensor
SHOWN, SIDE = 6, 128  # photographs in a row, and pixels of each


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


def write_set(folder: Path, name: str, level: str, target: Path) -> None:
    """Writes a set's photographs at a level, as PNG, and then its annotation file beside them.

    The file names each photograph's hash, so that a set of other noise is another set to the grid.

    Args:
        folder: with ``name``.json and ``name``/.
        name: of the set.
        level: one of ``LEVELS``.
        target: a folder; the annotation file is called as it is.
    """
    record = json.loads((folder / f"{name}.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    for image in tqdm(record["images"], desc=target.name):
        pixels = degrade(cv2.imread(str(folder / name / image["file_name"])), level, image["id"])
        image["file_name"] = Path(image["file_name"]).with_suffix(".png").name
        image["sha256"] = hashlib.sha256(pixels).hexdigest()[:12]
        cv2.imwrite(str(target / image["file_name"]), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    with whole_file(target.with_suffix(".json")) as file:
        file.write(json.dumps(record).encode())


def sheet(folder: Path, name: str) -> np.ndarray:
    """Some photographs of a set, evenly spaced in its file, at all levels: a row for each level.

    Of each the middle is shown, as it is if it is no larger.
    """
    images = json.loads((folder / f"{name}.json").read_text())["images"]
    rows = []
    for level in LEVELS:
        row = []
        for image in images[:: len(images) // SHOWN][:SHOWN]:
            pixels = cv2.imread(str(folder / name / image["file_name"]))
            pixels = degrade(pixels, level, image["id"])
            top, left = ((size - SIDE) // 2 for size in pixels.shape[:2])
            row.append(pixels[top : top + SIDE, left : left + SIDE])
        rows.append(cv2.copyMakeBorder(np.hstack(row), 18, 2, 0, 0, cv2.BORDER_CONSTANT))
        white = (255, 255, 255)
        cv2.putText(rows[-1], level, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, white, 1, cv2.LINE_AA)
    return np.vstack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a set at all levels, or writes one photo.")
    parser.add_argument("set", help="nuclei or visdrone, of $DETECTRON2_DATASETS; or a photograph")
    parser.add_argument("--level", choices=LEVELS, help="of a photograph, which is written as PNG")
    parser.add_argument("--output", help="levels.jpg, or the level's name and .png, by default")
    args = parser.parse_args()
    output = args.output or (f"{args.level}.png" if args.level else "levels.jpg")
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    if args.level:
        require_new(output)
        pixels = cv2.imread(args.set)
        if pixels is None:
            parser.error(f"{args.set} can't be read as a photograph")
        drawn = degrade(pixels, args.level, 0)
    elif (folder / f"{args.set}_val.json").is_file():
        drawn = sheet(folder, f"{args.set}_val")
    else:
        parser.error(f"{folder} has no {args.set}_val.json; a photograph needs --level")
    cv2.imwrite(output, drawn, [cv2.IMWRITE_JPEG_QUALITY, 75])
    print(output)


if __name__ == "__main__":
    run(main)
