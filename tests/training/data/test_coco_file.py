"""Annotation files as people write them: what is trained on, and what the evaluator reads."""

import json
import subprocess
import sys
import unicodedata

import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from enl_detectron2.training.data import register_coco_format

TRIANGLE = [1, 1, 9, 1, 9, 9]


def every(part, **values):
    """Changes every entry of a part; a function is of the value before, None takes it away."""

    def change(content):
        for entry in content[part]:
            for key, value in values.items():
                if value is None:
                    del entry[key]
                else:
                    entry[key] = value(entry[key]) if callable(value) else value

    return change


def both(*changes):
    return lambda content: [change(content) for change in changes]


def evaluate(records):
    """The metrics of detections that are right."""
    evaluator = COCOEvaluator("own", tasks=("bbox",), distributed=False)
    evaluator.reset()
    for record in records:
        objects = [entry for entry in record["annotations"] if not entry["iscrowd"]]
        found = Instances((30, 40))
        boxes = torch.tensor([entry["bbox"] for entry in objects]).reshape(-1, 4)
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([entry["category_id"] for entry in objects])
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


SPELLINGS = {
    "as it should be": lambda content: None,
    "ids of images as texts in annotations": every("annotations", image_id=str),
    "in one of them": lambda content: content["images"][0].update(id="7"),
    "ids of images as names": both(
        every("images", id=lambda id_: f"image {id_}"),
        every("annotations", image_id=lambda id_: f"image {id_}"),
    ),
    "with a point": both(
        every("images", id=float, width=float), every("annotations", id=float, category_id=float)
    ),
    "texts": both(
        every("annotations", id=str, category_id=str, iscrowd=str),
        every("images", width=str, height=str),
    ),
    "neither iscrowd nor area": every("annotations", iscrowd=None, area=None),
    "truths": every("annotations", iscrowd=bool),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_what_has_one_meaning_is_trained_and_evaluated_on(coco_set, case):
    content = coco_set.change(SPELLINGS[case])
    records = coco_set.register()
    assert [len(record["annotations"]) for record in records] == [2, 1]
    assert [record["width"] for record in records] == [40, 40]
    assert evaluate(records)["AP"] == pytest.approx(100)
    assert not any(finding.is_error for finding in coco_set.findings())
    # Where the evaluator reads the same, it reads the file itself; and that is the user's.
    is_own = MetadataCatalog.get("own").json_file == str(coco_set.file)
    assert is_own == (case in ("as it should be", "ids of images as names", "truths"))
    assert json.loads(coco_set.file.read_text()) == content


def test_the_records_are_detectron2s_own(coco_set):
    """Of a file with all that detectron2 reads of one."""

    def fill(content):
        content["categories"][0]["id"] = 17
        one, two, three = content["annotations"]
        one |= {"category_id": 17, "segmentation": [TRIANGLE, TRIANGLE]}
        two |= {"keypoints": [20, 12, 2, 14.5, 20, 1], "num_keypoints": 2}
        three |= {"segmentation": {"size": [30, 40], "counts": [100, 500, 600]}, "iscrowd": 1}
        content["images"].reverse()

    coco_set.change(fill)
    theirs = load_coco_json(str(coco_set.file), str(coco_set.images), "theirs")
    assert coco_set.register() == theirs
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert MetadataCatalog.get("own").get(key) == MetadataCatalog.get("theirs").get(key)


def test_areas_that_are_given_stay_where_a_copy_is_completed(coco_set):
    def change(content):
        content["annotations"][0]["area"] = 5000  # a large object, whatever its box
        del content["annotations"][1]["area"]
        content["annotations"][2]["own"] = "kept"
        content["info"] = {"year": 2026}

    coco_set.change(change)
    run = coco_set.folder / "run"
    copy = run / "annotations/own.json"
    copy.parent.mkdir(parents=True)
    copy.write_text("an older one")
    assert len(coco_set.register(evaluated=(), output_dir=str(run))) == 2
    assert copy.read_text() == "an older one"  # a training needs none
    DatasetCatalog.remove("own"), MetadataCatalog.remove("own")
    coco_set.register(evaluated=["own"], output_dir=str(run))
    assert MetadataCatalog.get("own").json_file == str(copy) and len([*copy.parent.iterdir()]) == 1
    written = json.loads(copy.read_text())
    assert [entry["area"] for entry in written["annotations"]] == [5000, 100, 64]
    assert written["annotations"][2]["own"] == "kept" and written["info"] == {"year": 2026}
    [finding] = [f for f in coco_set.findings() if "no area" in str(f)]
    assert "1 of its entries have no area" in str(finding) and "id 2" in str(finding)


def test_without_a_run_copies_are_removed_in_the_end(coco_set):
    coco_set.change(every("annotations", iscrowd=None))
    program = (
        "from enl_detectron2.training.data import register_coco_format as register;"
        f"register([['own', {str(coco_set.file)!r}, {str(coco_set.images)!r}]]);"
        "from detectron2.data import MetadataCatalog; print(MetadataCatalog.get('own').json_file)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    copy = done.stdout.strip().splitlines()[-1]
    assert copy != str(coco_set.file) and subprocess.call(["test", "-e", copy]) == 1


def test_what_is_to_be_ignored_is_a_crowd(coco_set):
    coco_set.change(lambda content: content["annotations"][1].update(ignore=True))
    records = coco_set.register()
    assert [entry["iscrowd"] for entry in records[0]["annotations"]] == [0, 1]
    # Nothing is missed there, and nothing that is found there is wrong.
    assert evaluate(records)["AP"] == pytest.approx(100)
    records[0]["annotations"][1]["iscrowd"] = 0
    assert evaluate(records)["AP"] == pytest.approx(100)
    assert "1 of its entries are to be" in str(coco_set.findings()[0])


RUN_LENGTHS = pycocotools.mask.frPyObjects([[4, 3, 12, 3, 12, 15, 4, 15]], 30, 40)[0]
RUN_LENGTHS["counts"] = RUN_LENGTHS["counts"].decode()


@pytest.mark.parametrize(
    "mask, box",
    [
        ([TRIANGLE, [2, 2, 20, 2, 20, 8.5]], [1, 1, 19, 8]),
        (TRIANGLE, [1, 1, 8, 8]),  # some tools write the only polygon so
        (RUN_LENGTHS, [4, 3, 8, 12]),
        ({"size": [30, 40], "counts": [32, 5, 1163]}, [1, 2, 1, 5]),
    ],
)
def test_an_object_without_a_box_has_that_of_its_mask(coco_set, mask, box):
    def change(content):
        del content["annotations"][0]["area"], content["annotations"][0]["bbox"]
        content["annotations"][0]["segmentation"] = mask

    coco_set.change(change)
    records = coco_set.register()
    assert records[0]["annotations"][0]["bbox"] == box
    assert evaluate(records)["AP"] == pytest.approx(100)
    assert "have no box" in str(coco_set.findings()[0])


@pytest.mark.parametrize(
    "mask, fault",
    [
        ([[1, 1, 9, 9]], "has a polygon that isn't"),
        ([[[1, 1], [9, 1], [9, 9]]], "has a polygon that isn't"),
        ([[1, float("nan"), 9, 1, 9, 9]], "has a polygon that isn't"),
        ("1,1,9,1,9,9", "is a str, not a list of polygons"),
        ({"size": [40, 30], "counts": [1200]}, "is of an image of 30×40 pixels"),
        ({"size": [30, 40], "counts": [1100]}, "has run lengths of 1100 pixels, not of 1200"),
        ({"counts": [1200]}, "has no size"),
    ],
)
def test_no_object_is_lost_for_a_mask_that_can_not_be_used(coco_set, mask, fault):
    coco_set.change(every("annotations", segmentation=mask))
    records = coco_set.register()
    assert [len(record["annotations"]) for record in records] == [2, 1]
    assert not any("segmentation" in e for r in records for e in r["annotations"])
    assert evaluate(records)["AP"] == pytest.approx(100)
    findings = [str(finding) for finding in coco_set.findings()]
    assert len(findings) == 3
    assert all(f"without masks its box is: its segmentation {fault}" in text for text in findings)
    # Beside a sound polygon, the others are left out.
    coco_set.change(every("annotations", segmentation=[[1, 1], TRIANGLE]))
    DatasetCatalog.remove("own")
    assert coco_set.register()[0]["annotations"][0]["segmentation"] == [TRIANGLE]


def test_a_file_is_found_by_another_spelling_of_its_name(coco_set):
    names = {"ä.png": unicodedata.normalize("NFD", "ä") + ".PNG", "b.png": r"deep\b.png"}
    (coco_set.images / "deep").mkdir()
    (coco_set.images / "b.png").rename(coco_set.images / "deep/b.png")
    content = coco_set.change(every("images", file_name=names.get))
    coco_set.file.write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-8-sig"))
    records = coco_set.register()
    found = [str(coco_set.images / name) for name in ("ä.png", "deep/b.png")]
    assert [record["file_name"] for record in records] == found
    [finding] = coco_set.findings()
    assert "2 of its entries have a file_name that is spelled otherwise" in str(finding)
    # Not if there are two of them, nor one in another folder: that could be another photograph.
    (coco_set.images / "ä.PNg").write_bytes(b"")
    coco_set.change(lambda content: content["images"][0].update(file_name="ä.PNG"))
    one, two = [str(finding) for finding in coco_set.findings()]
    assert f"image 7 has a file that is missing: ä.PNG in {coco_set.images}; the nearest" in one
    assert "image 9 has a file that is missing: b.png" in two and "is deep/b.png" in two


@pytest.mark.parametrize("by_variable", [True, False])
def test_relative_paths(coco_set, monkeypatch, tmp_path_factory, by_variable):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere if by_variable else coco_set.folder)
    # A folder of data sets that lacks this one doesn't hide the working directory.
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco_set.folder if by_variable else elsewhere))
    for _ in range(2):  # the same again is taken
        register_coco_format([["own", "set.json", "images"]])
    assert MetadataCatalog.get("own").json_file == str(coco_set.file)
    (coco_set.folder / "other.json").write_text(coco_set.file.read_text())
    for entry, error, said in (
        (["two", "no.json", "images"], FileNotFoundError, "'two' has no annotation file no.json"),
        (["two", "set.json", "none"], FileNotFoundError, "'two' has no image folder none in .*"),
        (["own", "other.json", "images"], ValueError, "'own' stands for .*set.json already"),
        (["own", "set.json", 3], ValueError, "takes .name, annotation file, image folder."),
    ):
        with pytest.raises(error, match=said):
            register_coco_format([entry])
    assert "two" not in DatasetCatalog.list()


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"images": [', "is not a complete JSON file, perhaps it was cut off"),
        ("[1, 2]", "is not in COCO format: .* not a list"),
        ('{"images": []}', "'categories' must be a list of objects, but it is missing"),
        ('{"images": [3], "categories": []}', "'images' must be a list of objects, but it isn't$"),
    ],
)
def test_another_file_gets_one_sentence(coco_set, text, said):
    coco_set.file.write_text(text)
    with pytest.raises(ValueError, match=f"DATASETS.COCO_FORMAT: 'own': .*{said}") as error:
        coco_set.register()
    assert "\n" not in str(error.value)
