"""The bootstrap over images is COCOeval's AP of the images drawn."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IMAGES, CLASSES = 12, 3


@pytest.fixture
def scenes():
    """A ground truth with crowds and objects of all sizes, and detections with equal scores, too
    many in one image, and none in another."""
    rng = np.random.default_rng(3)
    annotations, found = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 7)):
            side = float(rng.choice([12, 40, 120]))
            box = [*rng.uniform(0, 200, 2).round(1).tolist(), side, side]
            one = {"image_id": image, "category_id": int(rng.integers(1, CLASSES + 1)), "bbox": box}
            more = {"id": len(annotations) + 1, "area": side**2, "iscrowd": int(rng.random() < 0.1)}
            annotations.append(one | more)
            if image != 5 and rng.random() < 0.8:
                moved = [*(box[:2] + rng.uniform(-0.2, 0.2, 2) * side), side, side]
                found.append(one | {"bbox": moved, "score": float(rng.choice([0.3, 0.5, 0.7]))})
        for _ in range(40 if image == 2 else 3):
            box = [*rng.uniform(0, 200, 2).tolist(), *rng.uniform(8, 130, 2).tolist()]
            one = {"image_id": image, "category_id": int(rng.integers(1, CLASSES + 1)), "bbox": box}
            found.append(one | {"score": float(rng.choice([0.3, 0.5, 0.8]))})
    return truth_of(annotations, range(1, IMAGES + 1), CLASSES + 1), found  # one is never there


def truth_of(annotations, images, classes):
    return {
        "info": {},
        "images": [{"id": i, "width": 400, "height": 400} for i in images],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, classes + 1)],
    }


def coco(content):
    found = COCO()
    found.dataset = copy.deepcopy(content)
    found.createIndex()
    return found


def bootstraps(tmp_path, truth, found, limit=100, kind="bbox"):
    from runner.bootstrap import SIZES, Bootstrap, evaluate

    (tmp_path / "results.json").write_text(json.dumps(found))
    evaluation = evaluate(coco(truth), tmp_path / "results.json", kind, limit)
    return [Bootstrap(evaluation, size) for size in SIZES.values()]


def stats(truth, detections, limit):
    """AP, APs, APm and APl of COCOeval itself, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = coco(truth)
        evaluation = COCOeval(annotations, annotations.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"]
    return [100 * np.mean(p[p > -1]) for p in precision[..., -1].transpose(3, 0, 1, 2)]


@pytest.mark.parametrize("limit", [15, 100])
def test_each_image_once_is_cocoevals_ap_to_the_last_bit(scenes, tmp_path, limit):
    ours = [each.ap(np.ones((1, IMAGES)))[0] for each in bootstraps(tmp_path, *scenes, limit)]
    assert ours == stats(*scenes, limit) and len(set(ours)) == 4 and min(ours) > 0
    assert np.isnan(bootstraps(tmp_path, *scenes)[0].ap(np.zeros((1, IMAGES)))).all()


def test_an_image_that_is_drawn_twice_counts_as_two(scenes, tmp_path):
    """Against COCOeval on a data set with copies of images. Scores differ, as a copy's detections
    come after it and not beside each other."""
    truth, results = scenes
    rng = np.random.default_rng(0)
    for result in results:
        result["score"] = rng.random()
    weights = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES))
    assert weights.max() > 1 and weights.min() == 0
    names = [(i, 1000 * n + i) for i, weight in enumerate(weights, start=1) for n in range(weight)]
    copies, found = (
        [one | {"image_id": new} for i, new in names for one in ones if one["image_id"] == i]
        for ones in (truth["annotations"], results)
    )
    copies = [one | {"id": number} for number, one in enumerate(copies, start=1)]
    twice = truth_of(copies, [new for _, new in names], CLASSES + 1)
    choices = np.stack([np.ones(IMAGES), weights])
    ours = [each.ap(choices)[1] for each in bootstraps(tmp_path, truth, results)]
    assert ours == pytest.approx(stats(twice, found, 100), abs=1e-9)


def test_masks_are_judged_by_their_own_area(tmp_path):
    """As detectron2 does: the same file holds boxes, whose areas are others."""
    polygon = [[10, 10, 60, 10, 10, 60]]  # half of its box: 1,250 pixels, a medium object
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 1250.0}
    annotation |= {"bbox": [10, 10, 50, 50], "segmentation": polygon}
    truth = truth_of([annotation], [1], 1)
    results = []
    small = [[10, 10, 40, 10, 10, 40]]  # 450 pixels in a box of 900
    for shape, score in ((small, 0.9), (polygon, 0.5)):
        mask = coco(truth).annToRLE(annotation | {"segmentation": shape})
        mask["counts"] = mask["counts"].decode()
        one = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90], "score": score}
        results.append(one | {"segmentation": mask})
    every, _, medium, _ = bootstraps(tmp_path, truth, results, kind="segm")
    # Of medium masks the small one, which nothing matches, is none.
    assert medium.ap(np.ones((1, 1)))[0] == pytest.approx(100)
    assert every.ap(np.ones((1, 1)))[0] == pytest.approx(50)
