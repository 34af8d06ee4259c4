"""The efficient non-local block (Levi & Ullman, BMVC 2019, equations 5, 6 and 9)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .extent import Padding, count_inside, in_graph, inside, paddings
from .options import check_choice
from .position import CosPosition, position_term
from .relation_block import INIT_STD, RelationBlock


class ENLBlock(RelationBlock):
    """Every position looks at every other one, at a cost linear in their number.

    With the N = H·W positions of a map as columns::

        y = θᵀ (φ̂ gᵀ) + L g        z = x + out(y)

    ``φ̂ gᵀ`` is D×D, so the N×N affinity ``F = θᵀ φ̂`` is never formed: O(N·C·D) operations and
    O(N) memory. ``L`` is the position term, see :mod:`enl_detectron2.layers.position`.

    :meth:`relate` is these equations as they stand. :meth:`forward` computes the same with fewer
    operations and less memory, by taking associativity further: ``gᵀ = xᵀ W_gᵀ + 1 b_gᵀ``, so g is
    never computed, and what stands left of x in ``out(θᵀ …)`` is one C×C matrix an image.
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
        init_std: float = INIT_STD,
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
            init_std: σ of the projections' first weights.

        Raises:
            InvalidOption: (a ValueError) if an option has none of these values.
        """
        super().__init__(channels, inner_channels, init_std=init_std)
        check_choice("phi_norm", phi_norm, ("softmax", "mean", "none"))
        check_choice("theta_norm", theta_norm, ("none", "tanh"))
        # A product of affinity and position needs the N×N matrix that this block never forms.
        check_choice("position", position, ("cos_add", "l1_add", "none"))
        self.phi_norm = phi_norm
        self.theta_norm = theta_norm
        self.position = None
        if position != "none":
            self.position = position_term(position.split("_")[0], num_frequencies, l1_scale)

    def relate(self, theta: Tensor, phi: Tensor, g: Tensor, extent: Tensor | None = None) -> Tensor:
        if self.theta_norm == "tanh":
            theta = theta.tanh()
        if extent is not None:
            padding = -float("inf") if self.phi_norm == "softmax" else 0.0
            phi = phi.masked_fill(~inside(extent, phi), padding)
        if self.phi_norm == "softmax":
            phi = phi.flatten(2).softmax(dim=2).view_as(phi)
        elif self.phi_norm == "mean":
            if extent is None:
                phi = phi / (phi.shape[2] * phi.shape[3])
            else:
                count = inside(extent, phi).sum(dim=(2, 3), keepdim=True, dtype=torch.float32)
                phi = (phi / count).to(phi.dtype)
        context = torch.einsum("bihw,bjhw->bij", phi, g)
        y = torch.einsum("bihw,bij->bjhw", theta, context)
        if self.position is not None:
            y = y + self.position(g, extent)
        return y

    def forward(self, x: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in, the same out; ``extent`` as in :class:`RelationBlock`."""
        if torch.jit.is_scripting():  # which can't hold the folded form
            z = x + self.out(self.relate(self.theta(x), self.phi(x), self.g(x), extent))
            return z if extent is None else torch.where(inside(extent, x), z, x)
        return self._forward_folded(x.contiguous(), extent)

    def _forward_folded(self, x: Tensor, extent: Tensor | None) -> Tensor:
        padding: Padding = []
        if extent is not None and not in_graph():
            padding = paddings(extent, x)
            extent = extent if padding else None
        maps = x.flatten(2)
        weight_out = self.out.weight.flatten(1)
        # out(θᵀ (φ̂ gᵀ)) = weight θ + out's bias, and θ is linear in x, too, or its tanh is.
        weight = weight_out @ self._context(x, extent, padding).transpose(1, 2)
        if self.theta_norm == "tanh":
            query, offset = self.theta(x).flatten(2).tanh(), self.out.bias.expand(x.shape[:2])
        else:
            query, offset = maps, weight @ self.theta.bias + self.out.bias
            weight = weight @ self.theta.weight.flatten(1)
        # z = (x + W_out L g + offset) + weight query: the first part is the only new map of x's
        # size, and the product is added to it in place. In the padding the first part is x.
        start = self._add_position(x, offset, extent).to(weight.dtype)
        query = query.to(weight.dtype)
        if extent is None:
            return start.flatten(2).baddbmm_(weight, query).view_as(x)
        if in_graph():
            product = (weight @ query).view_as(x)
            return start + product.masked_fill(~inside(extent, x), 0.0)
        if start.requires_grad or weight.requires_grad or query.requires_grad:
            return _AddProduct.apply(start, weight, query, x.detach(), padding)
        return _add_product_(start, weight, query, x, padding)

    def _phi(self, x: Tensor, extent: Tensor | None, padding: Padding) -> Tensor:
        """φ, (B, D, H, W), with what φ̂ makes zero in the padding."""
        phi = self.phi(x)
        if extent is None:
            return phi
        value = -float("inf") if self.phi_norm == "softmax" else 0.0
        if in_graph() or (phi.requires_grad and self.phi_norm != "softmax"):
            return phi.masked_fill(~inside(extent, x), value)
        # Where a softmax is 0, so is its gradient: autograd needn't know.
        stored = phi.detach() if phi.requires_grad else phi
        for place in padding:
            stored[place].fill_(value)
        return phi

    def _context(self, x: Tensor, extent: Tensor | None, padding: Padding) -> Tensor:
        """φ̂ gᵀ = (φ̂ xᵀ) W_gᵀ + (φ̂ 1) b_gᵀ, (B, D, D)."""
        phi = self._phi(x, extent, padding).flatten(2)
        phi = phi.to(torch.promote_types(phi.dtype, torch.float32))  # for the sums over positions
        bias = self.g.bias
        if self.phi_norm == "softmax":  # φ̂ 1 = 1
            phi = phi.softmax(dim=2)
        else:
            if self.phi_norm == "mean":  # not left to the product, which may be one of 16 bits
                phi = phi / count_inside(extent, x)
            bias = (phi.sum(dim=2, keepdim=True) * bias).to(x.dtype)
        summary = phi.to(x.dtype) @ x.flatten(2).transpose(1, 2)
        return summary.to(x.dtype) @ self.g.weight.flatten(1).T + bias

    def _add_position(self, x: Tensor, offset: Tensor, extent: Tensor | None) -> Tensor:
        """x + W_out (L g) + offset, (B, C, H, W), where offset is (B, C); x in the padding."""
        if not isinstance(self.position, CosPosition):
            offset = offset[:, :, None, None]
            if extent is not None:
                offset = offset * inside(extent, x)
            if self.position is None:
                return x + offset
            return x + offset + F.conv2d(self.position(self.g(x), extent), self.out.weight)
        weight_out = self.out.weight.flatten(1)
        # L is linear and keeps constants, so L g = Ê (W_g Êᵀ x) + b_g: of g only its K coefficients
        # are computed, and a constant is added as the lowest of them.
        bases = self.position.bases(x, extent)
        coefficients = self.position.analyze(x, bases)
        mixed = weight_out @ (self.g.weight.flatten(1) @ coefficients.flatten(2))
        constant = (offset + weight_out @ self.g.bias)[:, :, None] * count_inside(extent, x) ** 0.5
        mixed = mixed + F.pad(constant.to(offset.dtype), (0, mixed.shape[2] - 1))
        return self.position.synthesize(mixed.view_as(coefficients), bases, onto=x)

    def extra_repr(self) -> str:
        return f"phi_norm={self.phi_norm}, theta_norm={self.theta_norm}"


def _add_product_(
    start: Tensor, weight: Tensor, query: Tensor, x: Tensor, padding: Padding
) -> Tensor:
    """``start + weight query`` in place, but for the padding, where ``start`` is x and stays so.

    The product is that of whole maps, and the few positions of the padding are mended: a masked
    copy of a map would cost more than all of that.
    """
    mended = [(start[place], x[place]) for place in padding]
    start.flatten(2).baddbmm_(weight, query)
    for there, original in mended:
        there.copy_(original)
    return start


class _AddProduct(torch.autograd.Function):
    """:func:`_add_product_` where a gradient is needed, whose products are mended likewise."""

    @staticmethod
    def forward(
        ctx, start: Tensor, weight: Tensor, query: Tensor, x: Tensor, padding: Padding
    ) -> Tensor:
        ctx.save_for_backward(weight, query)
        ctx.padding = padding
        ctx.mark_dirty(start)
        return _add_product_(start, weight, query, x, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, query = ctx.saved_tensors
        gradient = gradient.contiguous()
        # Of the product the padding was dropped; its gradient is in ``start``'s only.
        weight_gradient = query_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = gradient.flatten(2) @ query.transpose(1, 2)
            queries = query.unflatten(2, gradient.shape[2:])
            for place in ctx.padding:
                product = gradient[place].flatten(2) @ queries[place].flatten(2).transpose(1, 2)
                weight_gradient[place[0]] -= product  # of the images that have this padding
        if ctx.needs_input_grad[2]:
            query_gradient = weight.transpose(1, 2) @ gradient.flatten(2)
            for place in ctx.padding:
                query_gradient.unflatten(2, gradient.shape[2:])[place].zero_()
        return gradient, weight_gradient, query_gradient, None, None
