"""The efficient non-local block (Levi & Ullman, BMVC 2019, equations 5, 6 and 9)."""

import torch
from torch import Tensor

from .options import check_choice
from .position import position_term
from .relation_block import RelationBlock


class ENLBlock(RelationBlock):
    """Every position looks at every other one, at a cost linear in their number.

    With the N = H·W positions of a map as columns::

        y = θᵀ (φ̂ gᵀ) + L g        z = x + out(y)

    ``φ̂ gᵀ`` is D×D, so the N×N affinity ``F = θᵀ φ̂`` is never formed: O(N·C·D) operations and
    O(N) memory. ``L`` is the position term, see :mod:`enl_detectron2.layers.position`.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        phi_norm: str = "softmax",
        theta_norm: str = "none",
        position: str = "cos_add",
        num_frequencies: int = 9,
        l1_scale: float = 50.0,
    ):
        """
        Args:
            channels: C, of the block's input and output.
            inner_channels: D, inside the block. None means ``channels // 2``.
            phi_norm: how φ becomes φ̂. "softmax": over the N positions, for each channel;
                "mean": φ/N; "none": φ̂ = φ (diverges in the paper).
            theta_norm: "none", or "tanh" of θ.
            position: the term added to the affinity, "cos_add", "l1_add" or "none".
            num_frequencies: of the cosine term, along each direction.
            l1_scale: of the l1 term, in cells of the map.

        Raises:
            InvalidOption: (a ValueError) if an option has none of these values.
        """
        super().__init__(channels, inner_channels)
        check_choice("phi_norm", phi_norm, ("softmax", "mean", "none"))
        check_choice("theta_norm", theta_norm, ("none", "tanh"))
        # A product of affinity and position needs the N×N matrix that this block never forms.
        check_choice("position", position, ("cos_add", "l1_add", "none"))
        self.phi_norm = phi_norm
        self.theta_norm = theta_norm
        self.position = None
        if position != "none":
            self.position = position_term(position.split("_")[0], num_frequencies, l1_scale)

    def relate(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        if self.theta_norm == "tanh":
            theta = theta.tanh()
        if self.phi_norm == "softmax":
            phi = phi.flatten(2).softmax(dim=2).view_as(phi)
        elif self.phi_norm == "mean":
            phi = phi / (phi.shape[2] * phi.shape[3])
        context = torch.einsum("bihw,bjhw->bij", phi, g)
        y = torch.einsum("bihw,bij->bjhw", theta, context)
        if self.position is not None:
            y = y + self.position(g)
        return y

    def extra_repr(self) -> str:
        return f"phi_norm={self.phi_norm}, theta_norm={self.theta_norm}"
