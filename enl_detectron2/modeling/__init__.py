from .build import RELATION_BLOCK_REGISTRY
from .enl_fpn import ENL_FPN

__all__ = ["ENL_FPN", "RELATION_BLOCK_REGISTRY"]
