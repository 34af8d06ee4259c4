import re
import shutil
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/attention_explorer.py"


@pytest.fixture
def run(run_tool, slim_detector, tmp_path):
    """Runs the tool on images; the pages go to ``tmp_path/pages``. Its status and complaints."""

    def run(*images, options=()):
        model = ["--config-file", slim_detector]
        output = ["--output", tmp_path / "pages", *options]
        status, _, said = run_tool(TOOL, *model, "--input", *images, *output)
        return status, said

    return run


def test_one_image_is_one_page(run, image_files, tmp_path):
    run(image_files[0], options=["--confidence-threshold", "0"])
    (page,) = (tmp_path / "pages").iterdir()
    assert page.name == "image 0.html"
    text = page.read_text(encoding="utf-8")
    assert '"title":"image 0.png"' in text
    assert len(re.findall('"stride":', text)) == 3
    assert '"label":"class ' in text  # what it found, of a set whose names aren't there


def test_each_image_has_a_page_and_a_broken_one_is_left_out(run, image_files, tmp_path):
    (tmp_path / "more").mkdir()
    same_name = shutil.copy(image_files[1], str(tmp_path / "more/image 0.png"))
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    status, said = run(*image_files, broken, same_name)
    assert status == 1 and f"left out: {broken}" in said
    names = {page.name for page in (tmp_path / "pages").iterdir()}
    assert names == {"image 0.html", "image 1.html", "image 0-2.html"}


def test_keeps_what_is_there(run, image_files, tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/mine.txt").write_text("mine")
    status, said = run(image_files[0])
    assert status == 2 and "already exists" in said
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["mine.txt"]
