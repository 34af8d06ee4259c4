"""What the drone's grid compares beside this project's own: a trunk and an oracle.

The trunk is YOLOX-nano's, with the weights that ``trunk.py`` makes. The oracle is a plain detector
that is told which objects a photograph shows: what context could add at most.
"""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone, GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from enl_detectron2.layers import RelationBlock
from enl_detectron2.modeling import RELATION_BLOCK_REGISTRY, relation_blocks
from enl_detectron2.training.data import register_coco_format

STEM_CHANNELS = 16
CHANNELS = {"dark2": 32, "dark3": 64, "dark4": 128, "dark5": 256}  # strides 4 to 32
DEPTHS = {"dark2": 1, "dark3": 3, "dark4": 3, "dark5": 1}
POOLED = (5, 9, 13)  # the windows of dark5's pyramid


@BACKBONE_REGISTRY.register()
def build_yolox_nano_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """CSPDarknet of YOLOX-nano, batch norm folded in.

    ``MODEL.BACKBONE.FREEZE_AT`` counts the stages that stay as they are, the stem being the first,
    as for detectron2's ResNet.
    """
    return YOLOXNano(cfg.MODEL.BACKBONE.FREEZE_AT)


class YOLOXNano(Backbone):
    """(B, 3, H, W) to four maps of 32, 64, 128 and 256 channels at strides 4 to 32."""

    def __init__(self, freeze_at: int = 0):
        super().__init__()
        self.stem = Convolution(12, STEM_CHANNELS, 3)
        channels = STEM_CHANNELS
        for name, width in CHANNELS.items():
            self.add_module(name, Stage(channels, width, DEPTHS[name], name == "dark5"))
            channels = width
        for stage in [self.stem, *(getattr(self, name) for name in CHANNELS)][:freeze_at]:
            stage.requires_grad_(False)
        self._out_features = list(CHANNELS)
        self._out_feature_channels = dict(CHANNELS)
        self._out_feature_strides = {name: 4 << i for i, name in enumerate(CHANNELS)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = self.stem(torch.cat(corners, dim=1))
        features = {}
        for name in self._out_features:
            x = features[name] = getattr(self, name)(x)
        return features

    @property
    def size_divisibility(self) -> int:
        return 32


class Convolution(nn.Conv2d):
    """A convolution with bias that keeps the size unless it has a stride, then SiLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, size, stride, size // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class Separable(nn.Module):
    """A 3×3 convolution of each channel, then one of each position."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.depthwise = Convolution(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = Convolution(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Bottleneck(Separable):
    """Half of a residual block; the sum is :class:`CSP`'s."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 1)
        self.conv1 = Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv1(x))


class CSP(nn.Module):
    """Cross-stage partial: one half of the channels passes through the bottlenecks."""

    def __init__(self, channels: int, depth: int, residual: bool):
        super().__init__()
        half = channels // 2
        self.residual = residual
        self.depth = depth
        self.conv1 = Convolution(channels, half)
        self.conv2 = Convolution(channels, half)
        self.conv3 = Convolution(channels, channels)
        for index in range(depth):
            self.add_module(str(index), Bottleneck(half))

    def forward(self, x: Tensor) -> Tensor:
        inner, other = self.conv1(x), self.conv2(x)
        for index in range(self.depth):
            y = getattr(self, str(index))(inner)
            inner = inner + y if self.residual else y
        return self.conv3(torch.cat([inner, other], dim=1))


class SPP(nn.Module):
    """Spatial pyramid pooling: a map beside its maxima over larger and larger windows."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = Convolution(channels, half)
        self.conv2 = Convolution(half * (1 + len(POOLED)), channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pools = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in POOLED]
        return self.conv2(torch.cat([x, *pools], dim=1))


class Stage(nn.Module):
    """Half the size, and then the stage's blocks; the last one also pools."""

    def __init__(self, inputs: int, outputs: int, depth: int, last: bool):
        super().__init__()
        self.down = Separable(inputs, outputs, stride=2)
        self.spp = SPP(outputs) if last else nn.Identity()
        self.csp = CSP(outputs, depth, residual=not last)

    def forward(self, x: Tensor) -> Tensor:
        return self.csp(self.spp(self.down(x)))


@RELATION_BLOCK_REGISTRY.register()
class HistogramBlock(RelationBlock):
    """z = x + W h: the same at all positions, h (B, K) being what :class:`OracleRCNN` has set."""

    def __init__(self, channels: int, *, num_classes: int = 10):
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(num_classes, channels)
        self.histogram: Tensor | None = None

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        histogram = x.new_zeros(len(x), self.num_classes)
        if self.histogram is not None:
            histogram = self.histogram.to(x)
        return x + self.linear(histogram)[:, :, None, None]

    def zero_init(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


@META_ARCH_REGISTRY.register()
class OracleRCNN(GeneralizedRCNN):
    """Tells its blocks the objects of each whole photograph: log(1 + number) of each class.

    The numbers are the annotations', in training and in tests. A photograph that is in none of the
    sets counts as empty.
    """

    @configurable
    def __init__(self, *, histograms: dict[str, np.ndarray], num_classes: int, **parts: Any):
        super().__init__(**parts)
        self.histograms = histograms
        self.unknown = np.zeros(num_classes, dtype=np.float32)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        histograms = {}
        register_coco_format(cfg.DATASETS.COCO_FORMAT)  # wherever the model is built
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            for record in DatasetCatalog.get(name):
                classes = [a["category_id"] for a in record["annotations"] if not a["iscrowd"]]
                counts = np.bincount(np.array(classes, dtype=int), minlength=num_classes)
                histograms[record["file_name"]] = np.log1p(counts, dtype=np.float32)
        own = {"histograms": histograms, "num_classes": num_classes}
        return super().from_config(cfg) | own

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        of_images = [
            self.histograms.get(each.get("file_name"), self.unknown) for each in batched_inputs
        ]
        for block in relation_blocks(self).values():
            block.histogram = torch.from_numpy(np.stack(of_images)).to(self.device)
        return super().preprocess_image(batched_inputs)
