from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from enl_detectron2.analysis.cost.random_model import build_random_model, random_image
from enl_detectron2.export import ExportedDetector, script, trace, write_onnx

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools/export_model.py"
TRACED_SIZE = (96, 128)
# Of one size with the trace, larger, and smaller in one direction: maps of 2 to 40 cells.
IMAGE_SIZES = [(96, 128), (160, 288), (64, 150)]
BLOCKS = {
    "enl": ("ENLBlock", {}),
    "enl tanh": ("ENLBlock", {"theta_norm": "tanh", "phi_norm": "mean", "position": "l1_add"}),
    "enl none": ("ENLBlock", {"phi_norm": "none", "position": "none"}),
    "nl": ("NonLocalBlock", {"position": "cos_add"}),
    "conv5x5": ("Conv5x5Block", {}),
}


def detector(cfg, block="ENLBlock", options=None):
    """A random detector whose blocks matter, and which finds something in every image."""
    cfg.MODEL.ENL_FPN.BLOCK = block
    cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.update(options or {})
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    model = build_random_model(cfg, "cpu")
    torch.manual_seed(0)
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(False)
        if "fpn_relation" in name and "weight" in name:
            nn.init.normal_(parameter, std=0.3)
    # Scores that are far apart, so that rounding doesn't change which ones are kept.
    for layer in (model.roi_heads.box_predictor.cls_score, model.proposal_generator.rpn_head):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def assert_same_detections(exported, model):
    for size in IMAGE_SIZES:
        image = random_image(size).float()
        with torch.no_grad():
            found, expected = exported(image), ExportedDetector(model)(image)
        if isinstance(found, tuple):
            found = dict(zip(expected, found, strict=True))
        assert found.keys() == expected.keys()
        assert len(expected["scores"]) > 0
        for name, value in expected.items():
            value = getattr(value, "tensor", value)
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


def saved(module, folder):
    """The module as another program would load it."""
    module.save(str(folder / "model.ts"))
    return torch.jit.load(str(folder / "model.ts"))


@pytest.mark.parametrize("masks", [False, True])
def test_a_traced_detector_finds_the_same_at_every_size(slim_cfg, tmp_path, masks):
    slim_cfg.MODEL.MASK_ON = masks
    model = detector(slim_cfg)
    traced = trace(model, random_image(TRACED_SIZE).float())
    with torch.jit.optimized_execution(False):
        assert_same_detections(saved(traced, tmp_path), model)


@pytest.mark.parametrize("masks", [False, True])
def test_a_scripted_detector_finds_the_same_at_every_size(slim_cfg, tmp_path, masks):
    slim_cfg.MODEL.MASK_ON = masks
    model = detector(slim_cfg)
    with torch.jit.optimized_execution(False):
        assert_same_detections(saved(script(model), tmp_path), model)


def images(height, width):
    """A batch of two that fill it, and of one that does and one that is padded."""
    torch.manual_seed(1)
    for padding in (0, 23):
        batch = torch.randn(2, 3, height, width)
        batch[1, :, height - padding :] = batch[1, :, :, width - padding :] = 0
        yield batch


def assert_close(found, expected, name):
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), name


# 11 is that of detectron2's tools/deploy/export_model.py; attention is there from 14 on.
@pytest.mark.parametrize(
    ("block", "opset"),
    [(block, 17) for block in BLOCKS] + [(block, 11) for block in BLOCKS if block != "nl"],
)
def test_onnx_gives_the_same_maps_at_every_size(slim_cfg, tmp_path, block, opset):
    backbone = detector(slim_cfg, *BLOCKS[block]).backbone
    write_onnx(backbone, tmp_path / "backbone.onnx", TRACED_SIZE, opset=opset)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "backbone.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    assert names == ["p2", "p3", "p4", "p5", "p6"]
    for size in [TRACED_SIZE, (160, 288), (320, 64)]:
        for batch in images(*size):
            expected = backbone(batch)
            for name, output in zip(names, session.run(None, {"image": batch.numpy()})):
                assert_close(torch.from_numpy(output), expected[name], name)


@pytest.mark.parametrize("block", ["enl", "enl tanh", "nl"])
def test_torch_export_leaves_height_and_width_open(slim_cfg, block):
    backbone = detector(slim_cfg, *BLOCKS[block]).backbone
    sides = [32 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns")]
    exported = torch.export.export(
        backbone, (torch.randn(2, 3, 96, 128),), dynamic_shapes={"x": {2: sides[0], 3: sides[1]}}
    ).module()
    for batch in images(160, 288):
        found = exported(batch)
        for name, expected in backbone(batch).items():
            assert_close(found[name], expected, name)


@pytest.mark.parametrize("block", BLOCKS)
def test_scripts_every_block(slim_cfg, block):
    backbone = detector(slim_cfg, *BLOCKS[block]).backbone
    scripted = torch.jit.script(backbone)
    image = torch.randn(1, 3, 96, 128)
    with torch.jit.optimized_execution(False):
        found = scripted(image)
    for name, expected in backbone(image).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4)


def test_the_backbone_compiles_without_a_graph_break(slim_cfg):
    backbone = detector(slim_cfg).backbone
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for name, expected in backbone(image).items():
            torch.testing.assert_close(compiled(image)[name], expected, rtol=1e-4, atol=1e-5)


def test_another_model_than_an_rcnn_is_refused():
    with pytest.raises(ValueError, match="of Faster and Mask R-CNN; this is a Linear"):
        script(nn.Linear(1, 1))


@pytest.fixture
def slim_config_file(slim_cfg, tmp_path):
    """The configuration as a file, and weights for it."""
    model = detector(slim_cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    slim_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    (tmp_path / "slim.yaml").write_text(slim_cfg.dump())
    return tmp_path / "slim.yaml", model


@pytest.mark.parametrize("format_", ["scripting", "tracing"])
def test_the_command_writes_torchscript(slim_config_file, tmp_path, format_, run_tool):
    config, model = slim_config_file
    picture = random_image(TRACED_SIZE).numpy().transpose(1, 2, 0)
    cv2.imwrite(str(tmp_path / "image.png"), np.ascontiguousarray(picture))
    output = tmp_path / "model.ts"
    words = [config, output, "--format", format_, "--image", tmp_path / "image.png"]
    assert run_tool(TOOL, *words)[0] == 0
    with torch.jit.optimized_execution(False):
        assert_same_detections(torch.jit.load(str(output)), model)


def test_the_command_writes_onnx_and_overwrites_nothing(slim_config_file, tmp_path, run_tool):
    config, _ = slim_config_file
    output = tmp_path / "backbone.onnx"
    assert run_tool(TOOL, config, output, "--format", "onnx")[0] == 0
    written = output.read_bytes()
    status, _, said = run_tool(TOOL, config, output, "--format", "onnx")
    assert status == 2 and "backbone.onnx is there already" in said
    assert output.read_bytes() == written


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no.yaml", "out.ts", "--format", "scripting"], "there is no file 'no.yaml'"),
        ([TOOL, "out.ts", "--format", "tracing"], "tracing needs --image FILE"),
    ],
)
def test_what_the_command_lacks_is_named(run_tool, arguments, message):
    status, _, said = run_tool(TOOL, *arguments)
    assert status == 2 and message in said
