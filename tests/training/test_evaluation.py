"""An evaluation in tiles, its warning at the limit of detections, and what it says classes are."""

import json
import logging
from pathlib import Path

import cv2
import pytest
from tiny_training import arguments, lazy_words, write_config, write_images

from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.config import load_config
from enl_detectron2.training.launch import main, run

ROOT = Path(__file__).parents[2]
LAZY = "configs/lazy/cpu/digits_enl_rcnn.py"


@pytest.fixture(scope="module", params=["yaml", "lazy"])
def trained(request, tmp_path_factory):
    """Words of a command line for a model that has been trained for a step."""
    folder = tmp_path_factory.mktemp(request.param)
    write_images(folder)
    if request.param == "yaml":
        config, weights = write_config(folder), "MODEL.WEIGHTS"
        opts = ["DATASETS.TEST", f"('tiny {folder}',)", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
        run(arguments(config, *opts, "SOLVER.MAX_ITER", "1"))
        return str(config), [*opts, weights, str(folder / "output/model_final.pth")], folder
    config, opts = str(ROOT / LAZY), lazy_words(folder, folder / "output")
    run(arguments(config, *opts, "train.max_iter=1"))
    weights = f"train.init_checkpoint={folder / 'output/model_final.pth'}"
    return config, [*opts, weights], folder


def test_tiles_are_evaluated_and_the_limit_is_warned_of(trained, caplog):
    config, opts, folder = trained
    lazy = config.endswith(".py")
    limit = "model.roi_heads.box_predictor.test_topk_per_image=" if lazy else ""
    opts = [*opts, *([f"{limit}3"] if lazy else ["TEST.DETECTIONS_PER_IMAGE", "3"])]
    results = folder / "output/inference/coco_instances_results.json"
    numbers = []
    for tile in ("0", "32"):
        with caplog.at_level(logging.WARNING, logger="enl_detectron2"):
            main(["--eval-only", "--tile", tile, "--config-file", config, *opts])
        numbers.append(len(json.loads(results.read_text())))
    assert numbers[0] == 6 * 3 < numbers[1]
    whole, tiled = [r.getMessage() for r in caplog.records if "as many as the limit" in r.message]
    assert "image 0.png and 5 more gave 3 detections, as" in whole and "use --tile" in whole
    assert "TEST.DETECTIONS_PER_IMAGE" in whole and "3 detections in a tile" in tiled


def test_deep_images_are_refused_as_in_training(trained):
    config, opts, folder = trained
    file = str(folder / "images/image 0.png")
    cv2.imwrite(file, 16 * cv2.imread(file, cv2.IMREAD_GRAYSCALE).astype("uint16"))
    with pytest.raises(SystemExit, match=r"image 0.png \(image 1\) .* its pixels have more than 8"):
        main(["--eval-only", "--config-file", config, *opts])


def test_class_names_are_in_the_checkpoint(trained):
    config, opts, folder = trained
    (folder / "train.json").rename(folder / "elsewhere.json")  # where the names came from
    detector = load_detector(load_config(config, opts))
    assert detector.class_names == ["thing"]
