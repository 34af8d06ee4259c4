from .efficient_non_local import ENLBlock
from .options import InvalidOption
from .position import CosPosition, L1Position, dct_basis, l1_kernel

__all__ = ["CosPosition", "ENLBlock", "InvalidOption", "L1Position", "dct_basis", "l1_kernel"]
