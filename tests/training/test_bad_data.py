"""Data of others: what can be trained on is, and what can't is refused by name."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from tiny_training import arguments, read_losses, train, write_config, write_images, write_json

from enl_detectron2.training.config import load_config
from enl_detectron2.training.data.loader import CheckedMapper
from enl_detectron2.training.launch import run
from enl_detectron2.utils.errors import BadImage, ConfigError


@pytest.fixture
def folder(tmp_path):
    """With two images and tiny.yaml, whose batch is both of them."""
    write_images(tmp_path, count=2)
    write_config(tmp_path)
    return tmp_path


def trains(folder, *words):
    train(folder / "tiny.yaml", folder / "losses", "SOLVER.MAX_ITER", 2, *words)
    losses = read_losses(folder / "losses")
    assert len(losses) == 2 and all(math.isfinite(loss) for _, loss in losses)


def evaluates(folder):
    config, weights = folder / "tiny.yaml", folder / "untrained.pth"
    torch.save({"model": build_model(load_config(str(config), [])).state_dict()}, weights)
    words = ("DATASETS.TEST", f"('tiny {folder}',)", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    return run(arguments(config, "--eval-only", *words, "MODEL.WEIGHTS", weights))


def change(folder, **changes):
    content = json.loads((folder / "train.json").read_text()) | changes
    write_json(folder, content)
    return content


def image_of(folder, index=1):
    path = folder / "images" / f"image {index}.png"
    return path, Image.open(path)


def truncate(folder):
    path, _ = image_of(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    image_of(folder)[0].write_bytes(b"")


def no_image(folder):
    image_of(folder)[0].write_text("this is no image")


def sixteen_bits(folder):
    path, image = image_of(folder)
    pixels = np.full((image.height, image.width), 40_000, np.uint16)
    Image.fromarray(pixels).save(path)


def rotate(folder):
    """The pixels are as the annotations say, but EXIF data tell every reader to turn them."""
    path, image = image_of(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


BAD_IMAGES = {
    truncate: "truncated",
    empty: "cannot identify",
    no_image: "cannot identify",
    sixteen_bits: "more than 8 bits",
    rotate: r"got \(48, 64\), expect \(64, 48\)",
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", [truncate, rotate])
def test_a_bad_image_stops_the_run_by_name_whoever_reads_it(folder, damage, workers):
    damage(folder)
    with pytest.raises(BadImage) as error:
        train(folder / "tiny.yaml", folder / "losses", "DATALOADER.NUM_WORKERS", workers)
    message = str(error.value)
    assert "images/image 1.png (image 2) can't be used: " in message and "\n" not in message


@pytest.mark.parametrize("damage", BAD_IMAGES)
def test_a_bad_image_stops_or_is_replaced(folder, damage, caplog):
    damage(folder)
    with pytest.raises(
        BadImage, match=f"image 1.png .image 2. can't be used: .*{BAD_IMAGES[damage]}"
    ):
        train(folder / "tiny.yaml", folder / "losses before it stopped")
    with caplog.at_level(logging.WARNING):
        trains(folder, "DATALOADER.ON_BAD_IMAGE", "replace")
    texts = [record.getMessage() for record in caplog.records]
    named = [text for text in texts if "image 1.png (image 2) can't be used" in text]
    assert len(named) == 2  # one in each batch
    assert "image 1.png (image 2)" in (folder / "output/log.txt").read_text()


def test_a_bad_image_stops_an_evaluation_by_name(folder):
    truncate(folder)
    with pytest.raises(BadImage, match=r"image 1.png \(image 2\) can't be used"):
        evaluates(folder)


def test_images_of_other_kinds_are_trained_on(tmp_path):
    """CMYK, grey, palette and alpha, each seen by the model as three colours of 8 bits."""
    kinds = {"CMYK": ".jpg", "L": ".png", "P": ".png", "RGBA": ".png", "1": ".png", "LA": ".png"}
    content = write_images(tmp_path, count=len(kinds))
    write_config(tmp_path)
    for entry, (mode, ending) in zip(content["images"], kinds.items()):
        path = tmp_path / "images" / entry["file_name"]
        image = Image.open(path).convert("L" if mode == "LA" else "RGB").convert(mode)
        entry["file_name"] = path.with_suffix(ending).name
        image.save(path.with_suffix(ending))
    write_json(tmp_path, content)
    trains(tmp_path, "SOLVER.IMS_PER_BATCH", len(kinds) // 2)


@pytest.mark.parametrize(
    "names",
    ["ein Bild {}.png", "Zürich – größe {}.png", "図 {}.png", "a'b\"c&{}.png", "#{}%20.png"],
)
def test_any_file_name_will_do(tmp_path, names):
    write_images(tmp_path, count=2, names=names)
    write_config(tmp_path)
    trains(tmp_path)
    assert "AP" in evaluates(tmp_path)["bbox"]


def test_half_a_json_is_refused(folder):
    path = folder / "train.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(
        ConfigError, match="train.json is not a complete JSON file, perhaps it was cut"
    ):
        train(folder / "tiny.yaml", folder / "losses")


def test_boxes_of_zero_area_are_left_out_with_a_warning(folder, caplog):
    content = change(folder)
    content["annotations"][0]["bbox"] = [8, 8, 0, 24]
    write_json(folder, content)
    with caplog.at_level(logging.WARNING):
        trains(folder)
    assert any("annotation 1 has an empty box" in record.getMessage() for record in caplog.records)


def test_a_set_without_annotations(folder):
    change(folder, annotations=[])
    with pytest.raises(ConfigError, match="no image of 'tiny .* has an annotation that is no"):
        train(folder / "tiny.yaml", folder / "losses")
    trains(folder, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    metrics = evaluates(folder)["bbox"]
    assert not metrics["AP"] > 0  # there is nothing to be found


@pytest.mark.parametrize("changed", [{"iscrowd": 1}, {"image_id": 99}])
def test_a_set_of_which_detectron2_would_leave_nothing(folder, changed):
    content = change(folder)
    for annotation in content["annotations"]:
        annotation |= changed
    write_json(folder, content)
    with pytest.raises(ConfigError, match="so nothing is left to train on"):
        train(folder / "tiny.yaml", folder / "losses")


def test_a_set_without_masks_is_refused_for_mask_rcnn(folder):
    content = change(folder)
    for annotation in content["annotations"][2:]:
        annotation["segmentation"] = [[8, 8, 32, 8, 32, 32]]
    write_json(folder, content)
    with pytest.raises(ConfigError, match=r"MASK_ON must be False.*2 of .* the first of them 1, "):
        train(folder / "tiny.yaml", folder / "losses", "MODEL.MASK_ON", "True")
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[8, 8, 32, 8, 32, 32]]
    write_json(folder, content)
    train(folder / "tiny.yaml", folder / "losses", "MODEL.MASK_ON", "True", "SOLVER.MAX_ITER", 1)
    assert len(read_losses(folder / "losses")) == 1


def test_a_mapper_of_the_users_own_may_read_any_image():
    def mapper(record):
        return record | {"pixels": 12}

    record = {"file_name": "16 bits.tif", "image_id": 3}
    assert CheckedMapper(mapper)(record)["pixels"] == 12


def test_an_empty_test_set_is_refused(folder):
    change(folder, images=[], annotations=[])
    with pytest.raises(ConfigError, match="train.json: the file has no images"):
        evaluates(folder)


def test_more_categories_than_the_model_has_are_refused(folder):
    change(folder, categories=[{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}])
    with pytest.raises(
        ConfigError, match="MODEL.ROI_HEADS.NUM_CLASSES must be at least 2, .*got 1"
    ):
        train(folder / "tiny.yaml", folder / "losses")
