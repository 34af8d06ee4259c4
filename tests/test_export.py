"""What is exported is the detector, at every size; and what wouldn't be is not written."""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nightly import a_few
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from enl_detectron2 import model_zoo
from enl_detectron2.analysis.commands.export import parse_args
from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.export import (
    NotExportable,
    export_backbone,
    export_detector,
    photographs,
    script,
    trace,
    write_onnx,
)
from enl_detectron2.export.comparison import Agreement, _compare_detections, compare
from enl_detectron2.export.graphs import detect
from enl_detectron2.model_zoo import PHOTOGRAPHS
from enl_detectron2.training.config import load_config

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools/export_model.py"
TRAINED = sorted(file.stem for file in (ROOT / "configs/trained").glob("*.yaml"))
SYSTEMS = sorted(
    str(file.relative_to(ROOT / "configs"))
    for file in (ROOT / "configs").rglob("*.yaml")
    if not file.name.startswith("Base")
)


def seeded(cfg):
    """A random detector whose blocks matter, and whose heads find things."""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50  # each with all classes, as no score is too low
    model = build_random_model(cfg, "cpu")
    torch.manual_seed(0)
    # Scores that are far apart, so that rounding doesn't change which ones are kept.
    spread = {"relation": 0.6, "cls_score": 8.0, "objectness_logits": 6.0}
    if cfg.MODEL.ENL_FPN.BLOCK_OPTIONS.get("phi_norm") == "none":
        spread["relation"] = 0.06  # a sum over all positions, and no mean
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        for part, std in spread.items():
            if part in name and name.endswith("weight"):
                nn.init.normal_(parameter, std=std / parameter[0].numel() ** 0.5)
    return model


def slim_retinanet(cfg):
    other = load_config(ROOT / "configs/enl_retinanet_R50.yaml")
    other.MODEL.RESNETS.update(cfg.MODEL.RESNETS)
    other.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    other.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.FPN.OUT_CHANNELS
    return other


def slim(cfg, kind):
    """The configuration of a slim detector of a kind, "mask NonLocalBlock" say."""
    architecture, block = kind.split()
    if architecture == "retinanet":
        cfg = slim_retinanet(cfg)
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = architecture == "mask", 16
    cfg.MODEL.ENL_FPN.BLOCK = block if block != "plain" else ""
    return cfg


def shipped(name):
    pytest.importorskip("efficientnet_lite_pytorch")
    return model_zoo.get(f"trained/{name}.yaml", trained=True, device="cpu").eval()


def session_of(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def chw(pixels):
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def crops(file):
    """(3, H, W): four parts of a photograph, of four sizes."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    height, width = pixels.shape[:2]
    for down, across in ((1, 1), (0.8, 0.5), (0.4, 0.9), (0.6, 0.6)):
        yield chw(pixels[: int(height * down), : int(width * across)])


SMALL = [photographs()[0][:160, :192]]
FORMATS = ["scripting", "onnx"]  # which is compared as the trace that it is made of, too
KINDS = ["faster ENLBlock", "mask NonLocalBlock", "retinanet Conv5x5Block", "faster plain"]


@pytest.mark.parametrize("format_, kind", a_few(itertools.product(FORMATS, KINDS), 8))
def test_each_kind_is_had_in_each_format(slim_cfg, format_, kind):
    export = export_detector(seeded(slim(slim_cfg, kind)), format_, SMALL)
    assert "detections match" in export.report
    if format_ == "onnx":
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(export.content)).graph
        types = {value.type.tensor_type.elem_type for value in graph.value_info}
        types |= {tensor.data_type for tensor in graph.initializer}
        assert onnx.TensorProto.FLOAT in types and onnx.TensorProto.DOUBLE not in types


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_shipped_detector_is_the_same_on_photographs_that_it_was_not_compared_on(name):
    model, agreement = shipped(name), Agreement()
    session = session_of(export_detector(model, "onnx", colour_order="RGB").content)
    for file in sorted(PHOTOGRAPHS.glob("*.jpg")):
        for pixels in crops(file):
            with torch.no_grad():
                expected = detect(model, torch.from_numpy(pixels))
            found = map(torch.from_numpy, session.run(None, {"image": pixels}))
            _compare_detections(dict(zip(expected, found)), expected, agreement)
    assert agreement.detections > 1000
    assert agreement.matched == agreement.detections


def test_detections_match_one_to_one_by_all_that_they_have_in_any_order():
    outputs = {
        "pred_boxes": torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]]),
        "pred_classes": torch.tensor([0, 1]),
        "scores": torch.tensor([0.9, 0.8]),
        "pred_masks": torch.ones(2, 1, 4, 4),
        "pred_keypoints": torch.tensor([[[10.0, 10, 1]], [[40, 40, 1]]]),
        "backbone": torch.ones(1, 2, 4, 5),  # what was watched on the way, of no single object
    }
    image = torch.zeros(3, 128, 160)
    turned = {name: value.flip(0) for name, value in outputs.items()}
    assert compare(lambda _: turned, [image], [outputs], raw=False).matched == 2
    fewer = {name: value[:1] for name, value in outputs.items()}
    more = {name: torch.cat([value, value[:1]]) for name, value in outputs.items()}
    others = [outputs | {"pred_classes": torch.tensor([0, 0])}]
    others += [outputs | {name: outputs[name] * 0.9} for name in ("pred_boxes", "scores")]
    others += [outputs | {"pred_masks": torch.zeros(2, 1, 4, 4)}, fewer, more]
    others += [outputs | {"pred_keypoints": outputs["pred_keypoints"] + 1}]
    others += [outputs | {"pred_masks": outputs["pred_masks"] * torch.nan}]
    for other in others:
        with pytest.raises(NotExportable, match=r"of \d detections at 128×160 [12] have no count"):
            compare(lambda _, other=other: other, [image], [outputs], raw=False)


class Constant(nn.Module):
    """What a trace makes a constant of: a number that is computed from a size."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x) * float(x.shape[3])


@pytest.mark.parametrize(
    "format_, finds", a_few([("tracing", True), ("onnx", True), ("tracing", False)], 3)
)
def test_an_export_that_would_be_another_model_is_refused_and_says_where(slim_cfg, format_, finds):
    model = seeded(slim_cfg)
    if not finds:
        model.roi_heads.box_predictor.test_score_thresh = 1.0
        export_detector(model, format_, SMALL)
    model.backbone.bottom_up.res3[0] = Constant(model.backbone.bottom_up.res3[0])
    with pytest.raises(NotExportable) as refusal:
        export_detector(model, format_, SMALL)
    said = str(refusal.value)
    assert re.search(r"at 160×192 p\d differs by .* of its largest value", said)
    assert "(traced at 120×128); backbone.bottom_up.res3.0 (Constant) makes a size" in said
    if format_ == "onnx":
        with pytest.raises(NotExportable, match=r"ONNX Runtime at .*res3\.0 \(Constant\)"):
            export_backbone(model, SMALL)


@pytest.mark.slow
def test_a_trace_of_an_image_with_nothing_in_it_finds_things_in_others(slim_cfg):
    slim_cfg.MODEL.MASK_ON = True
    model = seeded(slim_cfg)
    nothing = torch.full((3, 200, 240), 110, dtype=torch.uint8)
    image = torch.from_numpy(chw(photographs()[0]))
    with torch.no_grad():
        threshold = detect(model, nothing)["scores"].max().item()
        model.roi_heads.box_predictor.test_score_thresh = threshold
        expected, agreement = detect(model, image), Agreement()
        assert len(detect(model, nothing)["scores"]) == 0 and len(expected["scores"]) > 20
    found = dict(zip(expected, trace(model, nothing)(image)))
    _compare_detections(found, expected, agreement)
    assert agreement.matched == agreement.detections


# 11 is that of detectron2's tools/deploy/export_model.py; attention is there from 14 on.
@pytest.mark.parametrize(
    ("block", "opset"), a_few([("NonLocalBlock", 14), ("ENLBlock", 11), ("ENLBlock", 17)], 3)
)
def test_a_backbone_is_had_in_the_opsets_that_are_said(slim_cfg, tmp_path, block, opset):
    slim_cfg.MODEL.ENL_FPN.BLOCK = block
    model = seeded(slim_cfg)
    export_backbone(model, SMALL, opset=opset)
    write_onnx(model.backbone, tmp_path / "default.onnx", (96, 128))
    version = onnx.load(tmp_path / "default.onnx").opset_import[0].version
    assert version == {"ENLBlock": 11, "NonLocalBlock": 14}[block]


@pytest.mark.slow
@pytest.mark.parametrize("block", ["ENLBlock", "NonLocalBlock"])
def test_pytorchs_newer_ways_leave_height_and_width_open(slim_cfg, block):
    slim_cfg.MODEL.ENL_FPN.BLOCK = block
    backbone = seeded(slim_cfg).backbone
    sides = [32 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns")]
    shapes = {"x": {2: sides[0], 3: sides[1]}}
    exported = torch.export.export(backbone, (torch.randn(2, 3, 96, 128),), dynamic_shapes=shapes)
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    batch = torch.randn(2, 3, 160, 288)
    with torch.no_grad():
        for found in (exported.module()(batch), compiled(batch)):
            for name, expected in backbone(batch).items():
                assert (found[name] - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_what_is_no_detector_or_no_format_is_refused():
    with pytest.raises(ValueError, match="format must be one of .*, got 'onnx-backbone'"):
        export_detector(nn.Linear(1, 1), "onnx-backbone")
    with pytest.raises(NotExportable, match="Mask R-CNN and RetinaNet can be exported; .* Linear"):
        script(nn.Linear(1, 1))


@pytest.mark.slow
def test_the_page_s_program_serves_a_shipped_detector_without_torch(run_tool, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    output, photograph = tmp_path / "nuclei.onnx", PHOTOGRAPHS / "tissue_pink.jpg"
    words = ["trained/nuclei_enl_rcnn_lite0.yaml", output, "--class-names", "nucleus"]
    status, said, _ = run_tool(TOOL, *words, "--format", "onnx", "--image", photograph)
    assert status == 0 and "in ONNX Runtime" in said and "match" in said
    assert run_tool(TOOL, *words, "--format", "onnx")[0] == 2  # it is there already

    page = (ROOT / "docs/export.md").read_text()
    [program] = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "PIL" in block
    ]
    assert len(program.strip().splitlines()) <= 20
    (tmp_path / "serve.py").write_text(f"import sys\nsys.modules['torch'] = None\n{program}")
    command = [sys.executable, "serve.py", photograph]
    served = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = served.stdout.splitlines()
    assert len(lines) > 5 and all(
        line.startswith("nucleus 0.") or " 1.0 " in line for line in lines
    )

    metadata = {p.key: p.value for p in onnx.load(output).metadata_props}
    assert metadata["colour_order"] == "RGB" and metadata["size_divisibility"] == "32"
    assert json.loads(metadata["class_names"]) == ["nucleus"]
    assert metadata["shortest_edge"] == "0"


@pytest.mark.parametrize("words", ["a b K V --format onnx", "--format onnx a b --image i K V"])
def test_overrides_stand_before_options_or_after(words):
    args = parse_args(words.split())
    assert (args.config, args.output, args.opts) == ("a", "b", ["K", "V"])


@pytest.mark.parametrize("option", ["scripting", "too small"])
def test_what_a_kind_has_not_is_a_sentence_and_writes_nothing(run_tool, tmp_path, option):
    pytest.importorskip("efficientnet_lite_pytorch")
    words = ["trained/nuclei_rcnn_lite0.yaml", tmp_path / "out", "--format"]
    words += ["scripting"] if option == "scripting" else ["onnx", "--image", tmp_path / "small.png"]
    Image.new("RGB", (200, 90)).save(tmp_path / "small.png")
    status, _, said = run_tool(TOOL, *words)
    [line] = [line for line in said.splitlines() if line.startswith("export_model.py: error:")]
    expected = "scripting doesn't work for this GeneralizedRCNN", "90×200 pixels is too small"
    assert status == 2 and any(each in line for each in expected)
    assert "Traceback" not in said and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_had(system):
    cfg = load_config(ROOT / "configs" / system)
    if cfg.MODEL.ENL_FPN.BOTTOM_UP == "build_efficientnet_lite_backbone":
        pytest.importorskip("efficientnet_lite_pytorch")
    model = seeded(cfg)
    assert "in ONNX Runtime" in export_detector(model, "onnx", SMALL).report
    if "lite" not in system:  # which TorchScript doesn't compile
        export_detector(model, "scripting", SMALL)


@pytest.mark.slow
def test_the_experiments_trunk_is_had(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    importlib.import_module("visdrone.network")  # registers it
    cfg = load_config(ROOT / "experiments/visdrone/visdrone_rcnn.yaml")
    for block in ("", "ENLBlock"):
        cfg.MODEL.ENL_FPN.BLOCK = block
        assert "in ONNX Runtime" in export_detector(seeded(cfg), "onnx").report


@pytest.mark.slow
def test_threads_share_a_session(slim_cfg):
    session = session_of(export_detector(seeded(slim_cfg), "onnx", SMALL).content)
    images = [chw(pixels[: 100 + 10 * i]) for i, pixels in enumerate(photographs() * 4)]
    alone = [session.run(None, {"image": image}) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: session.run(None, {"image": image}), images))
    for ours, theirs in zip(alone, together):
        for one, other in zip(ours, theirs):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["onnx", "tracing"])
def test_memory_is_flat_over_200_photographs_of_different_sizes(format_, tmp_path):
    name = TRAINED[0]
    (tmp_path / "model").write_bytes(
        export_detector(shipped(name), format_, colour_order="RGB").content
    )
    program = """
import resource, sys
import numpy as np
if sys.argv[1] == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession("model", providers=["CPUExecutionProvider"])
    run = lambda image: session.run(None, {"image": image})
else:
    import torch, torchvision
    model = torch.jit.load("model")
    run = torch.no_grad()(lambda image: model(torch.from_numpy(image)))
random, peaks = np.random.default_rng(0), []
for index in range(240):
    height, width = (512, 640) if index < 20 else random.integers(96, 512, 2)
    run(random.integers(0, 256, (3, height, width), dtype=np.uint8))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[39], peaks[-1])
"""
    command = [sys.executable, "-c", program, format_]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert after < before + 60, (before, after)  # megabytes


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_average_precision_is_the_same(name):
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    if not (folder / "nuclei_val.json").is_file():
        pytest.skip("needs nuclei_val in DETECTRON2_DATASETS")
    model, truth = shipped(name), COCO(folder / "nuclei_val.json")
    session = session_of(export_detector(model, "onnx", colour_order="RGB").content)
    traced = trace(model, torch.from_numpy(chw(photographs()[0])))
    runs = {
        "eager": lambda pixels: detect(model, torch.from_numpy(pixels)).values(),
        "tracing": lambda pixels: traced(torch.from_numpy(pixels)),
        "onnx": lambda pixels: session.run(None, {"image": pixels}),
    }
    values = {run: average_precision(truth, folder / "nuclei_val", runs[run]) for run in runs}
    print(name, values)
    assert max(values.values()) - min(values.values()) < 0.05 and min(values.values()) > 50


@torch.no_grad()
def average_precision(truth, folder, run):
    results = []
    for image in truth.loadImgs(truth.getImgIds()):
        pixels = np.asarray(Image.open(folder / image["file_name"]).convert("RGB"))
        boxes, scores, _ = run(chw(pixels))
        for (x0, y0, x1, y1), score in zip(boxes.tolist(), scores.tolist()):
            box = {"image_id": image["id"], "category_id": truth.getCatIds()[0], "score": score}
            results.append(box | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.maxDets = [1, 10, 400]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return 100 * precision[precision > -1].mean()
