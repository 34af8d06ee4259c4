"""The relational digits: what is drawn, that the annotations say just that, how it is stored."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scenes
from scenes import (
    DEMO,
    DEMO_COUNTS,
    RELATIONS,
    SceneConfig,
    draw_scene,
    load_digit_samples,
    scene_rng,
    write_relational_digits,
)

TOOL = Path(__file__).parents[2] / "tools/draw_digits.py"
SMALL = SceneConfig(
    image_size=128, large_side=(32, 48), num_tiny=(2, 5), num_distractors=(1, 3), tiny_side=(10, 14)
)
WRITE = {"num_train": 4, "num_test": 3, "seed": 5, "config": SMALL}


@pytest.fixture(scope="module")
def digits():
    return load_digit_samples("train")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "small"
    write_relational_digits(folder, **WRITE)
    return folder


def draw(digits, config, index, seed=0):
    return draw_scene(scene_rng(seed, "train", index), digits, config)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("relation", RELATIONS)
def test_relation_decides_how_many_digits_of_which_classes(digits, relation):
    config = SceneConfig(relation=relation, image_size=208, num_distractors=(2, 2))
    num_large, num_tiny, num_classes = [], set(), []
    for index in range(60):
        annotations = draw(digits, config, index)[1]
        is_large = [max(a["bbox"][2:]) > 18 for a in annotations]
        assert is_large == sorted(is_large, reverse=True)  # large ones first
        num_large.append(sum(is_large))
        num_tiny.add(len(annotations) - sum(is_large))
        num_classes.append(len({a["category_id"] for a in annotations}))
    assert num_tiny == ({1} if relation == "large" else {6, 7, 8, 9, 10})
    share = {"both": (0.65, 0.95), "large": (1, 1)}.get(relation, (0, 0))
    assert share[0] <= np.mean(num_large) <= share[1]
    if relation == "none":
        # Eight digits of independent classes show 10 · (1 - .9⁸) = 5.7 classes on average.
        assert 5 < np.mean(num_classes) < 6.4
    else:
        assert set(num_classes) == {1}


@pytest.mark.parametrize("config", [SceneConfig(large_probability=1), SMALL])
def test_boxes_are_whole_inside_apart_and_of_the_sides_asked_for(digits, config):
    sides = []
    for index in range(25):
        image, annotations = draw(digits, config, index)
        assert image.shape == (config.image_size, config.image_size, 3) and image.dtype == np.uint8
        covered = np.zeros((config.image_size,) * 2, dtype=int)
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            assert all(type(value) is int for value in annotation["bbox"])
            assert min(x, y) >= 0 and max(x + width, y + height) <= config.image_size
            assert (annotation["area"], annotation["iscrowd"]) == (width * height, 0)
            # One pixel more on each side: there has to be a gap of two between any two boxes.
            covered[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1] += 1
            sides.append(max(width, height))
        assert covered.max() == 1
    for lowest, highest in (config.large_side, config.tiny_side):
        near = [side for side in sides if 0.8 * lowest <= side <= highest]
        assert min(near) < 1.1 * lowest and max(near) > 0.9 * highest


def test_ink_fills_its_boxes_and_nothing_else(digits):
    """Another contrast changes the ink alone: by the difference, in the boxes, up to each edge."""
    faint = SceneConfig(noise=0, contrast=0.1, num_distractors=(0, 0))
    for index in range(10):
        image, annotations = draw(digits, faint, index)
        other = draw(digits, replace(faint, contrast=0.3), index)[0]
        change = np.abs(other[:, :, 0].astype(int) - image[:, :, 0])
        for x, y, width, height in (annotation["bbox"] for annotation in annotations):
            ink = change[y : y + height, x : x + width]
            assert ink.max() == pytest.approx(0.2 * 255, abs=4)
            for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
                assert edge.max() >= 0.1 * 0.2 * 255 - 1
            change[y : y + height, x : x + width] = 0
        assert change.max() == 0
    noisy = draw(digits, replace(faint, noise=0.05), 0)[0].astype(float)
    noise = (noisy - draw(digits, faint, 0)[0])[:, :, 0] / 255
    assert noise.std() == pytest.approx(0.05, rel=0.05)


def test_train_and_test_samples_are_disjoint_and_together_all():
    train, test = load_digit_samples("train"), load_digit_samples("test")
    shown = [{patch.tobytes() for patch in samples.ink} for samples in (train, test)]
    assert not shown[0] & shown[1] and len(train.labels) + len(test.labels) == 1797
    assert min(np.bincount(samples.labels).min() for samples in (train, test)) > 40


def test_files_follow_from_the_seed_whatever_the_number_of_scenes(data_set, tmp_path):
    changes = {"again": {}, "other": {"seed": 6}, "fewer": {"num_train": 2, "num_test": 1}}
    for name, changed in changes.items():
        write_relational_digits(tmp_path / name, **WRITE | changed)
    files = contents(data_set)
    assert contents(tmp_path / "again") == files
    assert all(content != files[name] for name, content in contents(tmp_path / "other").items())
    pictures = {k: v for k, v in contents(tmp_path / "fewer").items() if k.endswith(".png")}
    assert len(pictures) == 3 and pictures.items() <= files.items()
    assert files["train/000000.png"] != files["test/000000.png"]
    image, annotations = draw_scene(scene_rng(5, "test", 1), load_digit_samples("test"), SMALL)
    np.testing.assert_array_equal(cv2.imread(str(data_set / "test/000001.png")), image)
    listed = json.loads(files["test.json"])["annotations"]
    assert [a["bbox"] for a in listed if a["image_id"] == 1] == [a["bbox"] for a in annotations]


def test_interrupted_folder_is_completed_and_a_complete_one_kept(data_set, tmp_path, monkeypatch):
    folder, calls = tmp_path / "small", []

    def draw_until_stopped(*arguments):
        calls.append(arguments)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return draw_scene(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(scenes, "draw_scene", draw_until_stopped)
        write_relational_digits(folder, **WRITE)
    write_relational_digits(folder, **WRITE)
    assert contents(folder) == contents(data_set)
    times = {path: path.stat().st_mtime_ns for path in (folder / "test").iterdir()}
    write_relational_digits(folder, **WRITE)
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "test").iterdir()}


def test_folder_of_something_else_is_refused(data_set, tmp_path):
    before = contents(data_set)
    for other in ({"seed": 6}, {"num_train": 5}, {"config": replace(SMALL, noise=0.2)}):
        with pytest.raises(FileExistsError, match=str(data_set)):
            write_relational_digits(data_set, **WRITE | other)
    assert contents(data_set) == before
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError):
        write_relational_digits(tmp_path, **WRITE)
    assert contents(tmp_path) == {"mine.txt": b"precious"}


def test_a_setting_out_of_range_is_named():
    with pytest.raises(ValueError, match="tiny_side must be a pair"):
        SceneConfig(tiny_side=(18, 12))
    with pytest.raises(ValueError, match="choose a larger image_size"):
        SceneConfig(image_size=64)


def test_the_tool_draws_the_demos_scenes_unless_it_is_told_otherwise(
    tmp_path, monkeypatch, run_tool
):
    """So that the documented command finds what ``make demo`` has written."""
    written, folder = [], tmp_path / "digits"
    monkeypatch.setattr(scenes, "write_relational_digits", lambda **given: written.append(given))
    monkeypatch.setitem(sys.modules, "scenes", scenes)
    assert run_tool(TOOL, folder)[0] == 0
    assert written == [{"folder": str(folder), "seed": 0, "config": DEMO} | DEMO_COUNTS]
    assert run_tool(TOOL, folder, "--num-tiny", "1", "8", "--num-test", "3")[0] == 0
    assert written[1]["config"] == replace(DEMO, num_tiny=[1, 8]) and written[1]["num_test"] == 3
