import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from enl_detectron2.analysis.detections import batch
from enl_detectron2.analysis.detections.prediction import predict
from enl_detectron2.analysis.detections.video import draw_video
from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.training.config import load_config


def write_images(folder, *names, size=(20, 30)):
    rng = np.random.default_rng(0)
    for name in names:
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return [str(folder / name) for name in names]


def copied(image, name=""):
    return None, image.copy()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def draw_all(tmp_path):
    """Draws files into tmp_path/out: what is wrong with some of them, and what was written."""
    reader = Detector(None, None, [])  # which can do nothing but read images

    def run(files, draw=copied, detector=reader):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        targets = batch.new_files(files, tmp_path / "out")
        (tmp_path / "out").mkdir()
        return batch.draw_images(detector, files, targets, draw, done=lambda *_: None), names(
            tmp_path / "out"
        )

    return run


def test_finds_files_folders_and_patterns_each_file_once(tmp_path):
    a, b, odd = write_images(tmp_path, "a.png", "b.JPG", "[1].png")
    for name in ("notes.txt", "paper.pdf", "data.h5"):
        (tmp_path / name).write_text("")
    others = [str(tmp_path / name) for name in ("data.h5", "notes.txt", "paper.pdf")]
    assert batch.find_images([b, str(tmp_path)]) == ([b, odd, a], [], others)
    assert batch.find_images([odd, f"{tmp_path}/?.png"]) == ([odd, a], [], [])
    (tmp_path / "empty").mkdir()
    files, errors, _ = batch.find_images([f"{tmp_path}/empty", "none*", "x" * 5000, a])
    assert files == [a]
    said = ["a folder witho", "not a file or ", "not a file or "]
    assert [error.partition(" is ")[2][:14] for error in errors] == said
    assert max(map(len, errors)) < 1100


def test_an_image_that_fails_is_named_and_the_next_one_drawn(draw_all, tmp_path, capsys):
    files = write_images(tmp_path, "memory.png", "torch.png", "good.png")
    failures = iter([MemoryError(), RuntimeError("can't allocate memory:\n you tried")])

    def draw(image, name):
        for error in failures:
            raise error
        return None, image

    assert draw_all(files, draw) == (
        [
            f"{files[0]} can't be used: there is not enough memory",
            f"{files[1]} can't be used: can't allocate memory: you tried",
        ],
        ["good.png"],
    )
    assert capsys.readouterr().err.count("left out: ") == 2
    failures = iter([KeyError("a bug")])  # which is no image's fault
    with pytest.raises(KeyError):
        draw_all(files, draw)


def test_large_images_are_for_tiles_and_have_a_limit(draw_all, tmp_path, monkeypatch):
    sizes = {"s.png": (9, 9), "l.png": (20, 30), "xl.png": (40, 40)}
    files = [write_images(tmp_path, name, size=size)[0] for name, size in sizes.items()]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(batch, "MOST_PIXELS", 1000)
    errors, drawn = draw_all(files)
    assert drawn == ["s.png"] and len(errors) == 2
    assert all("can't be read: Image size" in error for error in errors)
    assert all("tile by tile, images may have up to 1,000 pixels" in error for error in errors)
    [error], drawn = draw_all(files, detector=Detector(None, None, [], tile=10))
    assert drawn == ["l.png", "s.png"]
    assert "xl.png can't be read: Image size (1600 pixels)" in error
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("tile", [0, 800])
def test_images_too_narrow_for_the_model_are_named(slim_model, draw_all, tmp_path, tile):
    config, weights = map(str, slim_model)
    opts = ["MODEL.WEIGHTS", weights, "INPUT.MIN_SIZE_TEST", "80", "INPUT.MAX_SIZE_TEST", "133"]
    detector = load_detector(load_config(config, opts, tile))
    files = write_images(tmp_path, "narrow.png", size=(1, 5000))
    files += write_images(tmp_path, "good.png")

    def draw(image, name):
        return predict(detector, image, score_threshold=0.0), image

    [error], drawn = draw_all(files, draw, detector)
    assert "narrow.png can't be used: " in error and "can't be resized for the model" in error
    assert drawn == ["good.png"]


def test_what_can_not_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a.jpg can't hold a drawing of 70000×1 pixels"):
        batch.write_drawing(str(tmp_path / "a.jpg"), np.zeros((1, 70_000, 3), dtype=np.uint8))
    for name in ("a.psd", os.fsdecode(b"a.\xff")):
        with pytest.raises(ValueError, match="its suffix names no format that OpenCV writes"):
            batch.require_format(name)
    assert names(tmp_path) == []


def test_names_that_are_not_unicode_do_not_crash_opencv(draw_all, tmp_path):
    odd = os.path.join(tmp_path, os.fsdecode(b"\xff\xfe.png"))
    os.rename(write_images(tmp_path, "a.png")[0], odd)
    assert batch.find_images([str(tmp_path)]) == ([odd], [], [])
    assert draw_all([odd]) == ([], [Path(odd).name])


def write_video(path, frames=5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for frame in np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8):
        writer.write(frame)
    writer.release()
    return str(path)


def test_a_video_that_is_stopped_keeps_its_frames(tmp_path):
    source = write_video(tmp_path / "film.avi")
    for error, message in (
        (KeyboardInterrupt(), None),
        (RuntimeError("out of memory"), "film.avi, frame 3, can't be used: out of memory"),
    ):
        frames = iter([None, None, error])

        def draw(image, name, frames=frames):
            if (error := next(frames)) is not None:
                raise error
            return copied(image)

        with pytest.raises((KeyboardInterrupt, ValueError), match=message):
            draw_video(draw, source, str(tmp_path / "out.mp4"))
        assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2
        (tmp_path / "out.mp4").unlink()
    with pytest.raises(ValueError, match="out.xyz can't be written as a video: name an .mp4"):
        draw_video(copied, source, str(tmp_path / "out.xyz"))
    assert names(tmp_path) == ["film.avi"]


def test_a_video_that_ends_early_is_reported(tmp_path):
    source = Path(write_video(tmp_path / "film.avi", frames=20))
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    (said,) = draw_video(copied, str(source), str(tmp_path / "out.mp4"))
    assert "of its 20 frames could be read" in said
    assert (tmp_path / "out.mp4").exists()
