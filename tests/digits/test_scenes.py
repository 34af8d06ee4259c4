"""The relational digits: what is drawn, that the annotations say just that, how it is stored."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("sklearn")

from enl_detectron2.digits import scenes
from enl_detectron2.digits.scenes import (
    RELATIONS,
    DigitSamples,
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


@pytest.fixture(scope="module")
def digits():
    return load_digit_samples("train")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "small"
    write_relational_digits(folder, num_train=4, num_test=3, seed=5, config=SMALL)
    return folder


def draw(digits, config, index, seed=0):
    return draw_scene(scene_rng(seed, "train", index), digits, config)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def classes_and_sides(annotations):
    return [(a["category_id"], max(a["bbox"][2:])) for a in annotations]


# What is drawn


@pytest.mark.parametrize("relation", RELATIONS)
def test_relation_decides_how_many_digits_of_which_classes(digits, relation):
    config = SceneConfig(relation=relation, image_size=208, num_distractors=(2, 2))
    num_large, num_tiny, num_classes, seen = [], [], [], set()
    for index in range(60):
        scene = classes_and_sides(draw(digits, config, index)[1])
        large = [label for label, side in scene if side > 18]
        tiny = [label for label, side in scene if side <= 18]
        assert scene[: len(large)] == [pair for pair in scene if pair[1] > 18]  # large ones first
        num_large.append(len(large))
        num_tiny.append(len(tiny))
        num_classes.append(len({*large, *tiny}))
        seen |= {*tiny}

    assert seen == set(range(1, 11))
    if relation == "large":
        assert set(num_tiny) == {1}
    else:
        assert set(num_tiny) == {6, 7, 8, 9, 10}
    if relation == "both":
        assert set(num_large) == {0, 1}
        assert 0.65 < np.mean(num_large) < 0.95
    else:
        assert set(num_large) == {int(relation == "large")}
    if relation == "none":
        # Eight digits of independent classes show 10 · (1 - .9⁸) = 5.7 classes on average.
        assert 5 < np.mean(num_classes) < 6.4
    else:
        assert set(num_classes) == {1}


@pytest.mark.parametrize("probability", [0, 1])
def test_large_probability(digits, probability):
    config = SceneConfig(large_probability=probability, num_tiny=(1, 1))
    assert {len(draw(digits, config, index)[1]) for index in range(8)} == {1 + probability}


def test_no_sample_comes_twice_in_a_scene(digits):
    labels = digits.labels
    classes = np.repeat([3, 7], 40)
    samples = scenes._pick_samples(np.random.default_rng(0), labels, classes)
    assert len(set(samples)) == 80
    np.testing.assert_array_equal(labels[samples], classes)


@pytest.mark.parametrize("config", [SceneConfig(), SMALL, SceneConfig(relation="none")])
def test_boxes_are_whole_inside_and_apart(digits, config):
    for index in range(8):
        annotations = draw(digits, config, index)[1]
        covered = np.zeros((config.image_size,) * 2, dtype=int)
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            assert all(type(value) is int for value in annotation["bbox"])
            assert min(x, y) >= 0
            assert max(x + width, y + height) <= config.image_size
            assert annotation["area"] == width * height
            assert annotation["iscrowd"] == 0
            # One pixel more on each side: there has to be a gap of two between any two boxes.
            covered[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1] += 1
        assert covered.max() == 1


def test_sides_are_those_asked_for(digits):
    config = SceneConfig(relation="both", large_probability=1)
    large, tiny = [], []
    for index in range(25):
        sides = [side for _, side in classes_and_sides(draw(digits, config, index)[1])]
        large.append(sides[0])
        tiny += sides[1:]
    for sides, (lowest, highest) in ((large, config.large_side), (tiny, config.tiny_side)):
        assert 0.8 * lowest <= min(sides) < 1.1 * lowest
        assert 0.9 * highest < max(sides) <= highest


def test_ink_fills_its_boxes_and_nothing_else(digits):
    """Another contrast changes the ink alone: by the difference, in the boxes, up to each edge."""
    faint = SceneConfig(noise=0, contrast=0.1, num_distractors=(0, 0))
    for index in range(10):
        image, annotations = draw(digits, faint, index)
        darker_or_brighter = draw(digits, replace(faint, contrast=0.3), index)[0]
        change = np.abs(darker_or_brighter[:, :, 0].astype(int) - image[:, :, 0])
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            ink = change[y : y + height, x : x + width]
            assert ink.max() == pytest.approx(0.2 * 255, abs=4)
            for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
                assert edge.max() >= 0.1 * 0.2 * 255 - 1
            change[y : y + height, x : x + width] = 0
        assert change.max() == 0


def test_distractors_add_ink_but_no_annotation(digits):
    """Distractors alone are drawn in the place of digits: as much ink, in nobody's box."""
    config = SceneConfig(relation="repeats", noise=0, num_tiny=(1, 1), num_distractors=(8, 8))
    faint = replace(config, contrast=0.1)
    ratios = []
    for index in range(12):
        image, annotations = draw(digits, config, index)
        change = np.abs(image[:, :, 0].astype(float) - draw(digits, faint, index)[0][:, :, 0])
        assert len(annotations) == 1
        x, y, width, height = annotations[0]["bbox"]
        of_the_digit = change[y : y + height, x : x + width].sum()
        ratios.append((change.sum() - of_the_digit) / 8 / of_the_digit)
    assert 0.75 < np.mean(ratios) < 1.35


def test_distractors_are_shuffled():
    """Of bars, the digit alone stays one piece."""
    bars = DigitSamples(np.zeros((10, 8, 8), dtype=np.float32), np.arange(10))
    bars.ink[:, :, 3:5] = 1
    config = SceneConfig(relation="repeats", noise=0, num_tiny=(1, 1), num_distractors=(4, 4))
    for index in range(5):
        (less, annotations), (more, _) = (
            draw(bars, replace(config, contrast=contrast), index) for contrast in (0.1, 0.3)
        )
        drawn = (less != more)[:, :, 0].astype(np.uint8)
        x, y, width, height = annotations[0]["bbox"]
        assert cv2.connectedComponents(drawn[y : y + height, x : x + width])[0] - 1 == 1
        assert cv2.connectedComponents(drawn)[0] - 1 >= 1 + 4 * 2


def test_noise_is_gaussian_of_the_given_deviation(digits):
    config = SceneConfig(noise=0.05, num_distractors=(0, 0))
    image = draw(digits, config, 0)[0].astype(float) / 255
    clean = draw(digits, replace(config, noise=0), 0)[0].astype(float) / 255
    assert (image - clean)[:, :, 0].std() == pytest.approx(0.05, rel=0.05)


def test_ink_is_brighter_in_some_scenes_and_darker_in_others_but_of_one_kind_in_each(digits):
    config = SceneConfig(noise=0, contrast=0.1)
    kinds = set()
    for index in range(10):
        less, more = (draw(digits, replace(config, contrast=c), index)[0] for c in (0.1, 0.3))
        signs = set(np.unique(np.sign(more.astype(int) - less))) - {0}
        assert len(signs) == 1
        kinds |= signs
    assert kinds == {-1, 1}


def test_image_is_grey_bgr_of_the_size_asked_for(digits):
    image = draw(digits, SMALL, 0)[0]
    assert image.shape == (128, 128, 3)
    assert image.dtype == np.uint8
    assert (image == image[:, :, :1]).all()


def test_train_and_test_samples_are_disjoint_and_together_all():
    train, test = load_digit_samples("train"), load_digit_samples("test")
    shown = [{patch.tobytes() for patch in samples.ink} for samples in (train, test)]
    assert not shown[0] & shown[1]
    assert len(train.labels) + len(test.labels) == 1797
    for samples in (train, test):
        assert np.bincount(samples.labels).min() > 40
        assert samples.ink.shape == (len(samples.labels), 8, 8)
        assert (samples.ink.min(), samples.ink.max()) == (0, 1)


def test_crowded_scenes_find_room():
    """As full as is allowed, in the two ways that are hardest: many alike, and two big ones."""
    alone = {"image_size": 100, "relation": "repeats", "num_distractors": (0, 0)}
    many = SceneConfig(tiny_side=(16, 16), num_tiny=(12, 12), **alone)
    two = SceneConfig(tiny_side=(42, 42), num_tiny=(2, 2), **alone)
    squares = DigitSamples(np.ones((10, 8, 8), dtype=np.float32), np.arange(10))
    for config in (many, two):
        for index in range(30):
            assert len(draw(squares, config, index)[1]) == config.num_tiny[1]


# The seed


def test_every_scene_has_random_numbers_of_its_own():
    keys = [
        (seed, split, index) for seed in (0, 1) for split in ("train", "test") for index in (0, 1)
    ]
    assert len({scene_rng(*key).random() for key in keys}) == len(keys)


def test_files_are_the_same_for_a_seed_and_others_for_another(data_set, tmp_path):
    numbers = {"num_train": 4, "num_test": 3, "config": SMALL}
    write_relational_digits(tmp_path / "again", seed=5, **numbers)
    write_relational_digits(tmp_path / "other", seed=6, **numbers)
    assert contents(tmp_path / "again") == contents(data_set)
    for name, content in contents(tmp_path / "other").items():
        assert content != contents(data_set)[name], name


def test_scenes_do_not_depend_on_their_number(data_set, tmp_path):
    write_relational_digits(tmp_path / "fewer", num_train=2, num_test=1, seed=5, config=SMALL)
    more, fewer = contents(data_set), contents(tmp_path / "fewer")
    assert {name for name in fewer if name.endswith(".png")} == {
        "train/000000.png",
        "train/000001.png",
        "test/000000.png",
    }
    for split, count in (("train", 2), ("test", 1)):
        for index in range(count):
            assert more[f"{split}/{index:06d}.png"] == fewer[f"{split}/{index:06d}.png"]
        of_more, of_fewer = (json.loads(files[f"{split}.json"]) for files in (more, fewer))
        kept = [a for a in of_more["annotations"] if a["image_id"] < count]
        assert of_fewer["annotations"] == kept
        assert of_fewer["images"] == of_more["images"][:count]


def test_splits_are_different_scenes_of_their_own_samples(data_set):
    for split in ("train", "test"):
        digits = load_digit_samples(split)
        for index in range(3):
            image, annotations = draw_scene(scene_rng(5, split, index), digits, SMALL)
            stored = cv2.imread(str(data_set / split / f"{index:06d}.png"))
            np.testing.assert_array_equal(stored, image)
            listed = json.loads((data_set / f"{split}.json").read_text())["annotations"]
            listed = [a for a in listed if a["image_id"] == index]
            assert [a["bbox"] for a in listed] == [a["bbox"] for a in annotations]
    assert not np.array_equal(
        cv2.imread(str(data_set / "train/000000.png")),
        cv2.imread(str(data_set / "test/000000.png")),
    )


# The format


def test_pycocotools_reads_it_and_scores_its_own_boxes_perfectly(data_set):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(data_set / "test.json"))
    assert truth.getImgIds() == [0, 1, 2]
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == list("0123456789")
    assert truth.getCatIds() == list(range(1, 11))
    detections = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.5}
        for a in truth.loadAnns(truth.getAnnIds())
    ]
    evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_detectron2_loads_it(data_set):
    detectron2_coco = pytest.importorskip("detectron2.data.datasets.coco")
    from detectron2.data.detection_utils import read_image

    records = detectron2_coco.load_coco_json(data_set / "train.json", str(data_set / "train"))
    stored = json.loads((data_set / "train.json").read_text())["annotations"]
    assert len(records) == 4
    assert sum(len(record["annotations"]) for record in records) == len(stored)
    for record in records:
        image = read_image(record["file_name"], format="BGR")
        np.testing.assert_array_equal(image, cv2.imread(record["file_name"]))
        assert image.shape == (record["height"], record["width"], 3)


# The folder


def test_complete_folder_is_reused(data_set, caplog):
    before = {path: path.stat().st_mtime_ns for path in data_set.rglob("*")}
    with caplog.at_level(logging.INFO):
        write_relational_digits(data_set, num_train=4, num_test=3, seed=5, config=SMALL)
    assert {path: path.stat().st_mtime_ns for path in data_set.rglob("*")} == before
    assert "Reused" in caplog.text
    assert str(data_set) in caplog.text


@pytest.mark.parametrize("stop_at", [0, 2, 4, 6])
def test_interrupted_folder_is_completed(data_set, tmp_path, monkeypatch, stop_at):
    folder, calls = tmp_path / "small", []

    def draw_until_stopped(*arguments):
        calls.append(arguments)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return draw_scene(*arguments)

    write = {"num_train": 4, "num_test": 3, "seed": 5, "config": SMALL}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(scenes, "draw_scene", draw_until_stopped)
        write_relational_digits(folder, **write)
    assert (folder / "train.json").exists() == (stop_at >= 4)
    assert not (folder / "test.json").exists()

    write_relational_digits(folder, **write)
    assert contents(folder) == contents(data_set)


def test_lost_image_is_drawn_again(tmp_path):
    write = {"num_train": 2, "num_test": 1, "config": SMALL}
    write_relational_digits(tmp_path, **write)
    before = contents(tmp_path)
    (tmp_path / "train/000001.png").unlink()
    write_relational_digits(tmp_path, **write)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"num_train": 5}, {"config": replace(SMALL, noise=0.2)}]
)
def test_folder_with_other_settings_is_refused(data_set, other):
    before = contents(data_set)
    write = {"num_train": 4, "num_test": 3, "seed": 5, "config": SMALL, **other}
    with pytest.raises(FileExistsError, match=str(data_set)):
        write_relational_digits(data_set, **write)
    assert contents(data_set) == before


def test_foreign_folder_and_file_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for place in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(FileExistsError, match=f"{place} holds something else"):
            write_relational_digits(place, num_train=1, num_test=1, config=SMALL)
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_empty_folder_is_used(tmp_path):
    write_relational_digits(tmp_path, num_train=1, num_test=1, config=SMALL)
    assert (tmp_path / "test.json").exists()


# What goes wrong is said


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tiny_side": (20, 12)}, "tiny_side must be .* it is .20, 12."),
        ({"tiny_side": (7, 12)}, "tiny_side must be .* not below 8"),
        ({"large_side": (90, 64)}, "large_side must be"),
        ({"num_tiny": (0, 4)}, "num_tiny must be .* not below 1"),
        ({"num_distractors": (-1, 4)}, "num_distractors must be .* not below 0"),
        ({"large_probability": 1.5}, "large_probability must be from 0 to 1, but it is 1.5"),
        ({"contrast": 0}, "contrast must be from 0.01 to 1"),
        ({"noise": -0.1}, "noise must be from 0 to 1"),
        ({"noise": float("nan")}, "noise must be .* it is nan"),
        ({"relation": "some"}, "relation must be one of both, repeats, large, none, .* 'some'"),
        ({"image_size": 128}, "image_size 128: choose a larger"),
        ({"image_size": -256}, "image_size -256"),
        ({"num_tiny": (60, 90)}, "fewer or smaller objects"),
    ],
)
def test_bad_setting_is_named(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SceneConfig(**settings)


def test_fit_counts_only_what_the_relation_draws():
    SceneConfig(image_size=170, relation="repeats")
    with pytest.raises(ValueError, match="image_size 170"):
        SceneConfig(image_size=170)


@pytest.mark.parametrize("number", [{"num_train": 0}, {"num_test": 0}, {"seed": -1}])
def test_bad_number_is_named_before_anything_is_written(number, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(number))} must be at least"):
        write_relational_digits(tmp_path / "new", config=SMALL, **number)
    assert not (tmp_path / "new").exists()


def test_missing_scikit_learn_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"scikit-learn.*enl_detectron2\[demo\]"):
        load_digit_samples("train")


# The command


def test_command_takes_every_setting(data_set, tmp_path, run_tool):
    options = (
        "--num-train 4 --num-test 3 --seed 5 --image-size 128 --tiny-side 10 14 --large-side 32 48"
        " --num-tiny 2 5 --num-distractors 1 3 --large-probability 0.8 --contrast 0.35 --noise 0.13"
        " --relation both"
    )
    assert run_tool(TOOL, tmp_path / "small", *options.split())[0] == 0
    assert contents(tmp_path / "small") == contents(data_set)


def test_command_says_what_is_wrong(tmp_path, run_tool):
    status, _, said = run_tool(TOOL, tmp_path / "new", "--noise", "2")
    assert status == 2
    assert "error: noise must be from 0 to 1, but it is 2.0." in said
    assert not (tmp_path / "new").exists()
