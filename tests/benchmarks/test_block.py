import pytest
import torch

from enl_detectron2.layers import ENLBlock, NonLocalBlock


@pytest.fixture
def script():
    import block

    return block


def test_explicit_non_local_is_the_block_that_it_stands_for(script):
    import harness

    non_local = harness.randomized(NonLocalBlock(16)).double()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(script.explicit_non_local(non_local, x), non_local(x))


@pytest.mark.slow
def test_every_measurement_gives_a_line(script, monkeypatch):
    import harness

    monkeypatch.setattr(script, "CHANNELS", 16)
    monkeypatch.setattr(script, "SECONDS", {"cpu": 0})
    block = harness.randomized(ENLBlock(16))
    small = (4, 6)
    threads = {"threads": torch.get_num_threads()}
    lines = [(threads, "channels last", 2, small)]
    # What a GPU's lines need, as far as the CPU has it.
    lines += [({"precision": name}, "contiguous", 1, small) for name in script.PRECISIONS]
    results = {
        "inference": [script.timed_row(block, script.inference, *line) for line in lines],
        "training": [script.timed_row(block, script.training, *line) for line in lines],
        "memory": [script.memory(block, "channels last", 1, small)],
        "growth": script.growth(block, [small, (8, 12)]),
        "bfloat16": [script.bfloat16(block, small)],
        "keeps_freed_memory": True,
    }
    assert results["bfloat16"][0]["relative_error"] < 2**-6
    for table in script.tables(results):
        assert "4×6" in table
