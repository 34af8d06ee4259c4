import csv
from pathlib import Path

import pytest
import torch

from enl_detectron2.analysis.cost.random_model import build_random_model
from enl_detectron2.analysis.detections.matching import load_truth
from enl_detectron2.analysis.detections.proposals import LIMITS, evaluate_proposals, make_proposer
from enl_detectron2.analysis.detector import load_detector
from enl_detectron2.training.config import load_config

TOOL = Path(__file__).parents[3] / "tools/show_proposals.py"
TINY, MEDIUM = [10, 10, 10, 10], [20, 30, 40, 40]


def corners(box):
    x, y, width, height = box
    return [float(x), float(y), float(x + width), float(y + height)]


def test_recall_at_each_limit_and_what_is_shown(write_truth):
    truth = load_truth(write_truth([(1, 1, TINY), (1, 1, MEDIUM), (3, 1, TINY)]))
    junk = [[90.0, 70.0, 95.0, 75.0]]
    proposals = {
        # The tiny object comes second, the medium one, half covered, after 200 others.
        "1.png": [*junk, corners(TINY), *junk * 200, [20.0, 30.0, 40.0, 70.0]],
        "2.png": [],
        "3.png": [*junk * 999, corners(TINY)],
    }

    def propose(path, _):
        return torch.tensor(proposals[Path(path).name]).reshape(-1, 4)

    findings, recall = evaluate_proposals(
        truth, "images", propose, shown=100, small_side=32, progress="model"
    )
    assert recall.objects == [0, 2, 0, 0, 0, 1, 0, 0]
    assert recall.recall[1] == {100: 50, 300: 50, 1000: 100}
    assert recall.recall[5] == {100: 0, 300: 100, 1000: 100}
    assert recall.recall[0] == dict.fromkeys(LIMITS)
    assert findings[1].found == {1}
    assert len(findings[1].others) == 100 and findings[1].others[1] == TINY
    assert findings[2].found == findings[3].found == set()
    assert findings[2].others == []

    findings, _ = evaluate_proposals(
        truth, "images", propose, shown=1000, small_side=9, progress="model"
    )
    assert findings[3].found == set()
    assert TINY not in findings[3].others and len(findings[3].others) == 999


def test_proposals_are_the_rpns_own_in_pixels_of_the_file(slim_model, write_truth, tmp_path):
    write_truth([(1, 1, TINY)])  # for its image
    config, weights = (str(path) for path in slim_model)
    small = load_detector(load_config(config, ["MODEL.WEIGHTS", weights]))
    image = str(tmp_path / "1.png")
    # Resized to double the size for the model.
    enlarged = ["MODEL.WEIGHTS", weights, "INPUT.MIN_SIZE_TEST", "160"]
    boxes = make_proposer(load_detector(load_config(config, enlarged)), "model")(image, {})
    assert 300 < len(boxes) <= max(LIMITS)
    assert boxes.min() >= 0
    assert 80 < boxes[:, 2].max() <= 100 and 60 < boxes[:, 3].max() <= 80

    propose = make_proposer(small, "model")
    boxes = propose(image, {"width": 100, "height": 80})
    with pytest.raises(ValueError, match="1.png has 100×80 pixels, but the ground truth is of 80×"):
        propose(image, {"width": 80, "height": 100})
    record = small.read(image)
    with torch.no_grad():
        images = small.model.preprocess_image([record])
        features = small.model.backbone(images.tensor)
        (own,), _ = small.model.proposal_generator(images, features)
    assert torch.equal(boxes, own.proposal_boxes.tensor[: len(boxes)])
    del small.model.proposal_generator
    with pytest.raises(ValueError, match="'retina' has no region proposal network"):
        make_proposer(small, "retina")


def test_a_model_that_only_proposes_is_asked_itself(slim_cfg, write_truth, tmp_path):
    slim_cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    slim_cfg.MODEL.WEIGHTS = str(tmp_path / "rpn.pth")
    torch.save({"model": build_random_model(slim_cfg, "cpu").state_dict()}, slim_cfg.MODEL.WEIGHTS)
    write_truth([(1, 1, TINY)])
    detector = load_detector(slim_cfg)
    boxes = make_proposer(detector, "rpn")(str(tmp_path / "1.png"), {})
    with torch.no_grad():
        [output] = detector.model([detector.read(str(tmp_path / "1.png"))])
    assert len(boxes) > 10
    assert torch.equal(boxes, output["proposals"].proposal_boxes.tensor)


def test_the_tool_draws_and_counts(slim_model, write_truth, tmp_path, run_tool):
    truth = write_truth([(1, 1, TINY), (2, 1, MEDIUM)])
    arguments = ["--annotations", truth, "--images", tmp_path, "--output", tmp_path / "out"]
    arguments += ["--model", "a", *slim_model, "--model", "b", *slim_model]
    status, printed, _ = run_tool(TOOL, *arguments, "--top", 20, "--num-images", 1)
    assert status == 0 and "Open " in printed
    assert (tmp_path / "out/001_1.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("002*"))
    with open(tmp_path / "out/recall.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["objects"] for row in rows] == ["0", "1", "0", "0", "0", "1", "0", "0"]
    of_a, of_b = ([rows[5][f"{name}, {n} proposals"] for n in LIMITS] for name in "ab")
    assert of_a == of_b == sorted(of_a, key=float)  # the same model twice
    page = (tmp_path / "out/index.html").read_text()
    assert "Proposals of small objects: a, b" in page and "<pre>box side, px" in page
