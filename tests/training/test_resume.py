"""A run that is taken up with another configuration: refused by name, or kept apart from it."""

from pathlib import Path

import pytest
from tiny_training import arguments, train, write_config, write_images

from enl_detectron2.training.launch import run
from enl_detectron2.utils.errors import ConfigError

LAZY = Path(__file__).parents[2] / "configs/lazy/cpu/digits_enl_rcnn.py"

# What is changed, and what the answer says beside the key.
CHANGES = [
    ("SOLVER.OPTIMIZER AdamW", "of another optimizer"),
    ("SOLVER.BASE_LR 0.005", "learning rate, 0.001 instead of 0.005, would stay"),
    ("SOLVER.MOMENTUM 0.5", "momentum, 0.9 instead of 0.5, would stay"),
    ("SOLVER.WEIGHT_DECAY 0.01", "weight_decay, 0.0001 instead of 0.01, would stay"),
    ("MODEL.BACKBONE.FREEZE_AT 2", "parameters"),
    ("MODEL.ENL_FPN.BLOCK Conv5x5Block", "not in it, the first backbone.fpn_relation"),
    ("MODEL.ENL_FPN.BLOCK ''", "the model has no backbone.fpn_relation"),
    ("MODEL.ROI_HEADS.NUM_CLASSES 3", "box_predictor.cls_score.weight has the shape"),
    ("MODEL.FPN.OUT_CHANNELS 32", "has the shape"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a run that has ended after two steps."""
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder)
    config = write_config(folder)
    train(config, folder / "losses", "SOLVER.MAX_ITER", 2)
    return config


@pytest.mark.parametrize("change, said", CHANGES)
def test_a_change_that_can_not_be_is_named(config, change, said):
    written = (config.parent / "output/config.yaml").read_text()
    with pytest.raises(ConfigError) as error:
        run(arguments(config, "--resume", *change.split()))
    message = str(error.value)
    assert said in message and f"{change.split()[0]} (" in message and "\n" not in message
    weights = config.parent / "output/model_final.pth"
    assert f"MODEL.WEIGHTS {weights} without --resume" in message
    assert (config.parent / "output/config.yaml").read_text() == written


def test_what_may_change_may(config, tmp_path):
    words = ("SOLVER.MAX_ITER", 3, "SOLVER.STEPS", "(2,)", "SOLVER.CHECKPOINT_PERIOD", 5)
    train(config, tmp_path / "losses", "--resume", *words)
    assert (tmp_path / "losses").read_text().startswith("2 ")


def test_an_evaluation_leaves_the_trainings_configuration(config):
    output = config.parent / "output"
    before = (output / "config.yaml").read_text()
    words = ("DATASETS.TEST", f"('tiny {config.parent}',)", "SOLVER.BASE_LR", 0.7)
    run(arguments(config, "--eval-only", "--resume", *words))
    assert (output / "config.yaml").read_text() == before
    assert "BASE_LR: 0.7" in (output / "inference/config.yaml").read_text()


def test_a_lazy_config_is_compared_too(config, tmp_path):
    folder = config.parent
    words = [
        f"dataloader.coco_format=[['lazy {folder}',{folder}/train.json,{folder}/images]]",
        f"dataloader.train.dataset.names='lazy {folder}'",
        f"dataloader.test.dataset.names='lazy {folder}'",
        "dataloader.train.total_batch_size=2",
        "model.roi_heads.num_classes=1",
        f"train.output_dir={tmp_path}",
        "train.max_iter=1",
    ]
    run(arguments(LAZY, *words))
    with pytest.raises(ConfigError, match=r"would stay; .*: optimizer.lr \(0.002 → 0.1\)\. Change"):
        run(arguments(LAZY, "--resume", *words, "optimizer.lr=0.1"))
    with pytest.raises(ConfigError, match=r"model.backbone.out_channels \(64 → 32\)"):
        slim = ["model.backbone.out_channels=32", "model.proposal_generator.head.in_channels=32"]
        run(arguments(LAZY, "--resume", *words, *slim))
