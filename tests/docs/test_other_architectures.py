"""docs/other_architectures.md: what its code promises to a library that isn't ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from enl_detectron2.modeling import ENL_FPN

ROOT = Path(__file__).parents[2]


def shown(word):
    """The page's block of Python that has the word."""
    page = (ROOT / "docs/other_architectures.md").read_text()
    return next(c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if word in c)


def test_a_library_that_calls_get_cfg_itself_builds_the_blocks(tmp_path):
    features = "[res2, res3, res4, res5]"
    (tmp_path / "detector.yaml").write_text(
        f"""
MODEL:
  BACKBONE: {{NAME: build_my_enl_fpn}}
  RESNETS: {{OUT_FEATURES: {features}}}
  FPN: {{IN_FEATURES: {features}}}
"""
    )
    exec(shown("build_my_enl_fpn"), {})
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "detector.yaml"))
    backbone = build_backbone(cfg)
    assert type(backbone) is ENL_FPN
    assert backbone.relations["p4"].phi_norm == "mean"


DETECTOR = """
import sys
import torch
from detectron2.modeling import build_model
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_training import slim_config

folder = sys.argv[1]
cfg = slim_config()
cfg.MODEL.RESNETS.NORM = "FrozenBN"
model = build_model(cfg).eval()
images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
"""
SAVE = """
for name, buffer in model.named_buffers():
    if "running" in name:
        buffer.uniform_(0.5, 2)
torch.save(model.state_dict(), f"{folder}/plain.pth")
adapters = LoraConfig(target_modules=r".*relations.*\\.(theta|phi|g|out)", init_lora_weights=False)
adapted = get_peft_model(model, adapters).eval()
adapted.save_pretrained(folder)
torch.save(model.backbone(images), f"{folder}/features.pth")
"""
LOAD = """
expected = torch.load(f"{folder}/features.pth")
features = adapted.eval().base_model.model.backbone(images)
for name, feature in expected.items():
    torch.testing.assert_close(features[name], feature)
"""


def test_adapters_of_a_whole_detector_load_in_a_new_process(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed: see make optional")
    load = f"""
model.load_state_dict(torch.load(f"{{folder}}/plain.pth"))
{shown("PeftModel.from_pretrained")}
{LOAD}"""
    for script in (DETECTOR + SAVE, DETECTOR + load):
        paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        subprocess.run([sys.executable, "-c", paths + script, str(tmp_path)], check=True)
