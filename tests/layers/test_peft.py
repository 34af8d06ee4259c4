"""A real peft adapts the blocks' projections as it adapts any convolution."""

import pytest
import torch
from torch import nn

from enl_detectron2.layers import ENLBlock, NonLocalBlock

peft = pytest.importorskip("peft", reason="peft is not installed: see make optional")

PROJECTIONS = ["theta", "phi", "g", "out"]


@pytest.mark.parametrize("block_class", [ENLBlock, NonLocalBlock])
def test_lora_trains_every_projection_and_merges(block_class):
    torch.manual_seed(0)
    block = block_class(8, init_std=0.3)
    model = peft.get_peft_model(
        nn.Sequential(block), peft.LoraConfig(target_modules=PROJECTIONS, r=2)
    )
    x = torch.randn(2, 8, 12, 10)
    before = model(x)
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * len(PROJECTIONS)
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.normal_(std=0.3)
    adapted = model(x)
    assert not torch.allclose(before, adapted, atol=1e-2)
    adapted.square().mean().backward()
    for name, parameter in adapters.items():
        assert parameter.grad.abs().max() > 1e-8, name
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x), adapted, rtol=1e-4, atol=1e-4)
