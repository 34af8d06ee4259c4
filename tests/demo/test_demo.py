from pathlib import Path

import cv2
import numpy as np
import pytest

from enl_detectron2.analysis.detections import batch

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo/demo.py"


@pytest.fixture
def model(slim_model):
    """The demo's first and last arguments, which name a model."""
    config, weights = slim_model
    arguments = ["--config-file", config, "--confidence-threshold", 0]
    return arguments, ["--opts", "MODEL.WEIGHTS", weights]


@pytest.fixture
def images(tmp_path):
    """A folder of two images, a broken one, and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), noise)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def run(run_tool):
    """Runs the demo with a model; its status and what it says on standard error."""

    def run(model, *arguments):
        first, last = model
        status, _, said = run_tool(DEMO, *first, *arguments, *last)
        return status, said

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_broken_file_is_named_and_the_rest_done(model, images, tmp_path, run):
    output = tmp_path / "drawn"
    status, message = run(model, "--input", images, "none*.png", "--output", output)
    assert status == 1 and "2 input(s) left out" in message
    assert "broken.png can't be read" in message
    assert "none*.png is not a file or folder" in message
    assert names(output) == ["a.png", "b.jpg", "counts.csv", "detections.json"]
    drawing, image = cv2.imread(str(output / "a.png")), cv2.imread(str(images / "a.png"))
    assert drawing.shape == (502, 640, 3)
    enlarged = cv2.resize(image, (640, 480), interpolation=cv2.INTER_NEAREST)
    assert (np.abs(drawing[:480].astype(int) - enlarged).max(axis=2) > 40).mean() > 0.01


def test_what_is_drawn_before_ctrl_c_has_its_counts(model, images, tmp_path, run, monkeypatch):
    def write(target, drawing):
        if target.endswith("b.jpg"):
            raise KeyboardInterrupt

    monkeypatch.setattr(batch, "write_drawing", write)
    status, message = run(model, "--input", images, "--output", tmp_path / "drawn")
    assert status == 130 and message.endswith("interrupted\n")
    assert "\na.png," in (tmp_path / "drawn/counts.csv").read_text()


def test_nothing_is_overwritten(model, images, tmp_path, run):
    output = tmp_path / "drawn"
    output.mkdir()
    (output / "b.jpg").write_text("mine")
    status, message = run(model, "--input", images, "--output", output)
    assert status == 2 and "b.jpg already exists" in message
    assert names(output) == ["b.jpg"] and (output / "b.jpg").read_text() == "mine"

    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((images / "a.png").read_bytes())
    words = ["--input", images / "a.png", other / "a.png", "--output", tmp_path / "both"]
    assert "2 inputs would be written to" in run(model, *words)[1]
    assert not (tmp_path / "both").exists()


def test_a_video_keeps_its_frames(model, tmp_path, run):
    video, drawn = tmp_path / "film.mp4", tmp_path / "drawn.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for level in (60, 120, 180):
        writer.write(np.full((48, 64, 3), level, dtype=np.uint8))
    writer.release()
    assert run(model, "--video-input", video, "--output", drawn)[0] == 0
    reader = cv2.VideoCapture(str(drawn))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert reader.get(cv2.CAP_PROP_FPS) == 10
    assert reader.read()[1].shape == (502, 640, 3)
    _, again = run(model, "--video-input", video, "--output", drawn)
    assert "drawn.mp4 already exists" in again
    _, message = run(model, "--video-input", tmp_path / "slim.yaml", "--output", "x.mp4")
    assert "slim.yaml is not a readable video" in message


def test_without_weights_it_says_which_key_is_empty(model, images, tmp_path, run):
    first, _ = model
    status, message = run((first, []), "--input", images, "--output", tmp_path / "drawn")
    assert status == 2 and "demo.py: error: MODEL.WEIGHTS is empty" in message


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--webcam", "--output", "x"], "--webcam is shown in a window"),
        (["--input", "x", "--tile", "-1"], "'-1' must be a whole number from 0"),
        (["--input", "x", "--confidence-threshold", "nan"], "'nan' must be a number from 0 to 1"),
        ([], "one of the arguments --input --video-input --webcam is required"),
    ],
)
def test_arguments_that_make_no_sense(model, run, arguments, message):
    status, said = run(model, *arguments)
    assert status == 2 and message in said
