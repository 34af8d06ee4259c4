"""Annotation files as people write them, through detectron2's own loader and evaluator."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from enl_detectron2.training.data import register_coco_format
from enl_detectron2.training.data.check import check_annotations
from enl_detectron2.training.data.coco_file import file_for_detectron2, read_coco
from enl_detectron2.training.data.coco_format import coco_format_of

CONTENT = {
    "images": [
        {"id": 7, "file_name": "ä.png", "width": 40, "height": 30},
        {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, image, category, box in (
            (1, 7, 1, [0, 0, 10, 10]),
            (2, 7, 2, [30, 20, 10, 10]),
            (3, 9, 2, [5, 5, 8, 8]),
        )
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


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


def first(part, **values):
    def change(content):
        every(part, **values)({part: content[part][:1]})

    return change


def lose_keys(content):
    for key in ("iscrowd", "area"):
        for entry in content["annotations"]:
            del entry[key]


SPELLINGS = {
    "as it should be": lambda content: None,
    "image ids as texts in annotations": every("annotations", image_id=str),
    "image ids as texts in images": every("images", id=str),
    "image ids as texts in one of them": first("images", id=str),
    "image ids as texts in both": lambda content: (
        every("images", id=str)(content),
        every("annotations", image_id=str)(content),
    ),
    "image ids as names": lambda content: (
        every("images", id=lambda id_: f"image {id_}")(content),
        every("annotations", image_id=lambda id_: f"image {id_}")(content),
    ),
    "ids with a point": lambda content: (
        every("images", id=float)(content),
        every("annotations", id=float, category_id=float)(content),
    ),
    "category ids as texts": every("annotations", category_id=str),
    "annotation ids as texts": every("annotations", id=str),
    "sizes with a point": every("images", width=float, height=float),
    "sizes as texts": every("images", width=str, height=str),
    "no iscrowd": every("annotations", iscrowd=None),
    "no area": every("annotations", area=None),
    "neither": lose_keys,
    "truths": every("annotations", iscrowd=bool),
}
SEGMENTATIONS = {
    "empty": [[]],
    "two points": [[1, 1, 9, 9]],
    "nested": [[[1, 1], [9, 1], [9, 9]]],
    "text": "1,1,9,1,9,9",
    "flat": [1, 1, 9, 1, 9, 9],
    "far": [[0, 0, 1e30, 0, 1e30, 1e30]],
    "run lengths of another size": {"size": [3, 4], "counts": [12]},
}


@pytest.fixture
def folder(tmp_path):
    """images/; what is registered is forgotten afterwards."""
    before = set(DatasetCatalog.list())
    (tmp_path / "images").mkdir()
    for name in ("ä.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def changed(change):
    content = copy.deepcopy(CONTENT)
    change(content)
    return content


def register(folder, data):
    (folder / "set.json").write_bytes(data)
    register_coco_format([["own", str(folder / "set.json"), str(folder / "images")]])
    return DatasetCatalog.get("own")


def evaluate(records):
    """The metrics of detections that are right."""
    evaluator = COCOEvaluator("own", tasks=("bbox",), distributed=False)
    evaluator.reset()
    for record in records:
        found = Instances((30, 40))
        boxes = torch.tensor([entry["bbox"] for entry in record["annotations"]])
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([e["category_id"] for e in record["annotations"]])
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def check(folder):
    coco = read_coco(folder / "set.json")
    return [str(finding) for finding in check_annotations(coco, folder / "images")]


@pytest.mark.parametrize("case", SPELLINGS)
def test_what_has_only_one_meaning_is_trained_and_evaluated_on(folder, case):
    content = changed(SPELLINGS[case])
    records = register(folder, json.dumps(content).encode())
    assert [len(record["annotations"]) for record in records] == [2, 1]
    assert [record["width"] for record in records] == [40, 40]
    assert evaluate(records)["AP"] == pytest.approx(100)
    findings = check(folder)
    assert not any(text.startswith("error") for text in findings)
    # Where detectron2 reads the same, it reads the file itself.
    if case in ("as it should be", "image ids as names", "truths"):
        assert MetadataCatalog.get("own").json_file == str(folder / "set.json")
    assert coco_format_of("own") == (str(folder / "set.json"), str(folder / "images"))
    # And the file is the user's.
    assert json.loads((folder / "set.json").read_text()) == content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_whatever_json_may_be_encoded_in(folder, encoding):
    records = register(folder, json.dumps(CONTENT, ensure_ascii=False).encode(encoding))
    assert Path(records[0]["file_name"]).name == "ä.png"
    assert evaluate(records)["AP"] == pytest.approx(100)
    assert check(folder) == []


def test_a_terminal_of_another_encoding_changes_nothing(folder):
    (folder / "set.json").write_text(json.dumps(CONTENT, ensure_ascii=False), encoding="utf-8")
    program = (
        "import locale; locale.getpreferredencoding = lambda *_: 'latin-1';"
        "from enl_detectron2.training.data.coco_file import *;"
        f"coco = read_coco({str(folder / 'set.json')!r});"
        "copy = file_for_detectron2(coco); assert copy != coco.path and copy.read_bytes().isascii()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_no_object_is_lost_for_a_segmentation_that_is_not_used(folder, case):
    content = changed(every("annotations", iscrowd=0))
    for entry in content["annotations"]:
        entry["segmentation"] = SEGMENTATIONS[case]
    records = register(folder, json.dumps(content).encode())
    assert [len(record["annotations"]) for record in records] == [2, 1]
    assert not any(e.get("segmentation") for r in records for e in r["annotations"])
    assert evaluate(records)["AP"] == pytest.approx(100)
    findings = check(folder)
    assert len(findings) == 3
    assert all("warning: " in text and "without masks its box is" in text for text in findings)


def test_broken_polygons_are_left_out_beside_sound_ones(folder):
    content = changed(lambda content: None)
    triangle = [1, 1, 9, 1, 9, 9]
    content["annotations"][0]["segmentation"] = [[1, 1], triangle, [[1, 2]] * 6]
    content["annotations"][1]["segmentation"] = [triangle]
    records = register(folder, json.dumps(content).encode())
    assert [entry.get("segmentation") for entry in records[0]["annotations"]] == [[triangle]] * 2
    finding = check(folder)[0]
    assert "annotation 1 has a polygon that can't be used, and is left out" in finding


def test_a_run_keeps_its_copy_and_writes_it_anew(folder):
    (folder / "set.json").write_text(json.dumps(changed(lose_keys)))
    entry = ["own", str(folder / "set.json"), str(folder / "images")]
    copy = folder / "run/annotations/own.json"
    copy.parent.mkdir(parents=True)
    copy.write_text("an older one")
    register_coco_format([entry], output_dir=str(folder / "run"))
    assert MetadataCatalog.get("own").json_file == str(copy)
    written = json.loads(copy.read_text())["annotations"]
    assert [entry["iscrowd"] for entry in written] == [0] * 3
    assert list(copy.parent.iterdir()) == [copy]


def test_copies_are_removed_in_the_end(folder):
    (folder / "set.json").write_text(json.dumps(changed(lose_keys)))
    program = (
        "from enl_detectron2.training.data.coco_file import *;"
        f"print(file_for_detectron2(read_coco({str(folder / 'set.json')!r})))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    copy = Path(done.stdout.strip().splitlines()[-1])
    assert copy.name == "set.json" and copy.parent != folder and not copy.exists()


def test_a_set_that_can_not_be_read_does_not_disturb_the_others(folder):
    (folder / "broken.json").write_text("{")
    register_coco_format([["broken", str(folder / "broken.json"), str(folder / "images")]])
    assert len(register(folder, json.dumps(CONTENT).encode())) == 2
    assert coco_format_of("broken") and coco_format_of("nobody's") is None


@pytest.mark.parametrize(
    "data, said",
    [
        (b"[" * 100_000, "nested too deeply|no whole JSON"),
        (b'{"images": [], "categories": [' + b"9" * 5000 + b"]}", "no whole JSON|list of objects"),
        (b"\xff\xfe\xff", "no whole JSON"),
        (b"", "no whole JSON"),
    ],
)
def test_hostile_json_ends_in_a_sentence(folder, data, said):
    (folder / "set.json").write_bytes(data)
    with pytest.raises(ValueError, match=f"set.json is .*({said})") as error:
        read_coco(folder / "set.json")
    assert "\n" not in str(error.value)


def test_what_is_in_no_list_is_copied_too(folder):
    content = changed(lose_keys) | {"info": {"year": 2026}, "licenses": [{"id": 1}]}
    (folder / "set.json").write_text(json.dumps(content))
    copied = json.loads(file_for_detectron2(read_coco(folder / "set.json")).read_text())
    assert copied["info"] == content["info"] and copied["licenses"] == content["licenses"]
    del content["annotations"]
    (folder / "set.json").write_text(
        json.dumps(content | {"images": changed(every("images", width=float))["images"]})
    )
    copied = json.loads(file_for_detectron2(read_coco(folder / "set.json")).read_text())
    assert "annotations" not in copied  # so that detectron2 doesn't evaluate
