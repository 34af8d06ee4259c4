import math

import pytest
import torch
from equations import cos_matrix, l1_matrix

from enl_detectron2.layers import CosPosition, InvalidOption, L1Position, dct_basis

SIZES = [(1, 1), (1, 7), (6, 1), (3, 5), (9, 9), (12, 17)]


def as_matrix(term, height, width):
    """The N×N matrix that a position term applies: its response to each one-hot map."""
    one_hot = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    return term(one_hot).flatten(1).T


@pytest.mark.parametrize("length, count", [(1, 1), (5, 5), (16, 9), (9, 3)])
def test_dct_basis_has_orthonormal_columns_lowest_frequency_first(length, count):
    basis = dct_basis(length, count, dtype=torch.float64)
    assert basis.shape == (length, count)
    assert torch.allclose(basis.T @ basis, torch.eye(count, dtype=torch.float64), atol=1e-12)
    sign_changes = (basis[1:] * basis[:-1] < 0).sum(dim=0).tolist()
    assert sign_changes == list(range(count))


def test_dct_basis_is_the_dct_ii():
    basis = dct_basis(4, 2, dtype=torch.float64)
    assert basis[:, 0].tolist() == [0.5] * 4
    expected = [math.sqrt(0.5) * math.cos(math.pi * (n + 0.5) / 4) for n in range(4)]
    assert basis[:, 1].tolist() == pytest.approx(expected, rel=1e-14)


def test_dct_basis_is_as_accurate_in_float32_as_float32_is():
    exact = dct_basis(400, 9, dtype=torch.float64)
    assert (dct_basis(400, 9, dtype=torch.float32) - exact).abs().max() < 1e-8


@pytest.mark.parametrize("count", [0, -1, 6])
def test_dct_basis_refuses_more_frequencies_than_samples(count):
    with pytest.raises(ValueError, match=f"within 1 and length=5, got {count}"):
        dct_basis(5, count)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("num_frequencies", [1, 4, 9])
def test_cos_position_is_the_matrix_of_the_2d_dct(height, width, num_frequencies):
    applied = as_matrix(CosPosition(num_frequencies), height, width)
    expected = cos_matrix(height, width, num_frequencies)
    assert (applied - expected).norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("scale", [2.0, 50.0])
def test_l1_position_is_the_row_normalised_kernel(height, width, scale):
    applied = as_matrix(L1Position(scale), height, width)
    expected = l1_matrix(height, width, scale)
    expected = expected / expected.sum(dim=1, keepdim=True)
    assert (applied - expected).norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize("term", [CosPosition(), L1Position()])
def test_position_terms_keep_constants(term):
    constant = torch.full((2, 3, 11, 13), 2.5, dtype=torch.float64)
    assert torch.allclose(term(constant), constant, rtol=1e-12)


@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_cos_position_needs_a_frequency(value):
    with pytest.raises(InvalidOption, match=f"num_frequencies must be .* at least 1, got {value}"):
        CosPosition(value)


@pytest.mark.parametrize("value", [0, -50.0, math.nan])
def test_l1_position_needs_a_scale(value):
    with pytest.raises(InvalidOption, match="l1_scale must be a number above 0"):
        L1Position(value)
