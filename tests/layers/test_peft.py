"""LoRA by peft itself on every projection; peft comes with `make optional`."""

import pytest
import torch
from equations import randomized, relative_error

from enl_detectron2.layers import ENLBlock, NonLocalBlock

peft = pytest.importorskip("peft", reason="peft is not installed: see make optional")

PROJECTIONS = ["theta", "phi", "g", "out"]
EXTENT = torch.tensor([[7, 10], [4, 6]])
BLOCKS = [
    (ENLBlock, {}),
    (ENLBlock, {"phi_norm": "none", "theta_norm": "tanh", "position": "l1_add"}),
    (NonLocalBlock, {"position": "cos_add"}),
]


@pytest.mark.parametrize("extent", [None, EXTENT], ids=["whole", "padded"])
@pytest.mark.parametrize("kind, options", BLOCKS)
def test_every_adapter_counts_learns_and_merges(kind, options, extent):
    block = randomized(kind(6, **options))
    x = torch.randn(2, 6, 7, 10, dtype=torch.float64)
    before = block(x, extent)
    config = peft.LoraConfig(r=2, target_modules=PROJECTIONS, init_lora_weights=False)
    adapted = peft.get_peft_model(block, config).double()
    after = adapted(x, extent)
    assert relative_error(after, before) > 1e-4
    after.square().sum().backward()
    learning = {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    assert len(learning) == 8  # two low-rank factors of each projection
    assert relative_error(adapted.merge_and_unload()(x, extent), after) < 1e-9
