import json
import os
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from enl_detectron2.analysis.detections.comparison import compare_detections

TOOL = Path(__file__).parents[3] / "tools/compare_detections.py"
FIRST, SECOND, LARGE = [5, 5, 12, 12], [30, 5, 12, 12], [40, 30, 40, 40]
NOWHERE = [5, 60, 12, 12]


@pytest.fixture
def scenes(write_truth, write_results):
    """Three images: both models alike, one object and one false more, one object more."""
    objects = [(1, 1, FIRST), (2, 1, FIRST), (2, 1, SECOND), (2, 2, LARGE), (3, 1, FIRST)]
    good = [(1, 1, FIRST, 0.9), (2, 1, FIRST, 0.9), (2, 1, SECOND, 0.9), (3, 1, FIRST, 0.9)]
    bad = [(1, 1, FIRST, 0.9), (2, 1, FIRST, 0.8), (2, 1, NOWHERE, 0.9), (2, 2, LARGE, 0.9)]
    bad += [
        (2, 1, SECOND, 0.3),  # below the threshold
        (3, 2, FIRST, 0.9),  # of another class
        (3, 2, LARGE, 0.7),  # false, but not small
    ]
    results = {"good": write_results("good", good), "bad": write_results("bad", bad)}
    return write_truth(objects), results


def test_found_missed_and_false_small_objects_in_the_order_of_difference(scenes):
    truth, results = scenes
    comparisons = compare_detections(truth, results, score_threshold=0.5, small_side=32)
    assert [(c.file_name, c.difference) for c in comparisons] == [
        ("2.png", 2),
        ("3.png", 2),
        ("1.png", 0),
    ]
    second, third = comparisons[0], comparisons[1].findings["bad"]
    assert list(second.small.values()) == [FIRST, SECOND] and second.large == [LARGE]
    good, bad = second.findings["good"], second.findings["bad"]
    assert good.found == set(second.small) and good.false == []
    assert [second.small[number] for number in bad.found] == [FIRST]
    assert bad.hits == [(FIRST, "class 1")]
    assert bad.false == [(NOWHERE, "class 1")] and bad.others == [LARGE]
    assert third.found == set()
    assert third.false == [(FIRST, "class 2")] and third.others == [LARGE]
    comparisons = compare_detections(truth, results, score_threshold=0.2, small_side=50)
    findings = {c.file_name: c.findings["bad"] for c in comparisons}
    assert len(findings["2.png"].found) == 3
    assert [box for box, _ in findings["3.png"].false] == [FIRST, LARGE]


def near(picture, hex_colour):
    rgb = np.array([int(hex_colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(picture[:, :, ::-1].astype(int) - rgb).max(axis=2) < 20).sum(axis=0)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.cells, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "span"):
            self.cells.append(data.strip())


def test_the_tool_draws_and_links_the_images(scenes, run_tool, tmp_path):
    truth, results = scenes
    arguments = ["--annotations", truth, "--images", tmp_path, "--output", tmp_path / "out"]
    arguments += ["--results", *(f"{name}={file}" for name, file in results.items())]
    assert run_tool(TOOL, *arguments, "--num-images", 2)[0] == 0
    folder = tmp_path / "out"
    assert sorted(os.listdir(folder)) == ["001_2.png", "002_3.png", "index.html"]

    picture = cv2.imread(str(folder / "001_2.png"))
    third = picture.shape[1] // 3
    blue, orange, green = (near(picture, c) for c in ("#56B4E9", "#E69F00", "#009E73"))
    assert blue[:third].sum() > 100
    assert orange[:third].sum() == green[:third].sum() == 0
    assert orange[third : 2 * third].sum() > 100 and green[third : 2 * third].sum() == 0
    assert green[2 * third :].sum() > 100 and orange[2 * third :].sum() == 0
    assert blue[third : 2 * third].sum() == 0  # nothing missed
    assert 0 < blue[2 * third :].sum() < blue[:third].sum()  # one missed, dashed

    page = Page((folder / "index.html").read_text())
    assert page.sources == ["001_2.png", "001_2.png", "002_3.png", "002_3.png"]
    rows = [c for c in page.cells if c]
    assert rows == ["ground truth", "4", "good", "4", "0", "0", "bad", "2", "2", "2"]

    status, _, said = run_tool(TOOL, *arguments)
    assert status == 2 and "out already exists" in said


NAMES = ["a#b.png", "c?d.png", "100%25.png", "sub/e f.png", '"<&>.png', "x" * 240 + ".png"]


def test_the_page_finds_drawings_of_any_name(run_tool, write_truth, write_results, tmp_path):
    content = json.loads(write_truth([(i, 1, FIRST) for i in range(1, 7)]).read_text())
    (tmp_path / "sub").mkdir()
    for image, name in zip(content["images"], NAMES):
        os.rename(tmp_path / image["file_name"], tmp_path / name)
        image["file_name"] = name
    content["images"].append(content["images"][0] | {"id": 7, "file_name": "é" * 5000})
    content["categories"] = [{"id": 1, "name": r"$\nope{$"}, {"id": 2, "name": "y" * 5000}]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    found = [(i, 1, FIRST, 0.9) for i in range(1, 7)] + [(2, 2, FIRST, 0.9)]
    results = write_results("found", found)
    arguments = ["--annotations", tmp_path / "truth.json", "--images", tmp_path]
    arguments += ["--results", rf"$\frac{{$={results}", "--output", tmp_path / "out"]
    status, _, said = run_tool(TOOL, *arguments)
    assert status == 1 and "1 image(s) left out:" in said and "can't be read" in said
    page = Page((tmp_path / "out/index.html").read_text())
    linked = {urllib.parse.unquote(source) for source in page.sources}
    assert len(linked) == 6 and linked | {"index.html"} == set(os.listdir(tmp_path / "out"))
    assert not any(set("#?") & set(source) for source in page.sources)


def test_an_image_of_another_size_is_not_drawn(scenes, run_tool, tmp_path):
    truth, results = scenes
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((160, 200, 3), dtype=np.uint8))
    arguments = ["--annotations", truth, "--images", tmp_path, "--output", tmp_path / "out"]
    status, _, said = run_tool(TOOL, *arguments, "--results", f"bad={results['bad']}")
    assert status == 1
    assert "2.png has 200×160 pixels, but the ground truth is of 100×80" in said
    assert len(os.listdir(tmp_path / "out")) == 2 + 1


def test_the_tool_says_what_is_wrong(scenes, run_tool, tmp_path):
    truth, results = scenes
    one = f"a={results['bad']}"
    arguments = ["--annotations", truth, "--images", tmp_path, "--output", tmp_path / "out"]
    for words, message in (
        (["--results", one, one], "the name 'a' is given twice"),
        (["--results", *(f"{n}={results['bad']}" for n in "abcd")], "4 models are given, it must"),
        (["--results", "a=none.json"], "'a': there is no none.json"),
        (["--results", "none.json"], "'none.json' must be NAME=PATH"),
        (["--results", f"a={truth}"], "truth.json isn't a list of detected boxes"),
        (["--results", one, "--score-threshold", "nan"], "argument --score-threshold: "),
        (["--results", one, "--small-side", "0"], "argument --small-side: "),
        (["--results", one, "--num-images", "2.5"], "argument --num-images: "),
        (["--results", one, "--images", "nowhere"], "argument --images: "),
    ):
        status, _, said = run_tool(TOOL, *arguments, *words)
        assert status == 2 and message in said
    assert not (tmp_path / "out").exists()
