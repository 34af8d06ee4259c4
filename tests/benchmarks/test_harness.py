import pytest
import torch


@pytest.fixture
def harness():
    import harness

    return harness


@pytest.fixture
def x():
    return torch.randn(4, 1000)


def test_peak_is_all_that_lives_at_one_time(harness, x):
    def sum_of_two():
        first, second = x.exp(), x.sin()
        return first + second

    def one_after_the_other():
        x.exp()
        return x.cos()

    assert harness.peak_bytes(sum_of_two) == 3 * x.nbytes
    assert harness.peak_bytes(one_after_the_other) == x.nbytes
    # Views and operations in place need none.
    assert harness.peak_bytes(lambda: x.view(1000, 4).T[3:].unsqueeze(0)) == 0
    assert harness.peak_bytes(lambda: x.exp().neg_().relu_().flatten()) == x.nbytes
    # Strides that a matrix product can't take: it makes a copy by itself.
    left, right = torch.randn(2, 3, 5).expand(7, 2, 3, 5), torch.randn(7, 2, 5, 4)
    assert harness.peak_bytes(lambda: left @ right) > 7 * 2 * 3 * 4 * 4


def test_saved_counts_a_storage_once_and_nothing_that_is_known(harness, x):
    weight = torch.randn(1000, 1000, requires_grad=True)
    x = x.requires_grad_()

    def product_of_views():
        hidden = x @ weight  # keeps x and weight, both known
        return hidden[:2] * hidden[2:]  # keeps two views of one storage

    assert harness.saved_bytes(product_of_views, [x, weight]) == x.nbytes
    assert harness.saved_bytes(product_of_views, [x]) == x.nbytes + weight.nbytes
    # Each result is kept by the next operation.
    assert harness.saved_bytes(lambda: x.exp().sin().sin(), [x]) == 2 * x.nbytes


def test_ratio_is_the_median_over_rounds(harness):
    # The machine is twice as slow in the second round, and hangs once in the third.
    times = {"a": [3.0, 6.0, 30.0], "b": [1.0, 2.0, 1.0]}
    assert harness.ratio(times, "a", "b") == 3
