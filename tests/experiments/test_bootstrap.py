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
def scenes(tmp_path):
    """A ground truth with crowds and objects of all sizes, and detections with equal scores, too
    many in one image, and none in another."""
    rng = np.random.default_rng(3)
    annotations, detections = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 7)):
            side = float(rng.choice([12, 40, 120]))
            box = [*rng.uniform(0, 200, 2).round(1).tolist(), side, side]
            category = int(rng.integers(1, CLASSES + 1))
            annotation = {"image_id": image, "category_id": category, "bbox": box}
            crowd = int(rng.random() < 0.1)
            annotations.append(annotation | {"area": 0.8 * side**2, "iscrowd": crowd})
            if image != 5 and rng.random() < 0.8:
                shift = rng.uniform(-0.2, 0.2, 2) * side
                moved = [box[0] + shift[0], box[1] + shift[1], side, side]
                score = float(rng.choice([0.3, 0.5, 0.7, 0.9]))
                detections.append({**annotation, "bbox": moved, "score": score})
        for _ in range(40 if image == 2 else 3):
            box = [*rng.uniform(0, 200, 2).tolist(), *rng.uniform(8, 130, 2).tolist()]
            category, score = int(rng.integers(1, CLASSES + 1)), float(rng.choice([0.3, 0.5, 0.8]))
            found = {"image_id": image, "category_id": category, "bbox": box, "score": score}
            detections.append(found)
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    truth = {
        "info": {},
        "images": [{"id": i, "width": 400, "height": 400} for i in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 2)],  # one never there
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(detections))
    return tmp_path


def coco(content):
    found = COCO()
    found.dataset = copy.deepcopy(content)
    found.createIndex()
    return found


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
def test_a_resample_without_replacement_is_cocoevals_ap_to_the_last_bit(scenes, limit):
    from runner.bootstrap import SIZES, Bootstrap, evaluate

    truth, results = (json.loads((scenes / f"{n}.json").read_text()) for n in ("truth", "results"))
    evaluation = evaluate(coco(truth), scenes / "results.json", "bbox", limit)
    once = np.ones((1, IMAGES))
    ours = [Bootstrap(evaluation, size).ap(once)[0] for size in SIZES.values()]
    assert ours == stats(truth, results, limit)
    assert len(set(ours)) == len(SIZES) and min(ours) > 0


def test_an_image_that_is_drawn_twice_counts_as_two(scenes):
    """Against COCOeval on a data set with copies of images. Scores differ, as a copy's detections
    come after it and not beside each other."""
    from runner.bootstrap import SIZES, Bootstrap, evaluate

    truth, results = (json.loads((scenes / f"{n}.json").read_text()) for n in ("truth", "results"))
    rng = np.random.default_rng(0)
    for result in results:
        result["score"] = rng.random()
    (scenes / "results.json").write_text(json.dumps(results))
    evaluation = evaluate(coco(truth), scenes / "results.json", "bbox", 100)
    weights = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES))
    assert weights.max() > 1 and weights.min() == 0
    copies = {"images": [], "annotations": []}
    found = []
    for image, weight in enumerate(weights, start=1):
        for number in range(int(weight)):
            name = {"id": 1000 * number + image}
            copies["images"].append(truth["images"][image - 1] | name)
            renamed = {"image_id": name["id"]}
            for one in truth["annotations"]:
                if one["image_id"] == image:
                    id = {"id": len(copies["annotations"]) + 1}
                    copies["annotations"].append(one | renamed | id)
            found += [one | renamed for one in results if one["image_id"] == image]
    expected = stats(truth | copies, found, 100)
    choices = np.stack([np.ones(IMAGES), weights])
    ours = [Bootstrap(evaluation, size).ap(choices)[1] for size in SIZES.values()]
    assert ours == pytest.approx(expected, abs=1e-9)


def test_images_without_objects_have_no_ap(scenes):
    from runner.bootstrap import Bootstrap, evaluate, percentiles

    truth = json.loads((scenes / "truth.json").read_text())
    bootstrap = Bootstrap(evaluate(coco(truth), scenes / "results.json", "bbox", 100))
    assert np.isnan(bootstrap.ap(np.zeros((1, IMAGES)))).all()
    assert np.isnan(percentiles(np.array([np.nan]))).all()
    assert percentiles(np.arange(1001.0)) == (25, 975)


def test_draws_are_the_same_for_all_models():
    from runner.bootstrap import RESAMPLES, draw

    draws = draw(50)
    assert RESAMPLES >= 1000 and draws.shape == (RESAMPLES, 50)
    assert (draws.sum(axis=1) == 50).all() and (draws == draw(50)).all()
    assert (draws[0] != draws[1]).any()


def test_masks_are_judged_by_their_own_area(tmp_path):
    """As detectron2 does: the same file holds boxes, whose areas are others."""
    from runner.bootstrap import Bootstrap, evaluate

    polygon = [[10, 10, 60, 10, 10, 60]]  # half of its box: 1,250 pixels, a medium object
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 1250.0}
    annotation |= {"bbox": [10, 10, 50, 50], "segmentation": polygon}
    truth = coco(
        {
            "info": {},
            "images": [{"id": 1, "width": 100, "height": 100}],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "thing"}],
        }
    )
    mask = truth.annToRLE(annotation)
    mask["counts"] = mask["counts"].decode()
    small = [[10, 10, 40, 10, 10, 40]]  # 450 pixels in a box of 900
    missed = truth.annToRLE(annotation | {"segmentation": small})
    missed["counts"] = missed["counts"].decode()
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90], "segmentation": s, "score": score}
        for s, score in ((missed, 0.9), (mask, 0.5))
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    evaluation = evaluate(truth, tmp_path / "results.json", "segm", 100)
    # Of medium masks the small one, which nothing matches, is none.
    assert Bootstrap(evaluation, "medium").ap(np.ones((1, 1)))[0] == pytest.approx(100)
    assert Bootstrap(evaluation, "all").ap(np.ones((1, 1)))[0] == pytest.approx(50)
