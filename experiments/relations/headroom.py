"""How much better a tiny digit is recognised from its whole scene than by itself.

    cd experiments; python -m relations.headroom

No detector: a small classifier of crops at the digits' true places, trained on single crops. It is
tested on single crops, and on scenes, where its log probabilities are summed over all tiny digits
of a scene, which are of one class. The difference is what relations can give; a data set without
it can't ask whether a detector uses them. Takes a minute for each level; writes headroom.json.
"""

import json
from pathlib import Path

import numpy as np
import torch
from scenes import draw_scene, load_digit_samples, scene_rng
from torch import nn
from torch.nn import functional as F

from .scenes import LEVELS, scene_config

RESULTS = Path(__file__).resolve().parents[1] / "results"
CROP = 20  # pixels; all of a tiny digit wherever its box lies on the grid
HIDDEN_UNITS = 128
SCENES = {"train": 4000, "test": 400}
EPOCHS = 12


def main() -> None:
    results = {level: measure(level, SCENES) for level in LEVELS}
    for level, row in results.items():
        print(f"{level:8}", *(f"{name} {value:.3f}" for name, value in row.items()))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "headroom.json").write_text(json.dumps(results, indent=1) + "\n")


def measure(level: str, scenes: dict[str, int]) -> dict[str, float]:
    """The share of test digits recognised from one crop, and from all of the scene's."""
    crops, labels, _ = tiny_digits(level, "train", scenes["train"])
    classifier = train(crops, labels)
    crops, labels, scene = tiny_digits(level, "test", scenes["test"])
    with torch.no_grad():
        evidence = classifier(crops).log_softmax(dim=1)
    pooled = torch.zeros(scenes["test"], evidence.shape[1]).index_add_(0, scene, evidence)
    return {
        "single": accuracy(evidence, labels),
        "pooled": accuracy(pooled[scene], labels),
    }


def tiny_digits(level: str, split: str, count: int) -> tuple[torch.Tensor, ...]:
    """All tiny digits of ``count`` scenes of repetitions: crops (n, CROP²) from -1 to 1, the
    digits (n,), and which scene they are from (n,)."""
    config, samples = scene_config(level, "repeats"), load_digit_samples(split)
    crops, labels, scenes = [], [], []
    for index in range(count):
        image, annotations = draw_scene(scene_rng(0, split, index), samples, config)
        padded = np.pad(image[:, :, 0], CROP // 2, mode="reflect")
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            top, left = y + height // 2, x + width // 2  # of the crop, as the padding shifts it
            crops.append(padded[top : top + CROP, left : left + CROP].ravel())
            labels.append(annotation["category_id"] - 1)
            scenes.append(index)
    pixels = torch.from_numpy(np.stack(crops)).float() / 127.5 - 1
    return pixels, torch.tensor(labels), torch.tensor(scenes)


def train(crops: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Linear(crops.shape[1], HIDDEN_UNITS),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(HIDDEN_UNITS, 10),
    )
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(128):
            loss = F.cross_entropy(classifier(crops[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.eval()


def accuracy(evidence: torch.Tensor, labels: torch.Tensor) -> float:
    return (evidence.argmax(dim=1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
