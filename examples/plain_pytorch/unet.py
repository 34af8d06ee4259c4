"""A U-Net whose decoder passes through ENL blocks, from coarse to fine."""

import torch
import torch.nn.functional as F
from torch import nn

from enl_detectron2.layers import ENLBlock


def convolutions(in_channels, out_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(),
    )


class ENLUNet(nn.Module):
    """Images (B, 3, H, W) in, logits (B, num_classes, H, W) out; H and W of any size."""

    def __init__(self, num_classes, widths=(32, 64, 128, 256)):
        super().__init__()
        levels = list(zip(widths[:-1], widths[1:]))  # fine and coarse, from high to low resolution
        self.stem = convolutions(3, widths[0])
        self.down = nn.ModuleList(convolutions(fine, coarse) for fine, coarse in levels)
        self.lateral = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in levels)
        self.up = nn.ModuleList(convolutions(2 * fine, fine) for fine, _ in levels)
        # One behind the coarsest map, and one behind each merge but the finest.
        self.relations = nn.ModuleList(ENLBlock(width) for width in widths[1:])
        self.classify = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images):
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(F.max_pool2d(maps[-1], 2)))
        refined = self.relations[-1](maps.pop())
        for level in reversed(range(len(maps))):
            coarse = F.interpolate(self.lateral[level](refined), size=maps[level].shape[2:])
            refined = self.up[level](torch.cat([maps[level], coarse], dim=1))
            if level:
                refined = self.relations[level - 1](refined)
        return self.classify(refined)
