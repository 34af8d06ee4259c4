import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, default_argument_parser, launch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from scenes import SceneConfig, write_relational_digits

from enl_detectron2.training.config import load_config
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.launch import run
from enl_detectron2.training.trainer import Trainer
from enl_detectron2.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
NORM = "FrozenBN"
SCENES = SceneConfig(image_size=128, large_side=(32, 48), num_tiny=(2, 3), num_distractors=(1, 2))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with four training and two test scenes."""
    folder = tmp_path_factory.mktemp("digits")
    write_relational_digits(folder, num_train=4, num_test=2, config=SCENES)
    return folder


def yaml_arguments(digits, output, *extra):
    sets = [[f"tiny_{s}", str(digits / f"{s}.json"), str(digits / s)] for s in ("train", "test")]
    options = {
        "DATASETS.COCO_FORMAT": sets,
        "DATASETS.TRAIN": "('tiny_train',)",
        "DATASETS.TEST": "('tiny_test',)",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 3,
        "SOLVER.STEPS": "()",
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "OUTPUT_DIR": str(output),
    }
    words = [str(word) for option in options.items() for word in option]
    config = ROOT / "configs/cpu/digits_enl_rcnn.yaml"
    return ["--config-file", str(config), *extra, *words]


def lazy_arguments(digits, output, *extra):
    sets = [f"[tiny_{s},{digits / f'{s}.json'},{digits / s}]" for s in ("train", "test")]
    options = {
        "dataloader.coco_format": f"[{','.join(sets)}]",
        "dataloader.train.dataset.names": "tiny_train",
        "dataloader.test.dataset.names": "tiny_test",
        "dataloader.train.total_batch_size": 2,
        "model.roi_heads.box_predictor.test_score_thresh": 0.0,
        "train.max_iter": 3,
        "train.checkpointer.period": 2,
        "train.output_dir": str(output),
    }
    words = [f"{key}={value}" for key, value in options.items()]
    config = ROOT / "configs/lazy/cpu/digits_enl_rcnn.py"
    return ["--config-file", str(config), *extra, *words]


@pytest.mark.parametrize("arguments", [yaml_arguments, lazy_arguments])
def test_trains_resumes_and_evaluates(digits, tmp_path, arguments):
    parser = default_argument_parser()
    run(parser.parse_args(arguments(digits, tmp_path)))
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    results = tmp_path / "inference/coco_instances_results.json"
    assert {entry["image_id"] for entry in json.loads(results.read_text())} <= {0, 1}
    trained = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert trained["iteration"] == 2

    # Resumed from the checkpoint after two steps, the third alone is done again.
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    (tmp_path / "metrics.json").unlink()
    run(parser.parse_args(arguments(digits, tmp_path, "--resume")))
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines]
    assert iterations[0] == 2
    # On the same images, with the same proposals, it comes out the same.
    again = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert all(torch.equal(again["model"][key], value) for key, value in trained["model"].items())

    results.unlink()
    environment = (tmp_path / "environment.json").read_text()
    metrics = run(parser.parse_args(arguments(digits, tmp_path, "--resume", "--eval-only")))
    assert {"AP", "AP50", "APs", "APm", "APl"} <= metrics["bbox"].keys()
    assert results.exists()
    assert (tmp_path / "environment.json").read_text() == environment  # of the training


@pytest.mark.parametrize("processes", ["1", "2"])
def test_train_net_is_a_command(digits, tmp_path, processes):
    arguments = yaml_arguments(digits, tmp_path, "--num-gpus", processes, "--dist-url", "auto")
    command = [sys.executable, ROOT / "train_net.py", *arguments, "SOLVER.MAX_ITER", "1"]
    # On the CPU, processes train together as on GPUs.
    subprocess.run(command, check=True, cwd=tmp_path)
    assert (tmp_path / "model_final.pth").exists()


def test_a_missing_file_is_named_before_anything_starts(digits, tmp_path):
    arguments = yaml_arguments(digits, tmp_path / "output")
    arguments = [word.replace("train.json", "no.json") for word in arguments]
    with pytest.raises(FileNotFoundError, match="'tiny_train' has no annotation file .*no.json"):
        run(default_argument_parser().parse_args(arguments))
    assert not (tmp_path / "output").exists()


class Record(HookBase):
    """What every step's loss was, over all processes; only the main one knows it."""

    def __init__(self):
        self.losses = []

    def after_step(self):
        if comm.is_main_process():
            self.losses.append(self.trainer.storage.history("total_loss").latest())


def trainer_with_record(arguments):
    trainer = Trainer.from_args(default_argument_parser().parse_args(arguments))
    record = Record()
    trainer.register_hooks([record])
    return trainer, record


def train_and_write_losses(arguments, output):
    """What each process does; on a module's level, as a new process imports it."""
    trainer, record = trainer_with_record(arguments)
    trainer.resume_or_load(resume=False)
    trainer.train()
    if comm.is_main_process():
        (output / "losses.json").write_text(json.dumps(record.losses))


@pytest.mark.parametrize("arguments", [yaml_arguments, lazy_arguments])
def test_mixed_precision_needs_a_gpu(digits, tmp_path, arguments):
    key = "SOLVER.AMP.ENABLED" if arguments is yaml_arguments else "train.amp.enabled"
    words = [key, "True"] if arguments is yaml_arguments else [f"{key}=True"]
    args = default_argument_parser().parse_args([*arguments(digits, tmp_path / "no"), *words])
    with pytest.raises(ConfigError, match=f"{key} must be False on cpu"):
        run(args)
    assert not (tmp_path / "no").exists()


def write_weights(file):
    """Weights of the slim model, with residual blocks that frozen batch norm keeps small."""
    cfg = load_config(str(ROOT / "configs/cpu/digits_enl_rcnn.yaml"), ["MODEL.RESNETS.NORM", NORM])
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, module in model.named_modules():
        if name.endswith("conv3.norm"):
            torch.nn.init.constant_(module.weight, 0.3)
    torch.save({"model": model.state_dict()}, file)


def test_two_processes_at_half_the_batch_train_as_one_does(digits, tmp_path):
    write_weights(tmp_path / "weights.pth")
    options = {
        "MODEL.WEIGHTS": tmp_path / "weights.pth",
        # Each process must see all that the single one does: nothing that depends on the other
        # images of a batch, and no sampling, for which each process has its own random numbers.
        "MODEL.RESNETS.NORM": NORM,
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
        "MODEL.RPN.NMS_THRESH": 1.0,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 50,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.MAX_ITER": 10,
        "SOLVER.CHECKPOINT_PERIOD": 100,
        "DATASETS.TEST": "()",
    }
    words = [str(word) for option in options.items() for word in option]
    for processes in (1, 2):
        output = tmp_path / str(processes)
        arguments = yaml_arguments(digits, output) + words
        launch(train_and_write_losses, processes, dist_url="auto", args=(arguments, output))
    one, two = (json.loads((tmp_path / n / "losses.json").read_text()) for n in ("1", "2"))
    assert len(one) == 10
    assert two == pytest.approx(one, rel=1e-3)
    before, one, two = (
        torch.load(tmp_path / file, weights_only=False)["model"]
        for file in ("weights.pth", "1/model_final.pth", "2/model_final.pth")
    )
    for name in one:
        # What has no gradient but rounding, as the bias below a softmax, moves by that alone.
        allowed = 0.01 * (one[name] - before[name]).norm() + 1e-6 * one[name].norm() + 1e-9
        assert (two[name] - one[name]).norm() <= allowed, name
    relation = "backbone.fpn_relation3.out.weight"
    assert not torch.equal(one[relation], before[relation])


def test_data_with_errors_are_refused_before_anything_starts(digits, tmp_path):
    content = json.loads((digits / "train.json").read_text())
    content["annotations"][0]["bbox"][2] *= -1
    (tmp_path / "reversed.json").write_text(json.dumps(content))
    arguments = yaml_arguments(digits, tmp_path / "output")
    arguments = [
        word.replace(str(digits / "train.json"), str(tmp_path / "reversed.json"))
        for word in arguments
    ]
    with pytest.raises(ValueError, match="'tiny_train' can't be used with 1 errors such as .*rev"):
        run(default_argument_parser().parse_args(arguments))
    assert not (tmp_path / "output").exists()


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
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER must be 'SGD' or 'AdamW', got 'Adam'"):
        Trainer.build_optimizer(slim_cfg, model)


@pytest.mark.parametrize("limit, recall", [(100, 100 / 150), (150, 1.0)])
def test_the_evaluator_counts_as_many_detections_as_the_config_allows(
    slim_cfg, tmp_path, limit, recall
):
    boxes = [[10 * (i % 15), 10 * (i // 15), 8, 8] for i in range(150)]
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": 160, "width": 160}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 64, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    register_coco_format([["crowded", str(tmp_path / "set.json"), str(tmp_path)]])
    slim_cfg.TEST.DETECTIONS_PER_IMAGE = limit
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


def test_a_set_of_another_kind_is_refused(slim_cfg):
    with pytest.raises(ValueError, match="'voc_2007_val' has the evaluator type 'pascal_voc'"):
        Trainer.build_evaluator(slim_cfg, "voc_2007_val")


def test_a_set_of_another_kind_is_refused_before_the_training(digits, tmp_path):
    arguments = yaml_arguments(digits, tmp_path)
    arguments = [word.replace("('tiny_test',)", "('voc_2007_val',)") for word in arguments]
    with pytest.raises(ValueError, match="'voc_2007_val' has the evaluator type 'pascal_voc'"):
        run(default_argument_parser().parse_args(arguments))
    assert not list(tmp_path.glob("*.pth"))
