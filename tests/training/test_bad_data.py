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


def test_a_bad_image_stops_or_is_replaced(folder, caplog):
    path = folder / "images/image 1.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = r"images/image 1.png \(image 2\) can't be used: .*truncated"
    with pytest.raises(BadImage, match=said) as error:
        train(folder / "tiny.yaml", folder / "losses before it stopped")
    assert "\n" not in str(error.value)
    with pytest.raises(BadImage, match=r"image 1.png \(image 2\) can't be used"):
        evaluates(folder)
    with caplog.at_level(logging.WARNING):
        trains(folder, "DATALOADER.ON_BAD_IMAGE", "replace", "DATALOADER.NUM_WORKERS", 1)
    assert "image 1.png (image 2)" in (folder / "output/log.txt").read_text()


def test_an_image_that_exif_data_turn_is_named(folder):
    """The pixels are as the annotations say, but every reader is told to turn them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "images/image 1.png"
    Image.open(path).save(path, exif=exif)
    with pytest.raises(BadImage, match=r"image 1.png .* got \(48, 64\), expect \(64, 48\)"):
        train(folder / "tiny.yaml", folder / "losses")


def test_images_of_any_kind_and_name_are_trained_on(tmp_path):
    """CMYK, grey, palette and alpha, each seen by the model as three colours of 8 bits."""
    kinds = {"CMYK": ".jpg", "L": ".png", "P": ".png", "RGBA": ".png", "1": ".png", "LA": ".png"}
    content = write_images(tmp_path, count=len(kinds), names="#größe 'b\"&{}%20.png")
    write_config(tmp_path)
    for entry, (mode, ending) in zip(content["images"], kinds.items()):
        path = tmp_path / "images" / entry["file_name"]
        image = Image.open(path).convert("L" if mode == "LA" else "RGB").convert(mode)
        entry["file_name"] = path.with_suffix(ending).name
        image.save(path.with_suffix(ending))
    write_json(tmp_path, content)
    trains(tmp_path, "SOLVER.IMS_PER_BATCH", len(kinds) // 2)
    assert "AP" in evaluates(tmp_path)["bbox"]


def test_a_set_without_annotations(folder):
    content = json.loads((folder / "train.json").read_text())
    write_json(folder, content | {"annotations": []})
    with pytest.raises(ConfigError, match="no image of 'tiny .* has an annotation that is no"):
        train(folder / "tiny.yaml", folder / "losses")
    trains(folder, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    assert not evaluates(folder)["bbox"]["AP"] > 0  # there is nothing to be found


@pytest.mark.parametrize("changed", [{"iscrowd": 1}, {"image_id": 99}])
def test_a_set_of_which_detectron2_would_leave_nothing(folder, changed):
    content = json.loads((folder / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation |= changed
    write_json(folder, content)
    with pytest.raises(ConfigError, match="so nothing is left to train on"):
        train(folder / "tiny.yaml", folder / "losses")
