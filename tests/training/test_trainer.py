"""Training and evaluation from YAML and from LazyConfigs, as ``enl train`` runs them."""

import functools
import json
import shutil

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.engine import launch
from detectron2.structures import Boxes, Instances
from tiny_training import (
    LAZY,
    arguments,
    lazy_words,
    read_losses,
    train,
    write_config,
    write_images,
    write_json,
)

from enl_detectron2.training import lazy, trainer
from enl_detectron2.training.common import in_fast_layout
from enl_detectron2.training.data import check_sets, register_coco_format
from enl_detectron2.training.launch import run
from enl_detectron2.training.trainer import Trainer
from enl_detectron2.utils.errors import ConfigError

POINTS = ["nose", "left_eye", "right_eye"]


def words(options):
    return [str(part) for option in options.items() for part in option]


def command(kind, config, output, *flags):
    folder = config.parent
    if kind == "lazy":
        return arguments(LAZY, *flags, *lazy_words(folder, output))
    options = {
        "DATASETS.TEST": f"('tiny {folder}',)",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "SOLVER.MAX_ITER": 3,
        "OUTPUT_DIR": output,
    }
    return arguments(config, *flags, *words(options))


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_trains_resumes_and_evaluates(config, tmp_path, kind, capfd):
    run(command(kind, config, tmp_path))
    said = capfd.readouterr().out
    assert "step 1 of 3: loss " in said and "step 2 of 3: loss " in said and " left\n" in said
    # What detectron2 says at length is for the log.
    assert "Running with full config" not in said and "Model:" not in said
    assert "Environment info" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    trained = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert trained["iteration"] == 2
    weight = trained["model"]["backbone.fpn_output3.weight"]  # in the layout of a CPU
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    results = tmp_path / "inference/coco_instances_results.json"
    assert json.loads(results.read_text())  # tested in the end

    # Resumed from the checkpoint after two steps, the third alone is done again.
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    capfd.readouterr()
    run(command(kind, config, tmp_path, "--resume"))
    said = capfd.readouterr().out
    assert "step 3 of 3: loss " in said and "step 1 of 3" not in said
    again = torch.load(tmp_path / "model_final.pth", weights_only=False)["model"]
    if kind == "yaml":  # which has a seed
        assert all(torch.equal(again[key], value) for key, value in trained["model"].items())

    results.unlink()
    written = (tmp_path / "config.yaml").read_text()
    capfd.readouterr()
    args = command(kind, config, tmp_path, "--resume", "--eval-only")
    if kind == "yaml":
        args.opts += ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48,64)"]
    metrics = run(args)
    assert ("bbox_TTA" in metrics) == (kind == "yaml")
    assert {"AP", "AP50", "APs", "APm", "APl"} <= metrics["bbox"].keys() and results.exists()
    assert "Evaluation results for bbox" in capfd.readouterr().out
    # The configuration that made the weights stays.
    assert (tmp_path / "config.yaml").read_text() == written
    assert (tmp_path / "inference/config.yaml").exists()


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_an_evaluation_needs_weights(config, tmp_path, kind):
    with pytest.raises(ConfigError, match="must name the weights of a trained model"):
        run(command(kind, config, tmp_path, "--eval-only"))


def losses_of(config, output, processes):
    """Each step's loss, the mean over the processes."""
    # Each process must see all that the single one does: nothing that depends on the other images
    # of a batch, and no sampling, for which each process has its own random numbers.
    options = {
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
        "MODEL.RPN.NMS_THRESH": 1.0,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 50,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
        "INPUT.RANDOM_FLIP": "none",
        "INPUT.MIN_SIZE_TRAIN": (48,),
        # The convolutions of p2 have no part in any loss.
        "MODEL.ROI_HEADS.IN_FEATURES": ["p4"],
        "MODEL.RPN.IN_FEATURES": ["p4"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32]],
        "SOLVER.FIND_UNUSED_PARAMETERS": True,
        "SOLVER.MAX_ITER": 4,
        "OUTPUT_DIR": output,
    }
    launch(train, processes, dist_url="auto", args=(config, output / "losses", *words(options)))
    return [loss for _, loss in read_losses(output / "losses")]


@pytest.mark.slow
def test_two_processes_train_what_one_does(config, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = losses_of(config, tmp_path / "one", 1)
    assert len(one) == 4 and len(set(one)) == 4
    assert losses_of(config, tmp_path / "two", 2) == pytest.approx(one, rel=1e-3)


def test_without_a_gpu_the_cpu_is_taken(config, tmp_path, caplog):
    options = {"MODEL.DEVICE": "cuda", "SOLVER.AMP.ENABLED": True, "OUTPUT_DIR": tmp_path}
    cfg = trainer.setup(arguments(config, *words(options)))
    assert cfg.MODEL.DEVICE == "cpu" and not cfg.SOLVER.AMP.ENABLED
    assert caplog.text.count("There is no GPU here") == 1


def test_models_on_a_cpu_are_in_the_layout_of_its_convolutions(slim_cfg):
    weight = Trainer.build_model(slim_cfg).backbone.fpn_output3.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert in_fast_layout(torch.nn.Conv3d(2, 2, 3), "cpu").weight.is_contiguous()  # has no such


def test_the_optimizer_is_the_configs_choice(slim_cfg):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert isinstance(Trainer.build_optimizer(slim_cfg, model), torch.optim.SGD)
    slim_cfg.SOLVER.OPTIMIZER = "AdamW"
    slim_cfg.SOLVER.BASE_LR = 0.002
    slim_cfg.SOLVER.WEIGHT_DECAY = 0.05
    optimizer = Trainer.build_optimizer(slim_cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    settings = {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert settings == {(0.002, 0.05), (0.002, 0.0)}  # batch norm doesn't decay
    slim_cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(ConfigError, match="SOLVER.OPTIMIZER must be 'SGD' or 'AdamW', got 'Adam'"):
        Trainer.build_optimizer(slim_cfg, model)


@pytest.mark.parametrize("limit, tile, recall", [(100, 0, 100 / 150), (150, 0, 1), (100, 9, 1)])
def test_the_evaluator_counts_as_many_detections_as_the_config_allows(
    slim_cfg, tmp_path, limit, tile, recall
):
    boxes = [[10 * (i % 15), 10 * (i // 15), 8, 8] for i in range(150)]
    content = write_images(tmp_path, count=1)
    content["images"][0] |= {"width": 160, "height": 160}
    [one] = content["annotations"]
    content["annotations"] = [
        one | {"id": i + 1, "bbox": box, "area": 64} for i, box in enumerate(boxes)
    ]
    write_json(tmp_path, content)
    register_coco_format([["crowded", str(tmp_path / "train.json"), str(tmp_path / "images")]])
    slim_cfg.TEST.DETECTIONS_PER_IMAGE, slim_cfg.TEST.TILE = limit, tile
    slim_cfg.OUTPUT_DIR = str(tmp_path)
    DatasetCatalog.get("crowded")

    found = Instances((160, 160))
    corners = torch.tensor(boxes, dtype=torch.float32)
    found.pred_boxes = Boxes(torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1))
    found.scores = torch.linspace(1, 0.5, 150)
    found.pred_classes = torch.zeros(150, dtype=torch.int64)
    evaluator = Trainer.build_evaluator(slim_cfg, "crowded")
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    # All boxes are right, so AP is the recall that COCO's 101 points reach.
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100 * recall, abs=1)


@pytest.mark.parametrize(
    "kind, names",
    [
        ("coco", ["COCOEvaluator"]),
        ("sem_seg", ["SemSegEvaluator"]),
        ("coco_panoptic_seg", ["COCOEvaluator", "SemSegEvaluator", "COCOPanopticEvaluator"]),
        ("lvis", ["LVISEvaluator"]),
        ("pascal_voc", ["PascalVOCDetectionEvaluator"]),
        ("cityscapes_instance", ["CityscapesInstanceEvaluator"]),
        ("cityscapes_sem_seg", ["CityscapesSemSegEvaluator"]),
    ],
)
def test_a_set_has_the_evaluator_of_its_kind(slim_cfg, monkeypatch, kind, names):
    made, folders = [], []

    def make(name, *_, output_dir=None, **__):
        made.append(name)
        folders.append(output_dir)

    for name in {name for name in dir(trainer) if name.endswith("Evaluator")}:
        monkeypatch.setattr(trainer, name, functools.partial(make, name))
    DatasetCatalog.register("of/kind", list)
    MetadataCatalog.get("of/kind").evaluator_type = kind
    slim_cfg.OUTPUT_DIR = "run"
    for sets in (("of/kind",), ("of/kind", "another")):  # several have a folder each
        slim_cfg.DATASETS.TEST = sets
        Trainer.build_evaluator(slim_cfg, "of/kind")
    assert made == 2 * names
    assert kind != "coco" or folders == ["run/inference", "run/inference/of%2Fkind"]
    check_sets.require_sets((), ["of/kind"])
    with pytest.raises(ConfigError, match="DATASETS.TEST .* names 'of no kind', but no data set"):
        check_sets.require_sets((), ["of no kind"])


def test_keypoints(tmp_path):
    content = write_images(tmp_path, count=2)
    content["categories"][0]["keypoints"] = POINTS
    for annotation in content["annotations"]:
        annotation["keypoints"] = [20, 12, 2, 14, 20, 2, 26, 20, 2]
        annotation["num_keypoints"] = 3
    write_json(tmp_path, content)
    keypoints = {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": "[16]",
        "TEST.KEYPOINT_OKS_SIGMAS": "[0.05,0.05,0.05]",
        "SOLVER.MAX_ITER": 1,
    }
    args = command("yaml", write_config(tmp_path), tmp_path / "output")
    args.opts += words(keypoints)
    run(args)
    assert MetadataCatalog.get(f"tiny {tmp_path}").keypoint_flip_map == [("left_eye", "right_eye")]
    results = json.loads((tmp_path / "output/inference/coco_instances_results.json").read_text())
    assert results and all(len(entry["keypoints"]) == 9 for entry in results)


def test_a_plain_detector_with_blocks_gives_its_old_detections(config, tmp_path):
    def detections(output, *flags, **options):
        options = {f"MODEL.{key.replace('__', '.')}": value for key, value in options.items()}
        args = command("yaml", config, tmp_path / output, *flags)
        args.opts += words(options)
        run(args)
        results = tmp_path / output / "inference/coco_instances_results.json"
        return json.loads(results.read_text())

    plain = detections("plain", ENL_FPN__BLOCK="")
    weights = {"WEIGHTS": tmp_path / "plain/model_final.pth"}
    start = {"ENL_FPN__ZERO_INIT_RESIDUAL": True}
    assert len(plain) > 50 and detections("enl", "--eval-only", **weights, **start) == plain
    assert detections("usual", "--eval-only", **weights) != plain


def test_the_evaluator_of_a_lazy_config_counts_as_many_as_the_model_gives():
    cfg = LazyConfig.load(str(LAZY))
    assert lazy.evaluator_config(cfg).get("max_dets_per_image") is None
    cfg.model.roi_heads.box_predictor.test_topk_per_image = 400
    assert lazy.evaluator_config(cfg).max_dets_per_image == 400
    cfg.dataloader.evaluator.max_dets_per_image = 200  # as it says
    assert lazy.evaluator_config(cfg).max_dets_per_image == 200
    cfg.dataloader.evaluator = {"_target_": "someone.Evaluator"}
    assert "max_dets_per_image" not in lazy.evaluator_config(cfg)


@pytest.mark.slow
def test_pascal_voc_is_evaluated_by_naming_a_set(config, tmp_path):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("one\ntwo\n")  # NumPy makes no list of one
    for name in ("one", "two"):
        shutil.copy(config.parent / "images/image 1.png", tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>64</width><height>48</height></size><object>"
            "<name>thing</name><pose>x</pose><truncated>0</truncated><difficult>0</difficult>"
            "<bndbox><xmin>8</xmin><ymin>8</ymin><xmax>32</xmax><ymax>32</ymax></bndbox>"
            "</object></annotation>"
        )
    register_pascal_voc("tiny_voc", str(tmp_path), "test", 2012, ["thing"])
    MetadataCatalog.get("tiny_voc").evaluator_type = "pascal_voc"
    options = {"DATASETS.TEST": "('tiny_voc',)", "SOLVER.MAX_ITER": 1, "OUTPUT_DIR": tmp_path}
    run(arguments(config, *words(options)))
    assert "bbox/AP50" in (tmp_path / "metrics.json").read_text()
