"""torchvision's Faster R-CNN with ENL blocks in the top-down stream of its pyramid."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.ops import FeaturePyramidNetwork

from enl_detectron2.layers import ENLBlock, image_extent, map_extent


class ENLPyramid(FeaturePyramidNetwork):
    """torchvision's pyramid with a block at every level but the finest; its parameters fit."""

    def __init__(self, in_channels, out_channels, extra_blocks=None):
        super().__init__(in_channels, out_channels, extra_blocks)
        self.relations = nn.ModuleList(ENLBlock(out_channels) for _ in in_channels[1:])

    def forward(self, features, extents):
        """Maps by name, from high to low resolution, and the extent of the images on each."""
        names, maps = list(features), list(features.values())
        results, refined = [], None
        for level in reversed(range(len(maps))):
            merged = self.get_result_from_inner_blocks(maps[level], level)
            if refined is not None:
                merged = merged + F.interpolate(refined, size=merged.shape[2:])
            refined = self.relations[level - 1](merged, extents[level]) if level else merged
            results.insert(0, self.get_result_from_layer_blocks(refined, level))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, maps, names)
        return OrderedDict(zip(names, results))


class ENLBackbone(nn.Module):
    """torchvision's BackboneWithFPN, which passes on to the blocks where each image ends."""

    STRIDES = (4, 8, 16, 32)

    def __init__(self, plain):
        super().__init__()
        self.body, self.out_channels = plain.body, plain.out_channels
        laterals = [inner[0] for inner in plain.fpn.inner_blocks]
        channels = [lateral.in_channels for lateral in laterals]
        self.fpn = ENLPyramid(channels, self.out_channels, plain.fpn.extra_blocks)
        self.fpn.load_state_dict(plain.fpn.state_dict(), strict=False)  # the blocks are new

    def forward(self, images):
        """(B, 3, H, W), normalised, then padded with zeros, as torchvision's detectors do."""
        sizes = image_extent(images)
        extents = [map_extent(sizes, stride) for stride in self.STRIDES]
        return self.fpn(self.body(images), extents)


def build_detector(**options) -> FasterRCNN:
    """``fasterrcnn_resnet50_fpn(**options)`` with ENL blocks, which start as the identity."""
    model = fasterrcnn_resnet50_fpn(**options)
    model.backbone = ENLBackbone(model.backbone)
    for block in model.backbone.fpn.relations:
        block.zero_init()
    return model
