"""The blocks' equations as written in the papers, in float64, with every N×N matrix formed, and
what it takes to hold a block against them.

The equations use nothing of the package on purpose: positions are enumerated, and matrices are
filled entry by entry or by their textbook formula.
"""

import math

import pytest
import torch

from enl_detectron2.layers import ENLBlock, NonLocalBlock

# A spread of what the blocks can be: every choice of every option, the papers' pairs among them.
ENL_CASES = [
    {"phi_norm": "softmax", "theta_norm": "none", "position": "cos_add"},
    {"phi_norm": "softmax", "theta_norm": "tanh", "position": "l1_add"},
    {"phi_norm": "softmax", "theta_norm": "none", "position": "none"},
    {"phi_norm": "mean", "theta_norm": "none", "position": "none"},
    {"phi_norm": "mean", "theta_norm": "tanh", "position": "cos_add"},
    {"phi_norm": "none", "theta_norm": "none", "position": "l1_add"},
]
NON_LOCAL_CASES = [
    {"affinity_norm": "softmax", "position": "none"},
    {"affinity_norm": "softmax", "position": "cos_add"},
    {"affinity_norm": "softmax", "position": "l1_mul"},
    {"affinity_norm": "mean", "position": "cos_mul"},
    {"affinity_norm": "mean", "position": "l1_add"},
]


def case_name(options):
    return "-".join(options.values())


def randomized(block):
    """The block in float64, with weights large enough for every part of it to matter."""
    torch.manual_seed(0)
    for parameter in block.double().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def as_function(block, x, extent=None):
    """The block as a function of its input and all its parameters, and those arguments."""
    names, parameters = zip(*block.named_parameters(), strict=True)

    def function(x, *values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(block, parameters, (x, extent))

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


def position_matrix(kind, height, width, num_frequencies=9, scale=50.0):
    """L for an addition ("cos_add", "l1_add") or a product ("cos_mul", "l1_mul")."""
    if kind.startswith("cos"):
        return cos_matrix(height, width, num_frequencies)
    matrix = l1_matrix(height, width, scale)
    return matrix / matrix.sum(dim=1, keepdim=True) if kind == "l1_add" else matrix


def project(projection, x):
    """A 1×1 convolution of one image's (C, N) columns."""
    weight = projection.weight.flatten(1).double()
    return weight @ x + projection.bias.double()[:, None]


def combine(affinity, position, height, width, position_options):
    """F̃ = F + L or F ⊙ L."""
    if position == "none":
        return affinity
    matrix = position_matrix(position, height, width, **position_options or {})
    return affinity * matrix if position.endswith("mul") else affinity + matrix


def residual_block(block, x, affinity_of):
    """z = x + out(F̃ g) for each image; ``affinity_of(theta, phi, H, W)`` gives F̃ (N×N)."""
    batch, channels, height, width = x.shape
    outputs = []
    for image in x.double().reshape(batch, channels, height * width):
        theta, phi, g = (project(p, image) for p in (block.theta, block.phi, block.g))
        y = (affinity_of(theta, phi, height, width) @ g.T).T
        outputs.append(image + project(block.out, y))
    return torch.stack(outputs).reshape(batch, channels, height, width)


def enl_affinity(
    theta, phi, height, width, *, phi_norm, theta_norm, position, position_options=None
):
    """F̃ of the efficient non-local block (N×N): θᵀφ̂ (+ L)."""
    if phi_norm == "softmax":
        phi = phi.exp() / phi.exp().sum(dim=1, keepdim=True)
    elif phi_norm == "mean":
        phi = phi / (height * width)
    if theta_norm == "tanh":
        theta = theta.tanh()
    return combine(theta.T @ phi, position, height, width, position_options)


def enl(block, x, **options):
    """The efficient non-local block with its affinity written out."""
    return residual_block(block, x, lambda *args: enl_affinity(*args, **options))


def non_local_affinity(
    theta, phi, height, width, *, affinity_norm, position, position_options=None
):
    """F̃ of the non-local block (N×N)."""
    affinity = theta.T @ phi
    if affinity_norm == "softmax":
        affinity = affinity.exp() / affinity.exp().sum(dim=1, keepdim=True)
    else:
        affinity = affinity / (height * width)
    return combine(affinity, position, height, width, position_options)


def non_local(block, x, **options):
    """The non-local block with its affinity written out."""
    return residual_block(block, x, lambda *args: non_local_affinity(*args, **options))


BLOCKS = [(ENLBlock, enl, options) for options in ENL_CASES]
BLOCKS += [(NonLocalBlock, non_local, options) for options in NON_LOCAL_CASES]
every_block = pytest.mark.parametrize(
    "kind, equation, options", BLOCKS, ids=[case_name(options) for *_, options in BLOCKS]
)
