"""Images that are read the same way everywhere: damaged, deep, turned, and plain."""

import os

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import detection_utils
from omegaconf import OmegaConf
from PIL import Image

from enl_detectron2.training.data.images import deep_images_of, read_image
from enl_detectron2.utils.errors import BadImage, ConfigError

RAMP = np.linspace(500, 4100, 12).reshape(3, 4)  # of a camera with 12 bits
DEEP = {
    "16 bits.png": RAMP.astype(np.uint16),
    "32 bits.tif": RAMP.astype(np.int32) * 5000,
    "negative.tif": RAMP.astype(np.float32) - 4000,
}


@pytest.fixture(params=DEEP)
def deep(request, tmp_path):
    path = tmp_path / request.param
    Image.fromarray(DEEP[request.param]).save(path)
    return path


def test_deep_images_are_refused_or_rescaled(deep):
    with pytest.raises(BadImage, match=r"can't be read: its pixels have more than 8 bits .* 'resc"):
        read_image(deep)
    expected = np.round((RAMP - 500) * 255 / 3600)
    for format, channels in (("RGB", 3), ("BGR", 3), ("L", 1)):
        pixels = read_image(deep, format, deep_images="rescale")
        assert pixels.shape == (3, 4, channels) and pixels.dtype == np.uint8
        # The ramp's own rounding to whole numbers may move a value by one.
        assert np.abs(pixels - expected[..., None]).max() <= 1
    assert np.array_equal(pixels.flat[[0, -1]], [0, 255])


def test_a_deep_image_is_turned_as_its_exif_data_say(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP["16 bits.png"]).save(path, exif=exif)
    pixels = read_image(path, "L", deep_images="rescale")
    assert pixels.shape == (4, 3, 1)
    assert pixels[0, :, 0].tolist() == sorted(pixels[0, :, 0], reverse=True)


def test_what_is_no_number_is_refused_and_what_is_all_one_value_is_black(tmp_path):
    path = tmp_path / "odd.tif"
    for value in (np.nan, np.inf):
        Image.fromarray(np.array([[0, value]], np.float32)).save(path)
        with pytest.raises(BadImage, match="odd.tif can't be read: .* infinite or no numbers"):
            read_image(path, deep_images="rescale")
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(path)
    assert not read_image(path, deep_images="rescale").any()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("deep_images", ["refuse", "rescale"])
def test_images_of_8_bits_are_read_as_detectron2_reads_them(tmp_path, mode, deep_images):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("L" if mode == "LA" else "RGB").convert(mode).save(path)
    for format in ("BGR", "RGB", "L", None):
        read = read_image(path, format, deep_images=deep_images)
        assert np.array_equal(read, detection_utils.read_image(str(path), format))


def test_everything_that_is_wrong_with_a_file_is_one_sentence(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sound.png")
    content = (tmp_path / "sound.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("cut.png", "empty.png", "folder.png", "nowhere.png", "pipe.png"):
        with pytest.raises(BadImage, match=f"{name} can't be read: .+") as error:
            read_image(tmp_path / name, "RGB")
        assert "\n" not in str(error.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="sound.png can't be read: Image size .* exceeds limit"):
        read_image(tmp_path / "sound.png")


def test_what_a_configuration_says():
    lazy = OmegaConf.create({"model": {}})
    for other_projects in (get_cfg(), lazy):
        assert deep_images_of(other_projects) == "refuse"
    lazy.train = {"deep_images": "rescale"}
    assert deep_images_of(lazy) == "rescale"
    lazy.train.deep_images = "cut"
    with pytest.raises(ConfigError, match="train.deep_images.* must be 'refuse' or 'rescale'"):
        deep_images_of(lazy)
