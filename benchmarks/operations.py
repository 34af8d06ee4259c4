"""How many operations a model asks for, which on a GPU is what one image costs.

    python benchmarks/operations.py

Counts what +3ENL asks for beyond the plain pyramid: R50, a padded batch of two images. Operations
are those that compute or copy; dispatched ones include views, which a processor sees but a GPU
doesn't. The numbers are exact for one version of PyTorch, whatever the machine.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_backbone
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode  # PyTorch has no public one

from enl_detectron2 import add_enl_config


class Operations(TorchDispatchMode):
    """Counts what PyTorch is asked for within it, by name; ``views`` apart."""

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.views: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        returns = function._schema.returns  # which no public attribute gives
        is_view = any(one.alias_info and not one.alias_info.is_write for one in returns)
        if function.namespace != "prim":  # a question to Python's side, such as for a type
            (self.views if is_view or name == "_unsafe_view" else self.operations)[name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def dispatched(self) -> int:
        return self.operations.total() + self.views.total()


def build_pyramid(block: str) -> nn.Module:
    """Faster R-CNN R50-FPN's backbone with a block at strides 8 to 32, or without ("")."""
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    add_enl_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "ENL_FPN"
    cfg.MODEL.ENL_FPN.BLOCK = block
    return build_backbone(cfg)


def padded_batch() -> torch.Tensor:
    """Two images (2, 3, 128, 160), of which one is smaller."""
    images = torch.randn(2, 3, 128, 160)
    images[1, :, 100:] = 0
    images[1, :, :, 90:] = 0
    return images


def count(model: nn.Module, images: torch.Tensor, mode: str) -> Operations:
    """What one call asks for: ``mode`` is "inference", "autocast" or "training" with backward."""
    model.train(mode == "training")
    call = _call(model, images, mode)
    call()  # warnings of a first batch
    with Operations() as operations:
        call()
    return operations


def _call(model: nn.Module, images: torch.Tensor, mode: str) -> Callable[[], None]:
    def call() -> None:
        with torch.set_grad_enabled(mode == "training"), _autocast(mode == "autocast"):
            total = sum(level.float().sum() for level in model(images).values())
            if mode == "training":
                total.backward()

    return call


@contextmanager
def _autocast(enabled: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        yield


def beyond_plain(mode: str) -> tuple[int, int, Counter[str]]:
    """(operations, dispatched) of three blocks alone, and the operations by name."""
    images = padded_batch()
    enl = count(build_pyramid("ENLBlock"), images, mode)
    plain = count(build_pyramid(""), images, mode)
    names = enl.operations - plain.operations
    operations = enl.operations.total() - plain.operations.total()
    return operations, enl.dispatched - plain.dispatched, names


def main() -> None:
    print(f"PyTorch {torch.__version__}, three ENL blocks beyond the plain R50-FPN, two images:")
    for mode in ("inference", "autocast", "training"):
        operations, dispatched, names = beyond_plain(mode)
        print(f"{mode}: {operations} operations, {dispatched} dispatched")
        print("   ", ", ".join(f"{name} {number}" for name, number in names.most_common()))


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
