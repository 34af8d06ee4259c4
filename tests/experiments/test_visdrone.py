"""What the drone's grid adds to the runner: photographs, trunk, oracle, measures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file

from enl_detectron2.modeling import relation_blocks
from enl_detectron2.training.config import load_config
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.utils.errors import ConfigError, MissingFile

NAMES = ["pedestrian", "people", "bicycle", "car", "van", "truck"]
NAMES += ["tricycle", "awning-tricycle", "bus", "motor"]  # VisDrone's


def content(photographs, objects=()):
    """Annotations: file names; (image's place, class's place, box, crowd)."""
    size = {"width": 128, "height": 96}
    names = ("image_id", "category_id", "bbox", "iscrowd", "id", "area")
    annotations = [
        dict(zip(names, (image + 1, category + 1, box, crowd, number, box[2] * box[3])))
        for number, (image, category, box, crowd) in enumerate(objects, start=1)
    ]
    return {
        "images": [{"id": i, "file_name": n} | size for i, n in enumerate(photographs, start=1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)],
    }


@pytest.fixture(scope="module")
def program(request):
    """The grid's training program, registered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(request.config.rootpath / "experiments")
        from runner.grid import load_grid

        grid = load_grid(request.config.rootpath / "experiments" / "visdrone.yaml")
        grid.register()
        yield grid


@pytest.fixture
def datasets(tmp_path, monkeypatch, program):
    """$DETECTRON2_DATASETS with two photographs a split, and a trunk of random weights."""
    from detectron2.modeling import BACKBONE_REGISTRY
    from visdrone import prepare

    cfg = load_config(str(program.config))
    trunk = BACKBONE_REGISTRY.get(cfg.MODEL.ENL_FPN.BOTTOM_UP)(cfg, None)
    weights = {name: weight.half() for name, weight in trunk.state_dict().items()}
    save_file(weights, tmp_path / prepare.TRUNK)
    for split in ("train", "val"):
        photographs = [f"000000{i}_{split}.jpg" for i in range(8)]
        objects = [(0, 3, [8, 8, 16, 16], 0), (0, 3, [40, 8, 16, 16], 0), (1, 0, [8, 8, 9, 9], 1)]
        folder = tmp_path / f"visdrone_{split}"
        folder.mkdir()
        for name in photographs:
            Image.new("RGB", (128, 96)).save(folder / name)
        text = json.dumps(content(photographs, objects))
        (tmp_path / f"visdrone_{split}.json").write_text(text)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(prepare, "DATASETS", tmp_path)
    return tmp_path


def test_all_weights_of_the_trunk_and_no_others_start_a_detector(datasets, tmp_path):
    from detectron2.modeling import BACKBONE_REGISTRY
    from visdrone import prepare

    class Run:
        data = "test"

    prepare.prepare(Run, tmp_path / "scenes")
    options = prepare.options(Run, tmp_path / "scenes")
    cfg = load_config("experiments/visdrone/visdrone_rcnn.yaml")
    backbone = BACKBONE_REGISTRY.get("ENL_FPN")(cfg, None)
    weights = torch.load(options["MODEL.WEIGHTS"], weights_only=True)["model"]
    own = {f"backbone.{name}" for name in backbone.state_dict()}
    assert {name for name in own if "bottom_up" in name} == set(weights)
    (datasets / prepare.TRUNK).unlink()
    with pytest.raises(MissingFile, match=prepare.TRUNK):
        prepare.prepare(None, tmp_path / "scenes")


def test_the_published_checkpoint_becomes_the_trunk():
    """Each of its convolutions with its batch norm is one of the trunk's."""
    from visdrone.network import YOLOXNano
    from visdrone.trunk import EPSILON, convert, published_name

    for ours, theirs in (
        ("dark5.csp.0.depthwise", "dark5.2.m.0.conv2.dconv"),
        ("dark2.csp.conv3", "dark2.1.conv3"),
        ("dark5.spp.conv1", "dark5.1.conv1"),
        ("dark3.down.pointwise", "dark3.0.pconv"),
    ):
        assert published_name(ours) == f"backbone.backbone.{theirs}"
    model, published = YOLOXNano(), {}
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "weight")}
    for name, layer in layers.items():
        theirs = published_name(name)
        published[f"{theirs}.conv.weight"] = torch.randn_like(layer.weight)
        for key in ("weight", "bias", "running_mean", "running_var"):
            published[f"{theirs}.bn.{key}"] = torch.rand(layer.out_channels) + 0.5
    trunk = convert(published)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in trunk.items()} == shapes
    theirs, x = published_name("dark5.spp.conv2"), torch.randn(1, 512, 2, 2)
    y = torch.nn.functional.conv2d(x, published[f"{theirs}.conv.weight"])
    norm = [published[f"{theirs}.bn.{key}"] for key in ("running_mean", "running_var", "weight")]
    y = torch.nn.functional.batch_norm(y, *norm, published[f"{theirs}.bn.bias"], eps=EPSILON)
    weight, bias = (trunk[f"dark5.spp.conv2.{key}"].float() for key in ("weight", "bias"))
    assert torch.allclose(torch.nn.functional.conv2d(x, weight, bias), y, atol=0.1, rtol=1e-2)
    del published[f"{theirs}.bn.bias"]
    with pytest.raises(ConfigError, match=f"has no {theirs}.bn.bias"):
        convert(published)


def test_the_oracle_knows_what_each_photograph_shows(datasets, program):
    from detectron2.modeling import build_model

    options = ["MODEL.META_ARCHITECTURE", "OracleRCNN", "MODEL.ENL_FPN.BLOCK", "HistogramBlock"]
    cfg = load_config(str(program.config), options)
    cfg.DATASETS.COCO_FORMAT = [["oracle_val", "visdrone_val.json", "visdrone_val"]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("oracle_val",)
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    model = build_model(cfg).eval()
    files = [str(datasets / "visdrone_val" / f"000000{i}_val.jpg") for i in range(2)]
    inputs = [{"image": torch.zeros(3, 64, 64), "file_name": file} for file in [*files, "other"]]
    model.preprocess_image(inputs)
    expected = torch.zeros(3, 10)
    expected[0, 3] = np.log(3)  # two cars; the ignored region is no object
    blocks = [b for b in relation_blocks(model).values() if hasattr(b, "linear")]
    assert len(blocks) == 3
    x = torch.randn(3, 64, 4, 4)
    for block in blocks:
        assert torch.allclose(block.histogram, expected)
        assert torch.equal(block(x), x)  # it starts as the identity
        torch.nn.init.ones_(block.linear.weight)
        added = block(x) - x
        assert torch.allclose(added[0], torch.full_like(added[0], np.log(3)), atol=1e-6)
        assert torch.allclose(added[1:], torch.zeros_like(added[1:]), atol=1e-6)


@pytest.fixture
def truth():
    """A car and a van, a truck, and a pedestrian, in three photographs of two sequences."""
    coco = COCO()
    places = (0, 3, [10, 10]), (0, 4, [50, 10]), (1, 5, [10, 10]), (2, 0, [10, 50])
    objects = [(image, category, [*corner, 20, 20], 0) for image, category, corner in places]
    coco.dataset = content(["0000001_a.jpg", "0000001_b.jpg", "0000002_a.jpg"], objects)
    coco.createIndex()
    return coco


def found(truth, *boxes):
    """(image's place, class's place, left and top, score)"""
    names = ("image_id", "category_id", "bbox", "score")
    return truth.loadRes(
        [dict(zip(names, (i + 1, c + 1, [*at, 20, 20], score))) for i, c, at, score in boxes]
    )


def test_objects_are_counted_by_what_they_are_called(truth):
    from visdrone.measures import called

    # The van is called a car, and the truck isn't sure enough.
    boxes = (0, 3, [10, 10], 0.9), (0, 3, [50, 10], 0.9), (1, 5, [10, 10], 0.1)
    counts = called(truth, found(truth, *boxes))
    assert counts["car"] == {"car": 1} and counts["van"] == {"car": 1}
    assert counts["truck"] == {"": 1} and counts["pedestrian"] == {"": 1}
    assert "bus" not in counts  # no look-alike has one


def test_sequences_are_drawn_whole(truth):
    from visdrone.measures import draws_of_sequences

    draws = draws_of_sequences(truth, resamples=50)
    assert draws.shape == (51, 3) and (draws[0] == 1).all()
    assert (draws[:, 0] == draws[:, 1]).all()  # of one sequence
    assert (draws[1:, 1:].sum(axis=1) == 2).all() and len(np.unique(draws[1:, 2])) == 3


def test_the_primary_measure_is_of_the_five_classes_alone(truth):
    from visdrone.measures import draws_of_sequences, primary

    right = [(0, 3, [10, 10], 0.9), (0, 4, [50, 10], 0.8)]
    draws = draws_of_sequences(truth, resamples=20)
    values, samples = primary(truth, found(truth, *right), draws)
    assert values == pytest.approx({"AP50": 200 / 3, "APs": 200 / 3})  # the pedestrian isn't found
    with_truck = found(truth, *right, (1, 5, [10, 10], 0.9))
    assert primary(truth, with_truck, draws)[0] == values
    assert len(samples["AP50"]) == 20 and len(np.unique(samples["AP50"])) > 1


def test_a_difference_moves_with_the_sequences_that_both_are_tested_on():
    from runner.grid import Run
    from visdrone.measures import differences

    noise = np.linspace(0, 50, 101)  # of the sequences, the same for both
    samples = {
        Run(system, "test", "main", seed): {"AP50": noise + shift, "APs": noise}
        for seed in (1, 2)
        for system, shift in (("baseline", 0.0), ("+3ENL TD", 2.0))
    }
    assert list(differences(samples)) == ["+3ENL TD"]
    of_enl = differences(samples)["+3ENL TD"]
    assert of_enl["seeds"] == 2 and of_enl["APs"] == (0, 0)
    assert of_enl["AP50"] == pytest.approx((2, 2))
