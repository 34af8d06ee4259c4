from .build import RELATION_BLOCK_REGISTRY, relation_block_names
from .enl_fpn import ENL_FPN
from .non_local_resnet import build_non_local_resnet_backbone, insert_non_local_block

__all__ = [
    "ENL_FPN",
    "RELATION_BLOCK_REGISTRY",
    "build_non_local_resnet_backbone",
    "insert_non_local_block",
    "relation_block_names",
]
