import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from enl_detectron2.analysis.detections import batch
from enl_detectron2.analysis.detections.prediction import NoInstances
from enl_detectron2.analysis.detections.video import draw_video
from enl_detectron2.analysis.detector import Detector, load_detector
from enl_detectron2.training.config import load_config
from enl_detectron2.utils.errors import FileNotWritten


@pytest.fixture
def reader():
    """A detector that can do nothing but read images."""
    return Detector(None, None, [])


def write_images(folder, *names, size=(20, 30)):
    rng = np.random.default_rng(0)
    for name in names:
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return [str(folder / name) for name in names]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_finds_files_folders_and_patterns_each_file_once(tmp_path):
    a, b, odd = write_images(tmp_path, "a.png", "b.JPG", "[1].png")
    (tmp_path / "notes.txt").write_text("")
    assert batch.find_images([b, str(tmp_path)]) == ([b, odd, a], [])
    assert batch.find_images([odd, f"{tmp_path}/?.png"]) == ([odd, a], [])
    (tmp_path / "empty").mkdir()
    files, errors = batch.find_images([f"{tmp_path}/empty", "none*", "x" * 5000, a])
    assert files == [a]
    assert [error.partition(" is ")[2][:14] for error in errors] == [
        "a folder witho",
        "not a file or ",
        "not a file or ",
    ]
    assert max(map(len, errors)) < 1100


def test_an_image_that_fails_is_named_and_the_next_one_drawn(reader, tmp_path, capsys):
    files = write_images(tmp_path, "memory.png", "torch.png", "size.png", "good.png")
    failures = iter(
        [
            MemoryError(),
            RuntimeError("[enforce fail] can't allocate memory:\n you tried"),
            ValueError("height and width must be > 0"),
        ]
    )

    def draw(image):
        for error in failures:
            raise error
        return image

    targets = batch.new_files(files, tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert batch.draw_images(reader, files, targets, draw) == [
        f"{files[0]} can't be used: there is not enough memory",
        f"{files[1]} can't be used: [enforce fail] can't allocate memory: you tried",
        f"{files[2]} can't be used: height and width must be > 0",
    ]
    assert names(tmp_path / "out") == ["good.png"]
    assert capsys.readouterr().err.count("left out: ") == 3


@pytest.mark.parametrize("error", [NoInstances("it segments"), KeyError("a bug")])
def test_what_is_no_images_fault_ends_the_batch(reader, tmp_path, error):
    files = write_images(tmp_path, "a.png", "b.png")

    def draw(image):
        raise error

    with pytest.raises(type(error)):
        batch.draw_images(reader, files, batch.new_files(files, tmp_path / "out"), draw)


def test_a_full_disk_ends_the_batch_and_leaves_no_part(reader, tmp_path, monkeypatch):
    files = write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "out").mkdir()
    targets = batch.new_files(files, tmp_path / "out")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileNotWritten, match="a.png can't be written: No space left on device"):
        batch.draw_images(reader, files, targets, np.copy)
    assert names(tmp_path / "out") == []


def test_large_images_are_for_tiles_and_have_a_limit(reader, tmp_path, monkeypatch):
    small, large, larger = (
        write_images(tmp_path, name, size=size)[0]
        for name, size in (("s.png", (9, 9)), ("l.png", (20, 30)), ("xl.png", (40, 40)))
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(batch, "MOST_PIXELS", 1000)
    files = [larger, large, small]
    (tmp_path / "out").mkdir()
    errors = batch.draw_images(reader, files, batch.new_files(files, tmp_path / "out"), np.copy)
    assert names(tmp_path / "out") == ["s.png"] and len(errors) == 2
    assert all("can't be read: Image size" in error for error in errors)
    assert all("tile by tile, images may have up to 1,000 pixels" in error for error in errors)

    (tmp_path / "tiled").mkdir()
    targets = batch.new_files(files, tmp_path / "tiled")
    tiled = Detector(None, None, [], tile=10)
    errors = batch.draw_images(tiled, files, targets, np.copy)
    assert names(tmp_path / "tiled") == ["l.png", "s.png"]
    assert len(errors) == 1 and "xl.png can't be read: Image size (1600 pixels)" in errors[0]
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
@pytest.mark.parametrize("tile", [0, 800])
def test_images_too_narrow_for_the_model_are_named(slim_model, tmp_path, size, tile):
    config, weights = map(str, slim_model)
    opts = ["MODEL.WEIGHTS", weights, "INPUT.MIN_SIZE_TEST", "80", "INPUT.MAX_SIZE_TEST", "133"]
    detector = load_detector(load_config(config, opts, tile))
    files = write_images(tmp_path, "narrow.png", size=size)
    files += write_images(tmp_path, "good.png")
    (tmp_path / "out").mkdir()
    targets = batch.new_files(files, tmp_path / "out")
    draw = batch.Drawer(detector, 0.0)
    (error,) = batch.draw_images(detector, files, targets, draw)
    assert "narrow.png can't be used: " in error and "can't be resized for the model" in error
    assert names(tmp_path / "out") == ["good.png"]


def test_what_a_format_cannot_hold_is_named(reader, tmp_path):
    with pytest.raises(ValueError, match=r"a.jpg can't hold a drawing of 70000×1 pixels"):
        batch.write_drawing(str(tmp_path / "a.jpg"), np.zeros((1, 70_000, 3), dtype=np.uint8))
    assert names(tmp_path) == []
    files = write_images(tmp_path, "a.png")
    (error,) = batch.draw_images(reader, files, [str(tmp_path / "a.psd")], np.copy)
    assert error.endswith("a.psd can't be written: its suffix names no format that OpenCV writes")


def write_video(path, frames=5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for level in range(frames):
        writer.write(np.full((48, 64, 3), 20 * level, dtype=np.uint8))
    writer.release()
    return str(path)


def test_a_video_that_is_interrupted_or_fails_leaves_nothing(tmp_path):
    source = write_video(tmp_path / "film.mp4")
    for error, message in (
        (KeyboardInterrupt(), None),
        (RuntimeError("out of memory"), "film.mp4, frame 3, can't be used: out of memory"),
    ):
        seen = []

        def draw(image, seen=seen, error=error):
            seen.append(image)
            if len(seen) == 3:
                raise error
            return image

        with pytest.raises((KeyboardInterrupt, ValueError), match=message):
            draw_video(draw, source, str(tmp_path / "out.mp4"))
        assert names(tmp_path) == ["film.mp4"]
    with pytest.raises(ValueError, match="out.xyz can't be written as a video: name an .mp4"):
        draw_video(np.copy, source, str(tmp_path / "out.xyz"))
    assert names(tmp_path) == ["film.mp4"]


def test_names_that_are_not_unicode_do_not_crash_opencv(reader, tmp_path):
    odd = os.path.join(tmp_path, os.fsdecode(b"\xff\xfe.png"))
    os.rename(write_images(tmp_path, "a.png")[0], odd)
    assert batch.find_images([str(tmp_path)]) == ([odd], [])
    (tmp_path / "out").mkdir()
    targets = batch.new_files([odd], tmp_path / "out")
    assert batch.draw_images(reader, [odd], targets, np.copy) == []
    assert names(tmp_path / "out") == [Path(odd).name]
    (error,) = batch.draw_images(reader, [odd], [os.fsdecode(b"a.\xff")], np.copy)
    assert "its suffix names no format" in error


def test_a_video_that_ends_early_is_reported(tmp_path):
    whole = cv2.VideoWriter(
        str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48)
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        whole.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    whole.release()
    content = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(content[: len(content) // 2])
    source = str(tmp_path / "film.avi")
    (said,) = draw_video(np.copy, source, str(tmp_path / "out.mp4"))
    assert "of its 20 frames could be read" in said
    assert (tmp_path / "out.mp4").exists()
