"""How recognisable an object is by itself, and what an oracle adds that knows the other objects.

    cd experiments; python -m faint.headroom SET [LEVEL ...]    # a line each in results/

No detector: a small convolutional classifier of crops at true places. "Single" sees the crop. The
oracle also gets the mean of the features of the photograph's other true objects, by a network of
its own that learns what to make of it. The difference is what relations can give at this level.
The classes are the set's; for a set of one class, an object or a place without one.
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .degrade import LEVELS, degrade

CROP = 32  # pixels that a crop is scaled to
MARGIN = 1.5  # a crop's side in those of its box
FEATURES = 64
EPOCHS = 15
PHOTOGRAPHS = 8  # a step
OBJECTS = 48  # of a photograph, at most, in a step
SEEDS = (1, 2, 3)
RESULTS = Path(__file__).parents[1] / "results" / "faint_headroom.jsonl"

Photograph = tuple[Tensor, Tensor, Tensor]  # crops (n, 3, CROP, CROP), classes (n,), is an object


def read_crops(folder: Path, name: str, level: str) -> list[Photograph]:
    """The crops of each photograph of a set; crowds are left out."""
    record = json.loads((folder / f"{name}.json").read_text())
    classes = {one["id"]: index for index, one in enumerate(record["categories"])}
    objects = defaultdict(list)
    for one in record["annotations"]:
        if not one.get("iscrowd") and min(one["bbox"][2:]) >= 1:
            objects[one["image_id"]].append((one["bbox"], classes[one["category_id"]]))
    photographs = []
    for image in record["images"]:
        pixels = degrade(cv2.imread(str(folder / name / image["file_name"])), level, image["id"])
        found = objects[image["id"]]
        if len(found) < 2:
            continue
        boxes = [box for box, _ in found]
        labels = [label for _, label in found]
        if len(classes) == 1:
            empty = places_without(boxes, pixels.shape[:2], image["id"])
            boxes, labels = boxes + empty, [1] * len(found) + [0] * len(empty)
        crops = torch.from_numpy(np.stack([crop(pixels, box) for box in boxes]))
        is_object = torch.arange(len(boxes)) < len(found)
        photographs.append((crops, torch.tensor(labels), is_object))
    return photographs


def crop(pixels: np.ndarray, box: list[float]) -> np.ndarray:
    """(3, CROP, CROP) uint8: a square around a box x, y, width, height, mirrored at the edges."""
    x, y, width, height = box
    side = MARGIN * max(width, height)
    scale = CROP / side
    matrix = np.array(
        [
            [scale, 0, CROP / 2 - scale * (x + width / 2)],
            [0, scale, CROP / 2 - scale * (y + height / 2)],
        ]
    )
    kind = cv2.INTER_LINEAR
    square = cv2.warpAffine(pixels, matrix, (CROP, CROP), flags=kind, borderMode=cv2.BORDER_REFLECT)
    return square.transpose(2, 0, 1).copy()


def places_without(
    boxes: list[list[float]], size: tuple[int, int], image_id: int
) -> list[list[float]]:
    """As many boxes as there are, of the same sizes, whose centres lie in none of them."""
    random, places = np.random.default_rng(image_id), []
    for _, _, width, height in boxes:
        for _ in range(50):
            x, y = random.uniform(0, size[1]), random.uniform(0, size[0])
            if not any(a <= x <= a + w and b <= y <= b + h for a, b, w, h in boxes):
                places.append([x - width / 2, y - height / 2, width, height])
                break
    return places


class Classifier(nn.Module):
    """Classes of crops; with ``others``, from the mean features of the other objects, too."""

    def __init__(self, classes: int, others: bool):
        super().__init__()
        self.others = others
        widths = [3, 24, 48, FEATURES]
        self.features = nn.Sequential(
            *(self._stage(a, b) for a, b in zip(widths, widths[1:])),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * FEATURES, FEATURES),
            nn.ReLU(),
        )
        inputs = 3 * FEATURES if others else FEATURES
        self.classify = nn.Sequential(
            nn.Linear(inputs, FEATURES), nn.ReLU(), nn.Dropout(0.3), nn.Linear(FEATURES, classes)
        )

    @staticmethod
    def _stage(channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, batch: list[Photograph]) -> Tensor:
        """(n, classes) for the crops of all photographs of a batch, one after the other."""
        crops = torch.cat([crops for crops, _, _ in batch])
        features = self.features(crops.float() / 127.5 - 1)
        if not self.others:
            return self.classify(features)
        inputs, start = [], 0
        for crops, _, is_object in batch:
            own = features[start : start + len(crops)]
            start += len(crops)
            known = is_object[:, None].float()
            count = known.sum() - known
            mean = ((own * known).sum(0) - own * known) / count.clamp(min=1)
            inputs.append(torch.cat([own, mean, own * mean], dim=1))
        return self.classify(torch.cat(inputs))


def train(photographs: list[Photograph], classes: int, others: bool, seed: int) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier(classes, others)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(photographs) // PHOTOGRAPHS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(EPOCHS):
        for indices in torch.randperm(len(photographs)).split(PHOTOGRAPHS):
            batch = [some(photographs[index]) for index in indices]
            loss = F.cross_entropy(model(batch), torch.cat([labels for _, labels, _ in batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def some(photograph: Photograph) -> Photograph:
    """At most ``OBJECTS`` of a photograph, mirrored at random, all in the same way."""
    chosen = torch.randperm(len(photograph[0]))[:OBJECTS]
    crops, labels, is_object = (part[chosen] for part in photograph)
    if torch.rand(()) < 0.5:
        crops = crops.flip(3)
    return crops, labels, is_object


@torch.no_grad()
def accuracy(model: Classifier, photographs: list[Photograph]) -> float:
    """The share of crops whose class is right."""
    right = [model([one]).argmax(dim=1) == one[1] for one in photographs]
    return torch.cat(right).float().mean().item()


def measure(folder: Path, name: str, level: str) -> dict[str, Any]:
    """One line of results: accuracies of each seed, and the most frequent class's share."""
    sets = [read_crops(folder, f"{name}_{split}", level) for split in ("train", "val")]
    classes = 1 + max(int(labels.max()) for photographs in sets for _, labels, _ in photographs)
    tested = torch.cat([labels for _, labels, _ in sets[1]])
    line: dict[str, Any] = {"set": name, "level": level, "crops": len(tested)}
    line["chance"] = tested.bincount().max().item() / len(tested)
    for kind, others in (("single", False), ("oracle", True)):
        line[kind] = []
        for seed in SEEDS:
            line[kind].append(accuracy(train(sets[0], classes, others, seed), sets[1]))
            print(f"{name}, {level}: {kind}, seed {seed}: {line[kind][-1]:.4f}", flush=True)
    return line


def verdict(line: dict[str, Any]) -> str:
    """What a line says by the protocol: headroom needs 2 points, and no overlap of the seeds."""
    single, oracle = (100 * np.array(line[kind]) for kind in ("single", "oracle"))
    points = oracle.mean() - single.mean()
    has = "has" if points > 2 and oracle.min() > single.max() else "has no"
    return (
        f"{line['set']}, {line['level']}: one crop {single.mean():.1f} %, the oracle "
        f"{oracle.mean():.1f} %, of {len(single)} seeds: {points:+.1f} points; it {has} headroom"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Single crops against an oracle, level by level.")
    parser.add_argument(
        "set",
        help="SET_train.json, SET_train/ and the same for SET_val are in $DETECTRON2_DATASETS",
    )
    parser.add_argument("levels", nargs="*", default=list(LEVELS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="a line for each level")
    args = parser.parse_args()
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    text = args.output.read_text() if args.output.exists() else ""
    known = [json.loads(line) for line in text.splitlines()]
    measured = {(line["set"], line["level"]): line for line in known}
    for level in args.levels:
        if (args.set, level) not in measured:
            measured[args.set, level] = measure(folder, args.set, level)
            with args.output.open("a") as file:
                file.write(json.dumps(measured[args.set, level]) + "\n")
        print(verdict(measured[args.set, level]), flush=True)


if __name__ == "__main__":
    main()
