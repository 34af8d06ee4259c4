"""A plain detector becomes an ENL detector: first the very same one, then a better one."""

import json
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser
from scenes import SceneConfig, write_relational_digits

from enl_detectron2.model_zoo import get_config_file
from enl_detectron2.training.launch import run

SCENES = SceneConfig(
    image_size=128,
    large_side=(32, 48),
    num_tiny=(2, 3),
    num_distractors=(1, 2),
    contrast=0.8,
    noise=0.03,
)
PLAIN, ENL = "cpu/digits_rcnn.yaml", "cpu/digits_enl_rcnn.yaml"
START = {"MODEL.ENL_FPN.ZERO_INIT_RESIDUAL": True}


def command(config, data, output, weights, *flags, **options):
    """The metrics of what train_net.py does with these arguments."""
    sets = [[f"tuned_{s}", str(data / f"{s}.json"), str(data / s)] for s in ("train", "test")]
    options = {
        "DATASETS.COCO_FORMAT": sets,
        "DATASETS.TRAIN": "('tuned_train',)",
        "DATASETS.TEST": "('tuned_test',)",
        "MODEL.WEIGHTS": weights,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.STEPS": "()",
        "OUTPUT_DIR": output,
        **options,
    }
    words = [str(word) for option in options.items() for word in option]
    arguments = ["--config-file", get_config_file(config), *flags, *words]
    return run(default_argument_parser().parse_args(arguments))


def detections(folder):
    return json.loads(Path(folder, "inference/coco_instances_results.json").read_text())


def train_and_evaluate(folder, data, steps):
    """The plain detector after so many steps, and its checkpoint."""
    schedule = {"SOLVER.MAX_ITER": steps, "SOLVER.WARMUP_ITERS": min(steps // 2, 30)}
    command(PLAIN, data, folder, "", **schedule)
    weights = folder / "model_final.pth"
    return command(PLAIN, data, folder, weights, "--eval-only")["bbox"]["AP"], weights


def test_a_loaded_detector_gives_its_old_detections_bit_for_bit(tmp_path):
    data = tmp_path / "data"
    write_relational_digits(data, num_train=2, num_test=2, config=SCENES)
    _, weights = train_and_evaluate(tmp_path / "plain", data, 2)
    old = detections(tmp_path / "plain")
    assert len(old) > 50
    command(ENL, data, tmp_path / "enl", weights, "--eval-only", **START)
    assert detections(tmp_path / "enl") == old
    # Which the blocks' usual start does not give.
    command(ENL, data, tmp_path / "usual", weights, "--eval-only")
    assert detections(tmp_path / "usual") != old


@pytest.mark.slow
def test_fine_tuned_it_is_better_than_before(tmp_path):
    data = tmp_path / "data"
    write_relational_digits(data, num_train=100, num_test=30, config=SCENES)
    before, weights = train_and_evaluate(tmp_path / "plain", data, 200)
    assert before > 1  # it has learnt something
    enl = tmp_path / "enl"
    start = command(ENL, data, enl, weights, "--eval-only", **START)["bbox"]["AP"]
    assert start == before and detections(enl) == detections(tmp_path / "plain")
    schedule = {"SOLVER.MAX_ITER": 150, "SOLVER.WARMUP_ITERS": 30}
    command(ENL, data, enl, weights, **START, **schedule)
    after = command(ENL, data, enl, enl / "model_final.pth", "--eval-only")["bbox"]["AP"]
    print(f"AP {before:.1f} plain, {after:.1f} after fine-tuning with blocks")
    assert after > before
