"""Data of others: what can be trained on is, and what can't is refused by name."""

import json
import logging
import math

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from tiny_training import arguments, read_losses, train, write_config, write_images, write_json

from enl_detectron2.training.config import load_config
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


def rotate(folder):
    """The pixels are as the annotations say, but EXIF data tell every reader to turn them."""
    path, image = image_of(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    "damage, workers, reason",
    [
        (truncate, 1, "truncated"),
        (rotate, 0, r"got \(48, 64\), expect \(64, 48\)"),
    ],
)
def test_a_bad_image_stops_or_is_replaced(folder, damage, workers, reason, caplog):
    damage(folder)
    words = ("DATALOADER.NUM_WORKERS", workers)
    with pytest.raises(
        BadImage, match=rf"images/image 1.png \(image 2\) can't be used: .*{reason}"
    ) as error:
        train(folder / "tiny.yaml", folder / "losses before it stopped", *words)
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        trains(folder, "DATALOADER.ON_BAD_IMAGE", "replace", *words)
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
    ["Zürich – größe {}.png", "#a'b\"c&{}%20.png"],
)
def test_any_file_name_will_do(tmp_path, names):
    write_images(tmp_path, count=2, names=names)
    write_config(tmp_path)
    trains(tmp_path)
    assert "AP" in evaluates(tmp_path)["bbox"]


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
