"""torchvision's detectors with ENL blocks in the top-down stream of their pyramid."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from enl_detectron2.layers import ENLBlock, MapBlock, image_extent, map_extent


def add_blocks(model):
    """Puts blocks into a detector with a pyramid; they start as the identity. Returns the model."""
    model.backbone = ENLBackbone(model.backbone)
    return model


class ENLBackbone(nn.Module):
    """torchvision's BackboneWithFPN and its weights, with a block at strides 8 and above."""

    def __init__(self, plain):
        super().__init__()
        self.body, self.fpn, self.out_channels = plain.body, plain.fpn, plain.out_channels
        self.strides = strides(plain.body)
        self.relations = nn.ModuleList(
            ENLBlock(self.out_channels) if stride >= 8 else MapBlock(nn.Identity())
            for stride in self.strides
        ).to(next(plain.parameters()))
        for block in self.relations:
            if isinstance(block, ENLBlock):
                block.zero_init()

    def forward(self, images):
        """Images (B, 3, H, W), normalised and then padded with zeros → maps by name, from high to
        low resolution."""
        features, sizes = self.body(images), image_extent(images)
        names, maps = list(features), list(features.values())
        results, refined = [], None
        for level in reversed(range(len(maps))):
            merged = self.fpn.get_result_from_inner_blocks(maps[level], level)
            if refined is not None:
                merged = merged + F.interpolate(refined, size=merged.shape[2:])
            refined = self.relations[level](merged, map_extent(sizes, self.strides[level]))
            results.insert(0, self.fpn.get_result_from_layer_blocks(refined, level))
        if self.fpn.extra_blocks is not None:
            results, names = self.fpn.extra_blocks(results, maps, names)
        return OrderedDict(zip(names, results))


@torch.no_grad()
def strides(body, size=256):
    """The strides of the maps that a network gives: they differ from detector to detector."""
    was_training, weight = body.training, next(body.parameters())
    maps = body.eval()(weight.new_zeros(1, 3, size, size))
    body.train(was_training)
    return [size // map_.shape[2] for map_ in maps.values()]
