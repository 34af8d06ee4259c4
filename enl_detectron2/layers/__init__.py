"""The blocks and their parts, in plain PyTorch: nothing here needs detectron2."""

from .efficient_non_local import ENLBlock
from .non_local import NonLocalBlock
from .padding import image_extent, inside, map_extent
from .position import (
    POSITION_REGISTRY,
    CosPosition,
    L1Position,
    SeparablePosition,
    dct_basis,
    register_position,
)
from .relation_block import Conv5x5Block, InvalidOption, MapBlock, RelationBlock

__all__ = [
    "Conv5x5Block",
    "CosPosition",
    "ENLBlock",
    "InvalidOption",
    "L1Position",
    "MapBlock",
    "NonLocalBlock",
    "POSITION_REGISTRY",
    "RelationBlock",
    "SeparablePosition",
    "dct_basis",
    "image_extent",
    "inside",
    "map_extent",
    "register_position",
]
