"""The non-local block (Wang et al. 2018; Levi & Ullman, BMVC 2019, equations 1 to 4 and 7)."""

import torch.nn.functional as F
from torch import Tensor

from .extent import inside
from .options import check_choice
from .position import position_term
from .relation_block import INIT_STD, RelationBlock


class NonLocalBlock(RelationBlock):
    """Every position looks at every other one through their affinity F, N×N for N = H·W positions.

    With row i of F for the position that asks::

        softmax:  F[i, j] = exp(θ_iᵀ φ_j) / Σ_k exp(θ_iᵀ φ_k)        (embedded Gaussian, unscaled)
        mean:     F[i, j] = θ_iᵀ φ_j / N

        y = F̃ g,   F̃ = F, F + L or F ⊙ L        z = x + out(y)

    L is a position term, see :mod:`enl_detectron2.layers.position`; F̃ isn't normalised again.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        affinity_norm: str = "softmax",
        position: str = "none",
        num_frequencies: int = 9,
        l1_scale: float = 50.0,
        init_std: float = INIT_STD,
    ):
        """
        Args:
            channels: C, of the block's input and output.
            inner_channels: D, inside the block. None means ``channels // 2``.
            affinity_norm: "softmax" over the positions j, or "mean", a division by N.
            position: how L enters, "none", "l1_mul", "l1_add", "cos_mul" or "cos_add".
            num_frequencies: of the cosine term, along each direction.
            l1_scale: of the l1 term, in cells of the map.
            init_std: σ of the projections' first weights.

        Raises:
            InvalidOption: (a ValueError) if an option has none of these values.
        """
        super().__init__(channels, inner_channels, init_std=init_std)
        check_choice("affinity_norm", affinity_norm, ("softmax", "mean"))
        check_choice("position", position, ("none", "l1_mul", "l1_add", "cos_mul", "cos_add"))
        self.affinity_norm = affinity_norm
        self.multiply = position.endswith("_mul")
        self.position = None
        if position != "none":
            self.position = position_term(position.split("_")[0], num_frequencies, l1_scale)

    def relate(self, theta: Tensor, phi: Tensor, g: Tensor, extent: Tensor | None = None) -> Tensor:
        # Positions as rows of one attention head, (B, 1, N, D), D contiguous. Only so does PyTorch
        # take its fused attention, which never forms F and needs O(N) memory.
        query, key, value = [
            map_.flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for map_ in [theta, phi, g]
        ]
        keys: Tensor | None = None  # (B, 1, 1, N): which positions may be looked at
        if extent is not None:
            keys = inside(extent, g).flatten(2).unsqueeze(1)
        if self.affinity_norm == "softmax" and not self.multiply:
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, scale=1.0)
        else:
            affinity = query @ key.transpose(2, 3)
            if self.affinity_norm == "softmax":
                if keys is not None:
                    affinity = affinity.masked_fill(~keys, -float("inf"))
                affinity = affinity.softmax(dim=3)
            elif keys is None:
                affinity = affinity / affinity.shape[3]
            else:
                affinity = affinity.masked_fill(~keys, 0.0) / keys.sum(dim=3, keepdim=True)
            if self.multiply and self.position is not None:  # the latter for TorchScript
                affinity = affinity * self.position.matrix(g, extent)
            y = affinity @ value
        y = y.transpose(2, 3).reshape(g.shape)
        if self.position is not None and not self.multiply:
            y = y + self.position(g, extent)
        return y

    def extra_repr(self) -> str:
        return f"affinity_norm={self.affinity_norm}, multiply={self.multiply}"
