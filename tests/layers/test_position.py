"""The position terms: their matrices written out, on whole and on padded maps."""

import math

import pytest
import torch
from equations import cos_matrix, l1_matrix

from enl_detectron2.layers import (
    POSITION_REGISTRY,
    CosPosition,
    ENLBlock,
    InvalidOption,
    L1Position,
    NonLocalBlock,
    SeparablePosition,
    dct_basis,
    register_position,
)

pytestmark = pytest.mark.numerical


def apply(term, x, extent=None):
    """L x."""
    factors = term.factors(x, extent)
    return term.spread_(term.pool(x, factors), factors, torch.zeros_like(x))


def as_matrix(term, height, width):
    """The N×N matrix that a position term applies: its response to each one-hot map."""
    one_hot = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    return apply(term, one_hot).flatten(1).T


@pytest.mark.parametrize("length, count", [(1, 1), (5, 5), (16, 9), (9, 3)])
def test_dct_basis_has_orthonormal_columns_lowest_frequency_first(length, count):
    basis = dct_basis(length, count)
    assert basis.shape == (length, count)
    assert torch.allclose(basis.T @ basis, torch.eye(count, dtype=torch.float64), atol=1e-12)
    sign_changes = (basis[1:] * basis[:-1] < 0).sum(dim=0).tolist()
    assert sign_changes == list(range(count))
    frequency, cell = torch.arange(count).double(), torch.arange(length).double()
    scale = torch.where(frequency > 0, 2 / length, 1 / length).sqrt()  # the DCT-II
    expected = scale * torch.cos(math.pi * (cell[:, None] + 0.5) * frequency / length)
    assert torch.allclose(basis, expected, atol=1e-12)
    for wrong in (0, length + 1):
        with pytest.raises(ValueError, match=f"from 1 to length={length}, got {wrong}"):
            dct_basis(length, wrong)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 7), (12, 17)])
@pytest.mark.parametrize("term", [CosPosition(4), CosPosition(9), L1Position(2.0)])
def test_a_term_is_its_written_out_matrix_and_keeps_constants(term, height, width):
    if isinstance(term, CosPosition):
        expected = cos_matrix(height, width, term.num_frequencies)
    else:
        expected = l1_matrix(height, width, term.scale)
        expected = expected / expected.sum(dim=1, keepdim=True)
    applied = as_matrix(term, height, width)
    assert (applied - expected).norm() < 1e-12 * expected.norm()
    assert torch.allclose(applied.sum(dim=1), torch.ones(height * width, dtype=torch.float64))


class GaussianPosition(SeparablePosition):
    """A term that the package doesn't have: all that a new one needs."""

    def __init__(self, sigma=3.0):
        super().__init__()
        self.sigma = sigma

    def kernel(self, cell, own):
        return torch.exp(-((cell[:, None] - cell) ** 2) / (2 * self.sigma**2))[None]


@pytest.mark.parametrize(
    "term, value, said",
    [(CosPosition, value, "num_frequencies must be .* at least 1") for value in (0, 2.5, True)]
    + [(L1Position, value, "scale must be a number above 0") for value in (0, math.nan, "50")],
)
def test_a_terms_option_is_checked(term, value, said):
    with pytest.raises(InvalidOption, match=said):
        term(value)


class SecondDifference(SeparablePosition):
    """A term whose rows sum to nothing, so that they stay as they are."""

    def kernel(self, cell, own):
        steps = (cell[:, None] - cell).abs()
        matrix = (steps == 1).double()
        return (matrix - torch.diag(matrix.sum(dim=1)))[None]


def test_rows_that_sum_to_nothing_stay():
    term, x = SecondDifference(), torch.randn(2, 3, 5, 8, dtype=torch.float64)
    kernel_h, kernel_w = term.kernels(x)
    raw = torch.kron(kernel_h[0], kernel_w[0])
    assert torch.allclose(apply(term, x).flatten(2), x.flatten(2) @ raw.T, atol=1e-12)


@pytest.mark.parametrize("term", [CosPosition(4), L1Position(3.0), GaussianPosition()])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_of_a_term_follows_from_its_kernel(term, layout):
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64).to(memory_format=layout)
    kernel_h, kernel_w = term.kernels(x, normalized=True)
    added = torch.kron(kernel_h[0], kernel_w[0])
    assert torch.allclose(as_matrix(term, 5, 8), added, rtol=0, atol=1e-12)
    assert torch.allclose(added.sum(dim=1), torch.ones(40, dtype=torch.float64))
    raw_h, raw_w = term.kernels(x)
    assert torch.allclose(term.matrix(x)[0, 0], torch.kron(raw_h[0], raw_w[0]), atol=1e-12)
    assert apply(term, x).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("term", [CosPosition(4), L1Position(3.0), GaussianPosition()])
def test_a_term_is_that_of_each_images_own_part(term):
    x, extent = torch.randn(3, 2, 6, 9, dtype=torch.float64), torch.tensor([[6, 9], [3, 8], [1, 2]])
    applied, matrix = apply(term, x, extent), term.matrix(x, extent)
    for image, (height, width), its_matrix, result in zip(x, extent, matrix, applied):
        own = image[None, :, :height, :width]
        expected = torch.zeros_like(image)
        expected[:, :height, :width] = apply(term, own)[0]
        assert torch.allclose(result, expected, atol=1e-12)
        mask = torch.zeros(6, 9, dtype=torch.bool)
        mask[:height, :width] = True
        rows = its_matrix[0][mask.flatten()]
        assert torch.allclose(rows[:, mask.flatten()], term.matrix(own)[0, 0], atol=1e-12)
        assert not rows[:, ~mask.flatten()].any() and not its_matrix[0][~mask.flatten()].any()


def test_a_registered_term_is_an_option_of_the_blocks(monkeypatch):
    monkeypatch.setitem(POSITION_REGISTRY, "my_gauss", GaussianPosition)  # and taken back
    options = {"sigma": 2.0, "num_frequencies": 4}  # the latter is another term's
    block = ENLBlock(8, position="my_gauss_add", position_options=options)
    assert isinstance(block.position_term, GaussianPosition) and block.position_term.sigma == 2.0
    assert block.position_options == {"sigma": 2.0}
    assert NonLocalBlock(8, position="my_gauss_mul").multiply
    with pytest.raises(InvalidOption, match="holds 'width'; .* have num_frequencies, scale, sigma"):
        ENLBlock(8, position="my_gauss_add", position_options={"width": 2})
    with pytest.raises(ValueError, match="'my_gauss' is already registered"):
        register_position("my_gauss")(GaussianPosition)
