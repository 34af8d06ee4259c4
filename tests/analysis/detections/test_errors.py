import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from enl_detectron2.analysis.detections.errors import (
    Objects,
    Row,
    analyze_errors,
    repetition_effect,
)
from enl_detectron2.analysis.detections.errors_report import (
    describe_effect,
    format_analyses,
    plot_analyses,
)

TOOL = Path(__file__).parents[3] / "tools/analyze_errors.py"
TINY, SMALL, LARGE = [0, 0, 10, 10], [20, 0, 20, 20], [40, 0, 50, 50]


def by_label(rows):
    return {row.label: row for row in rows}


def test_recall_by_side_and_number(write_truth, write_results):
    objects = [(1, 1, TINY), (1, 1, SMALL), (1, 1, LARGE), (2, 1, TINY), (2, 2, SMALL)]
    truth = write_truth([*objects, (3, 2, TINY), (3, 2, SMALL)])
    found = [(1, 1, TINY, 0.9), (1, 1, LARGE, 0.8), (3, 2, SMALL, 0.6)]
    found += [(2, 1, TINY, 0.4), (2, 1, SMALL, 0.9)]  # below the threshold; of another class
    results = write_results("model", found)
    analysis = analyze_errors(truth, {"model": results})["model"]
    sides = {row.label: (row.objects, row.recall) for row in analysis.by_side if row.objects}
    third = pytest.approx(100 / 3)
    assert sides == {"8–12": (3, third), "16–24": (3, third), "48–96": (1, 100)}
    assert by_label(analysis.by_side)["< 8"] == Row("< 8", 0, None, None, None)
    # The large object counts as one of its class, but isn't small.
    counts = {row.label: (row.objects, row.recall) for row in analysis.by_count if row.objects}
    assert counts == {"1": (2, 0), "2": (2, 50), "3–4": (2, 50)}
    lower = analyze_errors(truth, {"model": results}, score_threshold=0.3)["model"]
    assert by_label(lower.by_side)["8–12"].recall == pytest.approx(200 / 3)


def random_scenes(rng):
    """Objects on a grid, many of two classes, and detections of them, some off, some wrong."""
    objects, detections = [], []
    for image in range(1, 13):
        places = [[25 * x, 26 * y] for x in range(4) for y in range(3)]
        rng.shuffle(places)
        for x, y in places[: rng.integers(1, 12)]:
            category, side = int(rng.integers(1, 3)), int(rng.integers(6, 24))
            objects.append((image, category, [x, y, side, side]))
            if rng.random() < 0.8:
                shifted = [x + int(rng.integers(0, 4)), y, side, side]
                guess = category if rng.random() < 0.8 else 3 - category
                detections.append((image, guess, shifted, float(rng.random())))
    return objects, detections


def coco_ap(truth, detections, image_class_pairs=None, side_range=(0, 1000)):
    """AP50 and AP by pycocotools alone, on those pairs of an image and a class only."""
    content = json.loads(truth.read_text())
    annotations = [
        {**a, "id": a["id"] + 1, "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0}
        for a in content["annotations"]
        if image_class_pairs is None or (a["image_id"], a["category_id"]) in image_class_pairs
    ]
    coco = COCO()
    coco.dataset = {**content, "annotations": annotations, "info": {}}
    coco.createIndex()
    keys = ("image_id", "category_id", "bbox", "score")
    found = [dict(zip(keys, one)) for one in detections]
    if image_class_pairs is not None:
        found = [d for d in found if (d["image_id"], d["category_id"]) in image_class_pairs]
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.params.areaRng = [[side_range[0] ** 2, side_range[1] ** 2 - 1e-6]]
    evaluation.params.areaRngLbl = ["range"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    return 100 * np.nanmean(precision[0]), 100 * np.nanmean(precision)


def test_ap_is_that_of_pycocotools_on_the_group_alone(write_truth, write_results):
    objects, detections = random_scenes(np.random.default_rng(0))
    truth, results = write_truth(objects, 12), write_results("model", detections)
    analysis = analyze_errors(truth, {"model": results})["model"]
    for label, limits in {"8–12": (8, 12), "all": (0, 1000)}.items():
        row = by_label([*analysis.by_side, analysis.every])[label]
        expected = coco_ap(truth, detections, side_range=limits)
        assert pytest.approx(list(expected)) == [row.AP50, row.AP]
    pairs = [(image, category) for image, category, _ in objects]
    for label, low, high in (("1", 1, 1), ("3–4", 3, 4), ("5–8", 5, 8)):
        group = {pair for pair in pairs if low <= pairs.count(pair) <= high}
        row = by_label(analysis.by_count)[label]
        assert row.objects == sum(pair in group for pair in pairs) > 0
        assert pytest.approx(coco_ap(truth, detections, group)) == (row.AP50, row.AP)


def objects_of(counts, found, side=10.0, images_of_each=40):
    """Images of one class, each with as many objects as ``counts`` says in turn; found likewise."""
    rows = [
        (image, count, of_image)
        for image, (count, of_image) in enumerate(list(zip(counts, found)) * images_of_each)
        for _ in range(count)
    ]
    image, count, of_image = map(np.array, zip(*rows))
    sides = np.full(len(rows), side)
    return Objects(image, np.ones(len(rows), dtype=int), sides, count, of_image.astype(float))


def everything(objects):
    return np.ones(len(objects.image), dtype=bool)


def test_the_slope_is_the_one_of_a_line_through_the_recalls():
    # Recall 0.2, 0.4, 0.6 at 1, 2 and 4 objects: 20 points a doubling, exactly.
    counts = [1] * 5 + [2] * 5 + [4] * 5
    found = [1, 0, 0, 0, 0] + [1, 1, 0, 0, 0] + [1, 1, 1, 0, 0]
    objects = objects_of(counts, found)
    effect = repetition_effect(objects, everything(objects))
    assert effect.points == pytest.approx(20)
    assert 0 < effect.low < 20 < effect.high < 40
    assert effect.high - 20 == pytest.approx(20 - effect.low)

    backwards = replace(objects, found=1 - objects.found)
    effect = repetition_effect(backwards, everything(backwards))
    assert effect.points == pytest.approx(-20) and effect.high < 0


def test_size_alone_is_not_taken_for_repetition():
    # Few are large enough to be found, many are tiny and missed: the number itself does nothing.
    few, many = objects_of([1, 2], [1, 1], side=30.0), objects_of([8, 9], [0, 0], side=7.0)
    many = replace(many, image=many.image + 1000)
    names = ("image", "category", "side", "count", "found")
    columns = [np.concatenate([getattr(few, n), getattr(many, n)]) for n in names]
    objects = Objects(*columns)
    assert np.corrcoef(objects.count, objects.found)[0, 1] < -0.9
    assert repetition_effect(objects, everything(objects)).points == pytest.approx(0)
    assert repetition_effect(objects, ~everything(objects)).points is None


def test_the_interval_covers_chance_as_often_as_it_says():
    rng, missed = np.random.default_rng(0), 0
    template = objects_of([1, 2, 3, 4, 6], [0] * 5, images_of_each=20)
    for _ in range(200):
        # Images differ in how easy they are, so objects of one image aren't independent.
        ease = rng.random(template.image.max() + 1)[template.image]
        objects = replace(template, found=(rng.random(len(ease)) < ease).astype(float))
        effect = repetition_effect(objects, everything(objects))
        missed += not effect.low <= 0 <= effect.high
    assert missed <= 26  # 10 expected of 5 %, or a little more for few images


@pytest.mark.parametrize(
    "found, verb",
    [
        ([0, 0, 0, 1], "grows with the number"),
        ([1, 1, 0, 0], "falls with the number"),
        ([1, 0, 1, 0], "doesn't measurably change with the number"),
    ],
)
def test_says_in_one_sentence_whether_repetition_helps(write_truth, write_results, found, verb):
    # Images with one and with four objects, in turn; found are half of each, or those of one kind.
    boxes = [[x, y, 10, 10] for x in (0, 30) for y in (0, 30)]
    objects, detections = [], []
    for image in range(1, 41):
        of_image = boxes[: 1 if image % 4 < 2 else 4]
        objects += [(image, 1, box) for box in of_image]
        if found[image % 4]:
            detections += [(image, 1, box, 0.9) for box in of_image]
    truth, results = write_truth(objects), write_results("model", detections)
    analysis = analyze_errors(truth, {"model": results})["model"]
    sentence = describe_effect("model", analysis)
    assert sentence.startswith(f"model: recall of small objects {verb}")
    assert f"1: {by_label(analysis.by_count)['1'].recall:.1f} % of 20, 3–4: " in sentence


@pytest.mark.parametrize("objects", [[(1, 1, LARGE)], []])
def test_says_so_if_the_data_cannot_tell(write_truth, write_results, objects):
    truth, results = write_truth(objects, 2), write_results("model", [])
    content = json.loads(truth.read_text()) | {"categories": [{"id": 1, "name": "a"}]}
    truth.write_text(json.dumps(content))
    analyses = analyze_errors(truth, {"model": results})
    assert "can't tell" in describe_effect("model", analyses["model"])
    assert "no small objects" in format_analyses(analyses)


def test_names_are_drawn_and_tabled_as_they_are(write_truth, write_results, tmp_path):
    truth, results = write_truth([(1, 1, TINY)]), write_results("model", [(1, 1, TINY, 0.9)])
    analyses = analyze_errors(truth, {r"$\nope{$": results, "x" * 5000: results})
    plot_analyses(analyses, tmp_path / "errors.png")  # where matplotlib would have read TeX
    table = format_analyses(analyses)
    assert r"$\nope{$" in table and max(map(len, table.splitlines()[:6])) < 400


def test_the_tool_compares_models_and_overwrites_nothing(
    write_truth, write_results, tmp_path, run_tool
):
    objects, detections = random_scenes(np.random.default_rng(1))
    truth = write_truth(objects, 12)
    good, bad = write_results("good", detections), write_results("bad", detections[::3])
    arguments = ["--annotations", truth, "--output", tmp_path / "out"]
    arguments += ["--results", f"good={good}", f"bad={bad}"]
    status, printed, _ = run_tool(TOOL, *arguments)
    assert status == 0
    assert "good: recall of small objects" in printed and "bad: recall of small" in printed
    with open(tmp_path / "out/errors.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["grouped by"] == "box side, px"]
    assert sum(int(row["objects"]) for row in rows) == 2 * 2 * len(objects)  # and all of them
    found = dict.fromkeys(("good", "bad"), 0.0)
    for row in rows:
        found[row["model"]] += int(row["objects"]) * float(row["recall"] or 0)
    assert found["good"] > found["bad"] > 0
    before = (tmp_path / "out/errors.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    status, _, said = run_tool(TOOL, *arguments)
    assert status == 2 and "out already exists" in said
    assert (tmp_path / "out/errors.png").read_bytes() == before
