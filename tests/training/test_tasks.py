"""More than boxes, from sets in COCO format: keypoints, and tests with augmentation."""

import json

import pytest
from detectron2.data import MetadataCatalog
from tiny_training import arguments, read_losses, train, write_config, write_images, write_json

from enl_detectron2.training.data.coco_format import keypoint_flip_map
from enl_detectron2.training.launch import run
from enl_detectron2.utils.errors import ConfigError

NAMES = ["nose", "left_eye", "right_eye"]
KEYPOINTS = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": "[16]",
    "INPUT.RANDOM_FLIP": "horizontal",
    "TEST.KEYPOINT_OKS_SIGMAS": "[0.05,0.05,0.05]",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "SOLVER.MAX_ITER": 2,
}


@pytest.fixture
def folder(tmp_path):
    """A set whose objects have three keypoints each, and tiny.yaml, which is tested on it, too."""
    content = write_images(tmp_path, count=2)
    content["categories"][0]["keypoints"] = NAMES
    for annotation in content["annotations"]:
        annotation["keypoints"] = [20, 12, 2, 14, 20, 2, 26, 20, 2]
        annotation["num_keypoints"] = 3
    write_json(tmp_path, content)
    write_config(tmp_path)
    return tmp_path


def words(options, folder):
    options = {**options, "DATASETS.TEST": f"('tiny {folder}',)"}
    return [str(part) for option in options.items() for part in option]


def test_keypoint_rcnn_is_trained_and_evaluated(folder):
    train(folder / "tiny.yaml", folder / "losses", *words(KEYPOINTS, folder))
    assert len(read_losses(folder / "losses")) == 2
    metadata = MetadataCatalog.get(f"tiny {folder}")
    assert metadata.keypoint_names == NAMES
    assert metadata.keypoint_flip_map == [("left_eye", "right_eye")]
    weights = {"MODEL.WEIGHTS": folder / "output/model_final.pth"}
    options = words({**KEYPOINTS, **weights}, folder)
    metrics = run(arguments(folder / "tiny.yaml", "--eval-only", *options))
    assert {"bbox", "keypoints"} <= metrics.keys()
    results = json.loads((folder / "output/inference/coco_instances_results.json").read_text())
    assert results and all(len(entry["keypoints"]) == 9 for entry in results)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"TEST.KEYPOINT_OKS_SIGMAS": "[]"}, "KEYPOINT_OKS_SIGMAS must hold 3 numbers"),
        (
            {
                "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 4,
                "TEST.KEYPOINT_OKS_SIGMAS": "[1.0,1.0,1.0,1.0]",
            },
            "NUM_KEYPOINTS must be 3, the number of keypoints in '.*', got 4",
        ),
    ],
)
def test_another_number_of_keypoints_is_refused(folder, changed, said):
    options = words({**KEYPOINTS, **changed}, folder)
    with pytest.raises(ConfigError, match=said):
        run(arguments(folder / "tiny.yaml", *options))
    assert not (folder / "output").exists()


def test_keypoints_that_the_set_does_not_have(folder):
    content = write_images(folder / "other", count=2)
    write_json(folder, content)
    with pytest.raises(ConfigError, match="no category of .*train.json lists 'keypoints'"):
        run(arguments(folder / "tiny.yaml", *words(KEYPOINTS, folder)))


def test_mirrored_keypoints():
    names = ["nose", "left_eye", "right_eye", "LeftHand", "RightHand", "left_ear"]
    assert keypoint_flip_map(names) == [("left_eye", "right_eye"), ("LeftHand", "RightHand")]
    people = MetadataCatalog.get("keypoints_coco_2017_train")
    assert set(keypoint_flip_map(people.keypoint_names)) == set(people.keypoint_flip_map)


def test_augmented_tests(folder):
    """TEST.AUG gives metrics of its own, as detectron2's tools/train_net.py does."""
    options = {
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.MIN_SIZES": "(48,64)",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "SOLVER.MAX_ITER": 1,
    }
    train(folder / "tiny.yaml", folder / "losses", *words(options, folder))
    lines = (folder / "output/metrics.json").read_text().splitlines()
    assert {"bbox/AP", "bbox_TTA/AP"} <= json.loads(lines[-1]).keys()
    weights = {"MODEL.WEIGHTS": folder / "output/model_final.pth"}
    options = words({**options, **weights}, folder)
    metrics = run(arguments(folder / "tiny.yaml", "--eval-only", *options))
    assert {"bbox", "bbox_TTA"} <= metrics.keys()
    assert (folder / "output/inference_TTA/coco_instances_results.json").exists()


def test_augmented_tests_of_what_can_not_be(folder):
    options = words({**KEYPOINTS, "TEST.AUG.ENABLED": True}, folder)
    with pytest.raises(ConfigError, match="TTA for keypoint is not supported"):
        run(arguments(folder / "tiny.yaml", *options))
