from .conv5x5 import Conv5x5Block
from .efficient_non_local import ENLBlock
from .non_local import NonLocalBlock
from .options import InvalidOption
from .position import CosPosition, L1Position, dct_basis, l1_kernel

__all__ = [
    "Conv5x5Block",
    "CosPosition",
    "ENLBlock",
    "InvalidOption",
    "L1Position",
    "NonLocalBlock",
    "dct_basis",
    "l1_kernel",
]
