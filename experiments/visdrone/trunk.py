"""The trunk of the drone's detectors from YOLOX-nano's published checkpoint.

    cd experiments; python -m visdrone.trunk yolox_nano.pth

The checkpoint is the one of YOLOX's "legacy models" (its release 0.0.1, AP 25.3 on COCO), which was
trained on RGB with ImageNet's mean and deviation, as ``visdrone_rcnn.yaml`` says. The later one of
the same name (AP 25.8) expects other values, and would be of less use here. Batch norm is folded
into the convolutions; the trunk is written into ``$DETECTRON2_DATASETS``, where ``prepare.py``
looks for it.
"""

import argparse
from collections.abc import Mapping

from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import fuse_conv_bn_weights

from enl_detectron2.training.checkpoint_files import read_checkpoint
from enl_detectron2.utils.command_line import run
from enl_detectron2.utils.errors import ConfigError

from .network import YOLOXNano
from .prepare import DATASETS, TRUNK

EPSILON = 1e-3  # of YOLOX's batch norm
IN_BOTTLENECK = {"conv1": "conv1", "depthwise": "conv2.dconv", "pointwise": "conv2.pconv"}
IN_STAGE = {"depthwise": "dconv", "pointwise": "pconv"}


def published_name(name: str) -> str:
    """What YOLOX calls a convolution and its batch norm that :class:`YOLOXNano` calls ``name``."""
    if name == "stem":
        return "backbone.backbone.stem.conv"
    stage, block, *inner = name.split(".")
    place = {"down": 0, "spp": 1, "csp": 2 if stage == "dark5" else 1}[block]
    if len(inner) == 2:
        inner = ["m", inner[0], IN_BOTTLENECK[inner[1]]]
    else:
        inner = [IN_STAGE.get(inner[0], inner[0])]
    return ".".join(["backbone.backbone", stage, str(place), *inner])


def convert(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's weights (float16) and biases (float32).

    Args:
        published: the checkpoint's "model".

    Raises:
        ConfigError: (a ValueError) if it has no such layer, or one of another shape; names it.
    """
    trunk = {}
    for name, layer in YOLOXNano().named_modules():
        if not hasattr(layer, "weight"):
            continue
        theirs = published_name(name)
        keys = [f"{theirs}.conv.weight"]
        keys += [f"{theirs}.bn.{key}" for key in ("running_mean", "running_var", "weight", "bias")]
        if missing := [key for key in keys if key not in published]:
            raise ConfigError(f"this is no checkpoint of YOLOX-nano: it has no {missing[0]}")
        weight, mean, variance, scale, shift = (published[key].float() for key in keys)
        if weight.shape != layer.weight.shape:
            shapes = f"{tuple(weight.shape)}, YOLOX-nano's {tuple(layer.weight.shape)}"
            raise ConfigError(f"this is no checkpoint of YOLOX-nano: {keys[0]} is {shapes}")
        fused = fuse_conv_bn_weights(weight, None, mean, variance, EPSILON, scale, shift)
        trunk[f"{name}.weight"] = fused[0].detach().half()
        trunk[f"{name}.bias"] = fused[1].detach()
    return trunk


def main() -> None:
    parser = argparse.ArgumentParser(description="Converts YOLOX-nano's published checkpoint.")
    parser.add_argument("checkpoint", help="yolox_nano.pth")
    file = parser.parse_args().checkpoint
    save_file(convert(read_checkpoint(file)["model"]), DATASETS / TRUNK)
    print(f"{DATASETS / TRUNK} is written")


if __name__ == "__main__":
    run(main)
