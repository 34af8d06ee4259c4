"""The blocks' equations as written in the papers, in float64, with every N×N matrix formed, and
what it takes to hold a block against them.

The equations are independent of the package on purpose: positions are enumerated, and matrices are
filled entry by entry or by their textbook formula.
"""

import math

import torch


def randomized(block, std=0.5):
    """The block in float64, with weights large enough for every part of it to matter."""
    torch.manual_seed(0)
    for parameter in block.double().parameters():
        torch.nn.init.normal_(parameter, std=std)
    return block


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def as_function(block, x, extent=None):
    """The block as a function of its input and all its parameters, and those arguments."""
    names, parameters = zip(*block.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x, extent))

    return function, (x, *parameters)


def positions(height, width):
    """(N, 2): row and column of each position, in the order of ``flatten``."""
    return torch.tensor(
        [(row, column) for row in range(height) for column in range(width)], dtype=torch.float64
    )


def cos_matrix(height, width, num_frequencies):
    """L = Ê Êᵀ with the columns of the orthonormal 2-D DCT-II, one by one."""
    columns = []
    for u in range(min(num_frequencies, height)):
        for v in range(min(num_frequencies, width)):
            scale = math.sqrt((1 if u == 0 else 2) / height * (1 if v == 0 else 2) / width)
            p = positions(height, width)
            columns.append(
                scale
                * torch.cos(math.pi * (p[:, 0] + 0.5) * u / height)
                * torch.cos(math.pi * (p[:, 1] + 0.5) * v / width)
            )
    basis = torch.stack(columns, dim=1)
    return basis @ basis.T


def l1_matrix(height, width, scale):
    """L(i, j) = exp(−‖p_i − p_j‖₁ / scale)."""
    p = positions(height, width)
    return torch.exp(-(p[:, None] - p[None, :]).abs().sum(dim=2) / scale)


def position_matrix(kind, height, width, *, num_frequencies=9, scale=50.0):
    """L for an addition ("cos_add", "l1_add") or a product ("cos_mul", "l1_mul")."""
    if kind.startswith("cos"):
        return cos_matrix(height, width, num_frequencies)
    matrix = l1_matrix(height, width, scale)
    return matrix / matrix.sum(dim=1, keepdim=True) if kind == "l1_add" else matrix


def project(projection, x):
    """A 1×1 convolution of one image's (C, N) columns."""
    weight = projection.weight.flatten(1).double()
    return weight @ x + projection.bias.double()[:, None]


def affinity(block, theta, phi):
    """The block's affinity without position (N×N), by the options that it was made with."""
    positions = phi.shape[1]
    if hasattr(block, "affinity_norm"):  # the non-local block
        product = theta.T @ phi
        if block.affinity_norm == "mean":
            return product / positions
        return product.exp() / product.exp().sum(dim=1, keepdim=True)
    if block.phi_norm == "softmax":
        phi = phi.exp() / phi.exp().sum(dim=1, keepdim=True)
    elif block.phi_norm == "mean":
        phi = phi / positions
    return (theta.tanh() if block.theta_norm == "tanh" else theta).T @ phi


def image_alone(block, image):
    """z = x + out(F̃ g) of one image (C, H, W), F̃ = F, F + L or F ⊙ L."""
    channels, height, width = image.shape
    x = image.double().reshape(channels, height * width)
    theta, phi, g = (project(p, x) for p in (block.theta, block.phi, block.g))
    mixing = affinity(block, theta, phi)
    if block.position != "none":
        matrix = position_matrix(block.position, height, width, **block.position_options)
        mixing = mixing * matrix if block.position.endswith("mul") else mixing + matrix
    return (x + project(block.out, (mixing @ g.T).T)).reshape(image.shape)


def expected(block, x, extent=None):
    """What a block gives in float64: each image by the equations over its own positions, and the
    padding as it was."""
    z = x.detach().double().clone()
    sizes = [x.shape[2:]] * len(x) if extent is None else extent.tolist()
    with torch.no_grad():
        for index, (height, width) in enumerate(sizes):
            image = z[index, :, :height, :width]
            image.copy_(image_alone(block, image))
    return z
