"""Which recipe trains a relation block: minutes a recipe, without a detector.

    cd experiments; python -m relations.probe --jobs 2

A small convolutional trunk with a receptive field of 39 pixels, one block, and a head that says
which digit stands at each known place of a scene with eight tiny digits of one class. A single crop
identifies only some; what exceeds that comes from the rest of the scene, only through the block.

Each recipe ends as a line of results/probe.jsonl, with its accuracy and with the norm of what the
block adds, in multiples of its input's, every hundred steps. It may be stopped at any time, and
only unfinished recipes start anew.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import numpy as np
import torch
from runner.results import append_line, read_lines
from scenes import (
    SceneConfig,
    draw_scene,
    load_digit_samples,
    scene_rng,
)
from torch import Tensor, nn
from torch.nn import functional as F

from enl_detectron2.layers import Conv5x5Block, ENLBlock, NonLocalBlock

from .retests import RESULTS

LINES = RESULTS / "probe.jsonl"
NUM_TINY = 8
SCENES = {"train": 6000, "test": 500}
CHANNELS = 64
BATCH = 16  # scenes
BLOCKS = {"ENL": ENLBlock, "NL": NonLocalBlock, "conv5": Conv5x5Block}


@dataclass(frozen=True)
class Recipe:
    """One training of the probe."""

    block: str = "ENL"  # a key of BLOCKS, or "" for none
    optimizer: str = "AdamW"
    rate: float = 2e-3
    rate_factor: float = 1.0  # of the block's parameters
    init_std: float = 0.01  # of the block's projections
    norm: str = ""  # of the block's input: "", "BN" or "GN"
    lateral: bool = True  # whether a linear 1×1 convolution stands before the block, as in FPN
    noise: float = 0.2
    steps: int = 1500
    seed: int = 1


# The start of every weight that keeps a map's scale: 1/√(its inputs).
SCALED = CHANNELS**-0.5
RECIPES = [
    Recipe(block=""),
    Recipe(),
    Recipe(init_std=SCALED),
    Recipe(block="", norm="BN"),
    Recipe(norm="BN"),
    Recipe(norm="GN"),
    Recipe(norm="GN", init_std=SCALED),
    Recipe(lateral=False),
    Recipe(init_std=SCALED, rate_factor=3.0),
    Recipe(block="", steps=3000),
    Recipe(steps=3000),
    Recipe(init_std=SCALED, steps=3000),
    Recipe(block="NL", init_std=SCALED, steps=3000),
    Recipe(block="conv5", init_std=SCALED / 5, steps=3000),
    # The papers' optimiser, for longer.
    Recipe(block="", optimizer="SGD", rate=0.02, steps=6000),
    Recipe(optimizer="SGD", rate=0.02, steps=6000),
    Recipe(init_std=SCALED, optimizer="SGD", rate=0.02, steps=6000),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="recipes side by side, a thread each")
    jobs = parser.parse_args().jobs
    # Processes of their own, as each seeds its numbers.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(train_and_record, left()))


def left() -> list[Recipe]:
    finished = [Recipe(**line["recipe"]) for line in read_lines(LINES, "recipe")]
    return [recipe for recipe in RECIPES if recipe not in finished]


def train_and_record(recipe: Recipe) -> None:
    torch.set_num_threads(1)
    append_line(LINES, {"recipe": asdict(recipe)} | train(recipe))
    print(recipe, flush=True)


class Probe(nn.Module):
    def __init__(self, recipe: Recipe):
        super().__init__()
        torch.manual_seed(recipe.seed)
        strides = (2, 2, 1, 1, 1, 1)
        widths = (1, 32, *[CHANNELS] * (len(strides) - 1))
        layers = []
        for stride, inputs, outputs in zip(strides, widths, (*widths[1:], CHANNELS)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        if recipe.lateral:
            layers.append(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=not recipe.norm))
        if recipe.norm:
            norms = {"BN": nn.BatchNorm2d, "GN": lambda channels: nn.GroupNorm(32, channels)}
            layers.append(norms[recipe.norm](CHANNELS))
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(CHANNELS, 128), nn.ReLU(), nn.Linear(128, 10))
        self.block = None
        if recipe.block:
            self.block = BLOCKS[recipe.block](CHANNELS)
            for name, parameter in self.block.named_parameters():
                if name.endswith("weight"):
                    nn.init.normal_(parameter, std=recipe.init_std)
        self.ratio = 0.0

    def forward(self, scenes: Tensor, places: Tensor) -> Tensor:
        """(B, 1, H, W) and (B, n, 2), the digits' centres x, y from -1 to 1 → (B · n, 10)."""
        x = self.trunk(scenes)
        if self.block is not None:
            z = self.block(x)
            with torch.no_grad():
                self.ratio = ((z - x).norm() / x.norm()).item()
            x = z
        features = F.grid_sample(x, places[:, None], align_corners=False)
        return self.head(features[:, :, 0].transpose(1, 2).flatten(0, 1))


def draw(split: str, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scenes (S, 1, 128, 128) uint8, digits' centres (S, 8, 2) from -1 to 1, labels (S, 8)."""
    config = SceneConfig(
        image_size=128,
        tiny_side=(10, 14),
        num_tiny=(NUM_TINY, NUM_TINY),
        contrast=0.3,
        noise=noise,
        relation="repeats",
    )
    samples = load_digit_samples(split)
    images, places, labels = [], [], []
    for index in range(SCENES[split]):
        image, annotations = draw_scene(scene_rng(0, split, index), samples, config)
        boxes = np.array([annotation["bbox"] for annotation in annotations])
        images.append(image[:, :, 0])
        places.append((boxes[:, :2] + boxes[:, 2:] / 2) / config.image_size * 2 - 1)
        labels.append([annotation["category_id"] - 1 for annotation in annotations])
    return (
        torch.from_numpy(np.stack(images))[:, None],
        torch.from_numpy(np.stack(places)).float(),
        torch.tensor(labels),
    )


def standardised(scenes: Tensor) -> Tensor:
    return scenes.float() / 64 - 2


def train(recipe: Recipe) -> dict:
    images, places, labels = draw("train", recipe.noise)
    probe = Probe(recipe)
    block = [] if probe.block is None else list(probe.block.parameters())
    rest = [p for name, p in probe.named_parameters() if not name.startswith("block.")]
    groups = [{"params": rest}, {"params": block, "lr": recipe.rate * recipe.rate_factor}]
    optimizer = (
        torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=1e-4)
        if recipe.optimizer == "AdamW"
        else torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, weight_decay=1e-4)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 100) * (0.1 if step > 0.8 * recipe.steps else 1),
    )
    ratios = []
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        batch = torch.randint(len(images), (BATCH,), generator=generator)
        scores = probe(standardised(images[batch]), places[batch])
        loss = F.cross_entropy(scores, labels[batch].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            ratios.append(round(probe.ratio, 3))
    return {"accuracy": round(accuracy(probe, recipe.noise), 4), "ratios": ratios}


@torch.no_grad()
def accuracy(probe: Probe, noise: float) -> float:
    images, places, labels = draw("test", noise)
    probe.eval()
    right = [
        (probe(standardised(image), place).argmax(dim=1) == label.flatten()).float().mean()
        for image, place, label in zip(images.split(50), places.split(50), labels.split(50))
    ]
    return float(np.mean(right))


if __name__ == "__main__":
    main()
