from pathlib import Path

import cv2
import pytest

TOOL = Path(__file__).parents[2] / "tools/show_attention.py"


def test_draws_a_row_of_panels_for_each_block(run_tool, slim_detector, image_files, tmp_path):
    image = ["image", "--config-file", slim_detector, "--input", image_files[0], "--at", 100, 20]
    run_tool(TOOL, *image, "--output", tmp_path / "new/all.png")
    run_tool(TOOL, *image, "--block", "backbone.relations.p3", "--output", tmp_path / "one.png")
    all_height, one_height = (
        cv2.imread(str(tmp_path / name)).shape[0] for name in ("new/all.png", "one.png")
    )
    assert all_height == pytest.approx(3 * one_height, abs=3)


def test_draws_filters(run_tool, tmp_path):
    words = ["filters", "--size", 5, 8, "--at", 0.2, 0.9, "--output", tmp_path / "filters.png"]
    run_tool(TOOL, *words)
    assert cv2.imread(str(tmp_path / "filters.png")) is not None
    assert "already exists" in run_tool(TOOL, *words)[2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--at", 500, 20], "the point lies outside the image"),
        (["--block", "res9"], "--block res9: the model's blocks are backbone.relations.p5, "),
        (["--opts", "MODEL.ENL_FPN.BLOCK", ""], "no attention to show"),
        (["--input", __file__], "can't be read"),
    ],
)
def test_says_in_one_sentence_what_is_wrong(
    run_tool, slim_detector, image_files, tmp_path, arguments, sentence
):
    image = ["image", "--config-file", slim_detector, "--input", image_files[0]]
    status, _, said = run_tool(TOOL, *image, "--output", tmp_path / "not.png", *arguments)
    last = said.rstrip().splitlines()[-1]
    assert status == 2 and last.startswith("show_attention.py: error: ") and sentence in last
    assert not (tmp_path / "not.png").exists()
