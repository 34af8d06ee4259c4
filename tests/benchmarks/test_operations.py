import pytest
import torch


@pytest.mark.skipif(
    not torch.__version__.startswith("2.14.1"), reason="the numbers are the locked PyTorch's"
)
@pytest.mark.parametrize(
    "mode, most, most_dispatched",
    [("inference", 151, 391), ("autocast", 187, 427), ("training", 265, 652)],
)
def test_a_gpu_is_asked_for_few_operations(mode, most, most_dispatched):
    """It takes as long to be asked for one as to do it."""
    import operations  # from benchmarks/, once it is on the path

    found, dispatched, _ = operations.beyond_plain(mode)
    assert 100 < found <= most and dispatched <= most_dispatched
