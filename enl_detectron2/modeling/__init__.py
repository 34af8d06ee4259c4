from .build import RELATION_BLOCK_REGISTRY, relation_blocks
from .enl_fpn import ENL_FPN
from .non_local_resnet import NonLocalResNet, build_non_local_resnet_backbone

__all__ = [
    "ENL_FPN",
    "NonLocalResNet",
    "RELATION_BLOCK_REGISTRY",
    "build_non_local_resnet_backbone",
    "relation_blocks",
]
