"""Relational digits: scenes in which the rest of the image identifies a tiny digit.

Levi and Ullman argue that a small object, hard to recognise by itself, can often be recognised by
its relations: it is one of several repetitions of the same thing, or a larger, clearer relative of
it stands elsewhere in the image. This data set holds that situation and little else. Several tiny
digits, all of one class, are strewn over a cluttered, noisy background, and usually one large,
clear digit of that class is there too. Tiny distractors, digits with their pixels shuffled, have
the same ink but are nothing and carry no label. Small, faint and noisy enough, one tiny digit can
hardly be recognised, whereas the scene still identifies it. `SceneConfig.relation` takes the cues
apart.

tools/draw_digits.py writes a train and a test split in COCO format, deterministic from a seed.

The digits are real handwriting: digits.npz has 1,797 samples of 8×8 pixels from 0 to 16, the test
part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0).
"""

import itertools
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

logger = logging.getLogger(__name__)

CATEGORIES = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
RELATIONS = ("both", "repeats", "large", "none")
SPLITS = ("train", "test")

_VERSION = 1  # of what is drawn: raise it when the same settings give other scenes than before
_SAMPLES = Path(__file__).with_name("digits.npz")
_SAMPLE_SIDE = 8  # pixels; the side of a digit there
_FAINTEST_INK = 0.1  # of full ink; what is fainter can't be seen and must not widen a box
_GAP = 2  # pixels that stay free between two objects
_FULLEST = 0.4  # largest part of a scene that objects may take; random placement jams near 0.5
_LAYOUTS = 100  # layouts to try before giving up


def _require(condition, sentence):
    if not condition:
        raise ValueError(sentence)


def _setting(default, meaning):
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class SceneConfig:
    """What a scene looks like.

    Sides are pixels: the longer side of a digit's box is at most the digit's side and seldom much
    below it. Contrast and noise are on a grey scale from 0 (black) to 1 (white). Pairs are (lowest,
    highest), both included, and every whole number between is as likely.

    `relation` says what identifies a tiny digit: "repeats" (several tiny digits, all of one
    class, nothing large), "large" (one tiny digit and always a large one of its class), "both"
    (several tiny digits of one class and, with `large_probability`, a large one), or "none"
    (several tiny digits, the class of each drawn by itself, nothing large).

    Raises:
        ValueError: a setting is out of its range, or the objects don't fit into the image.
    """

    image_size: int = _setting(256, "height and width of a scene, pixels")
    tiny_side: tuple[int, int] = _setting((12, 18), "side of tiny digits and distractors, pixels")
    large_side: tuple[int, int] = _setting((64, 96), "side of the large digit, pixels")
    num_tiny: tuple[int, int] = _setting((6, 10), "number of tiny digits; one in 'large'")
    num_distractors: tuple[int, int] = _setting((4, 8), "number of unlabelled distractors")
    large_probability: float = _setting(0.8, "how often a scene of 'both' has a large digit")
    contrast: float = _setting(0.35, "full ink's difference from what it is drawn on, 0..1")
    noise: float = _setting(0.13, "standard deviation of each pixel's noise, on the scale 0..1")
    relation: str = _setting("both", "what identifies a tiny digit: " + ", ".join(RELATIONS))

    def __post_init__(self):
        least = {"tiny_side": 8, "large_side": 8, "num_tiny": 1, "num_distractors": 0}
        for name, minimum in least.items():
            lowest, highest = getattr(self, name)
            _require(
                minimum <= lowest <= highest,
                f"{name} must be a pair (lowest, highest) in this order and not below {minimum},"
                f" but it is ({lowest}, {highest}).",
            )
        for name, lowest in {"large_probability": 0, "contrast": 0.01, "noise": 0}.items():
            value = getattr(self, name)
            _require(lowest <= value <= 1, f"{name} must be from {lowest} to 1, but it is {value}.")
        _require(
            self.relation in RELATIONS,
            f"relation must be one of {', '.join(RELATIONS)}, but it is {self.relation!r}.",
        )

        num_tiny = 1 if self.relation == "large" else self.num_tiny[1]
        area = (num_tiny + self.num_distractors[1]) * (self.tiny_side[1] + _GAP) ** 2
        if self.relation in ("both", "large"):
            area += (self.large_side[1] + _GAP) ** 2
        _require(
            self.image_size > 0 and area <= _FULLEST * self.image_size**2,
            f"The objects may need {area} pixels, more than {_FULLEST:.0%} of a scene of image_size"
            f" {self.image_size}: choose a larger image_size, or fewer or smaller objects.",
        )


# The demo's, which configs/cpu/ trains on: small and clear, so that minutes are enough.
DEMO = SceneConfig(
    image_size=160,
    num_tiny=(3, 5),
    large_side=(40, 64),
    num_distractors=(2, 4),
    contrast=0.6,
    noise=0.05,
)
DEMO_COUNTS = {"num_train": 2000, "num_test": 200}


class DigitSamples(NamedTuple):
    """Handwritten digits: `ink` (N, 8, 8) float32 from 0 (paper) to 1, `labels` (N,) int 0..9."""

    ink: np.ndarray
    labels: np.ndarray


def load_digit_samples(split: str) -> DigitSamples:
    """The handwritten digits that scenes of `split` ("train" or "test") are drawn from.

    Every third sample is for testing, whatever the seed: no test scene of any seed shows a sample
    that a training scene of any seed shows.
    """
    with np.load(_SAMPLES) as samples:
        images, labels = samples["images"], samples["labels"].astype(int)
    chosen = (np.arange(len(labels)) % 3 == 0) == (split == "test")
    return DigitSamples((images[chosen] / 16).astype(np.float32), labels[chosen])


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of scene `index` of `split`: its own, however many scenes there are."""
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
    return np.random.default_rng(sequence)


def draw_scene(
    rng: np.random.Generator, digits: DigitSamples, config: SceneConfig
) -> tuple[np.ndarray, list[dict]]:
    """Draws one scene.

    Args:
        rng: where all that is random comes from; see `scene_rng`.
        digits: the samples to draw; classes are picked evenly among those it holds.
        config: what the scene looks like.

    Returns:
        The image, (image_size, image_size, 3) uint8, BGR with three equal channels; and one dict a
        digit with COCO's `bbox` ([x, y, width, height], whole pixels), `area` (of the box),
        `category_id` (the digit + 1) and `iscrowd` (0). A large digit comes first.

    Raises:
        RuntimeError: no room for the objects was found, which takes few big ones in a small scene.
    """
    classes, num_large = _draw_classes(rng, np.unique(digits.labels), config)
    patches = [digits.ink[sample] for sample in _pick_samples(rng, digits.labels, classes)]
    # Distractors come from any class: the amount of their ink must not tell that of the scene.
    strays = rng.integers(len(digits.labels), size=_draw_between(rng, config.num_distractors))
    patches += [rng.permutation(patch.ravel()).reshape(patch.shape) for patch in digits.ink[strays]]

    limits = [config.large_side] * num_large
    limits += [config.tiny_side] * (len(patches) - num_large)
    inks = [
        _enlarge(patch, _draw_between(rng, sides))
        for patch, sides in zip(patches, limits, strict=True)
    ]
    corners = _place(rng, [ink.shape for ink in inks], config.image_size)

    sign = int(rng.choice([-1, 1]))  # dark ink on bright ground, or bright ink on dark
    scene = _draw_background(rng, config.image_size, mean=0.5 - 0.15 * sign)
    boxes = []
    for ink, (x, y) in zip(inks, corners, strict=True):
        height, width = ink.shape
        scene[y : y + height, x : x + width] += sign * config.contrast * ink
        boxes.append([x, y, width, height])
    scene += config.noise * rng.standard_normal(scene.shape, dtype=np.float32)

    annotations = [
        {"bbox": box, "area": box[2] * box[3], "category_id": int(label) + 1, "iscrowd": 0}
        for box, label in zip(boxes, classes, strict=False)  # distractors, the last, have no class
    ]
    grey = np.rint(255 * scene.clip(0, 1)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2), annotations


def _draw_between(rng, limits):
    return int(rng.integers(*limits, endpoint=True))


def _draw_classes(rng, labels, config):
    """The class of every digit, that of a large one first, and the number of large ones."""
    num_tiny = 1 if config.relation == "large" else _draw_between(rng, config.num_tiny)
    if config.relation == "none":
        return rng.choice(labels, size=num_tiny), 0
    chance = {"both": config.large_probability, "repeats": 0, "large": 1}[config.relation]
    num_large = int(rng.random() < chance)
    return np.full(num_large + num_tiny, rng.choice(labels)), num_large


def _pick_samples(rng, labels, classes):
    """One sample for each of `classes`; none comes twice until all of its class have come."""
    order = rng.permutation(len(labels))
    piles = {c: itertools.cycle(order[labels[order] == c]) for c in np.unique(classes)}
    return [next(piles[c]) for c in classes]


def _enlarge(patch, side):
    """The ink of an 8×8 patch, from 0 to 1, enlarged and cropped to at most `side` × `side`."""
    # With paper around it, ink at the patch's edge fades out instead of ending in a cut. It does so
    # within half a pixel on each side, so that 9 of the padded patch's 10 pixels become `side`.
    padded_side = round(side * (_SAMPLE_SIDE + 2) / (_SAMPLE_SIDE + 1))
    ink = cv2.resize(np.pad(patch, 1), (padded_side, padded_side), interpolation=cv2.INTER_CUBIC)
    ink = ink.clip(0, 1)
    ink[ink < _FAINTEST_INK] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(rng, shapes, image_size):
    """Upper left corners (x, y) at which boxes of (height, width) lie in the image and apart."""
    for _ in range(_LAYOUTS):
        corners = []
        for height, width in shapes:
            free = np.ones((image_size - height + 1, image_size - width + 1), dtype=bool)
            for (x, y), (other_height, other_width) in zip(corners, shapes, strict=False):
                top, left = max(0, y - height - _GAP + 1), max(0, x - width - _GAP + 1)
                free[top : y + other_height + _GAP, left : x + other_width + _GAP] = False
            places = np.flatnonzero(free)
            if not places.size:
                break
            y, x = divmod(int(rng.choice(places)), free.shape[1])
            corners.append((x, y))
        else:
            return corners
    raise RuntimeError(f"No room was found for {len(shapes)} objects in {image_size} pixels.")


def _draw_background(rng, size, mean):
    """(size, size) float32: soft shading, faint blobs, lines too long to be taken for digits."""
    shading = rng.normal(mean, 0.05, size=(5, 5)).astype(np.float32)
    shading = cv2.resize(shading, (size, size), interpolation=cv2.INTER_CUBIC)

    clutter = np.full((size, size), 128, dtype=np.uint8)  # 8 bits, for OpenCV's smooth lines
    for _ in range(max(1, round(10 * (size / 256) ** 2))):  # as dense at every size
        centre, axes = rng.integers(size, size=2), rng.integers(8, 40, size=2)
        tilt, level = rng.uniform(0, 180), 128 + int(rng.integers(-20, 21))
        cv2.ellipse(
            clutter, centre.tolist(), axes.tolist(), tilt, 0, 360, level, cv2.FILLED, cv2.LINE_AA
        )
        middle, angle = rng.integers(size, size=2), rng.uniform(0, np.pi)
        half = (rng.uniform(30, 90) * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        ends = (middle - half).tolist(), (middle + half).tolist()
        level, width = 128 + int(rng.integers(-36, 37)), int(rng.integers(1, 4))
        cv2.line(clutter, *ends, level, width, cv2.LINE_AA)
    return shading + cv2.GaussianBlur((clutter.astype(np.float32) - 128) / 255, (0, 0), 1)


def write_relational_digits(
    folder: str | os.PathLike,
    *,
    num_train: int = 1000,
    num_test: int = 200,
    seed: int = 0,
    config: SceneConfig | None = None,
) -> None:
    """Writes the data set: `folder`/train.json, train/*.png, test.json, test/*.png, config.json.

    Scene i of a split is the same for every number of scenes. A folder that holds this very data
    set already is kept, and one that an interrupted call left incomplete is completed.

    Args:
        folder: where to write; made if it doesn't exist.
        num_train: number of training scenes.
        num_test: number of test scenes.
        seed: what the scenes are drawn from, a whole number from 0.
        config: what a scene looks like, `SceneConfig()` if None.

    Raises:
        ValueError: a number is too small.
        FileExistsError: `folder` holds something else, which is left as it is.
    """
    numbers = {"num_train": num_train, "num_test": num_test, "seed": seed}
    least = {"num_train": 1, "num_test": 1, "seed": 0}
    for name, value in numbers.items():
        _require(value >= least[name], f"{name} must be at least {least[name]}, but it is {value}.")
    folder, config = Path(folder), config or SceneConfig()
    _claim(folder, {"relational_digits": _VERSION, **numbers, **asdict(config)})

    counts = {"train": num_train, "test": num_test}
    missing = [split for split in SPLITS if not _is_complete(folder, split, counts[split])]
    for split in missing:
        _write_split(folder, split, counts[split], seed, config)
        logger.info("Wrote %d %s scenes to %s.", counts[split], split, folder)
    if not missing:
        logger.info("Reused %s: it holds these relational digits already.", folder)


def _claim(folder, settings):
    """Marks `folder` as the place of this very data set, unless it is that of something else."""
    marker, text = folder / "config.json", json.dumps(settings, indent=2) + "\n"
    if marker.is_file() and marker.read_text() == text:
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} holds something else than these relational digits: choose another folder,"
            " or delete it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(text)


def _image_name(index):
    return f"{index:06d}.png"


def _is_complete(folder, split, count):
    images = (folder / split / _image_name(index) for index in range(count))
    return (folder / f"{split}.json").is_file() and all(image.is_file() for image in images)


def _write_split(folder, split, count, seed, config):
    digits = load_digit_samples(split)
    (folder / split).mkdir(exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        scene, drawn = draw_scene(scene_rng(seed, split, index), digits, config)
        name, (height, width) = _image_name(index), scene.shape[:2]
        # One channel is enough: all readers, detectron2's too, make three equal ones of it.
        cv2.imwrite(str(folder / split / name), scene[:, :, 0])
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        for annotation in drawn:
            # From 1, because COCO's evaluation takes a match with annotation 0 for no match.
            annotations.append({"id": len(annotations) + 1, "image_id": index, **annotation})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    # Last, so that where this file is, all of the split is.
    (folder / f"{split}.json").write_text(json.dumps(content))
