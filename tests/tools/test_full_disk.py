"""What a full disk makes of each tool: a line that names the file, and nothing half-written."""

import json
from pathlib import Path

import pytest
from nightly import a_few

ROOT = Path(__file__).parents[2]


@pytest.fixture
def truth(tmp_path, image_files):
    """Ground truth of both images, and results that are right."""
    box = {"image_id": 1, "category_id": 1, "bbox": [8, 8, 16, 16]}
    sizes = [{"height": 96, "width": 128}, {"height": 64, "width": 64}]
    images = [{"id": i, "file_name": f"image {i}.png"} | size for i, size in enumerate(sizes)]
    content = {"images": images, "annotations": [box | {"id": 1, "area": 256}]}
    content["categories"] = [{"id": 1, "name": "a"}]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps([box | {"score": 0.9}]))
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "total_loss": 2}\n')
    return ["--annotations", "truth.json", "--results", "a=results.json"]


COMMANDS = {
    "demo": ["demo/demo.py", "--config-file", "slim.yaml", "--input", "image 0.png"],
    "explorer": ["tools/attention_explorer.py", "--config-file", "slim.yaml"]
    + ["--input", "image 0.png"],
    "onnx": ["tools/export_model.py", "slim.yaml", "--format", "onnx"],
    "script": ["tools/export_model.py", "slim.yaml", "--format", "scripting"],
    "curves": ["tools/plot_training.py", "a=metrics.json"],
    "errors": ["tools/analyze_errors.py"],
    "comparison": ["tools/compare_detections.py", "--images", "."],
    "filters": ["tools/show_attention.py", "filters"],
}


@pytest.mark.parametrize("name", a_few(sorted(COMMANDS), 4))
def test_a_full_disk_is_a_line(
    name, run_tool, slim_detector, image_files, truth, tmp_path, monkeypatch
):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    tool, *arguments = COMMANDS[name]
    if name in ("errors", "comparison"):
        arguments += truth
    if name in ("onnx", "script"):
        arguments.insert(1, "out")
    else:
        arguments += ["--output", "out.png" if name in ("curves", "filters") else "out"]
    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        status, _, said = run_tool(ROOT / tool, *arguments)
    last = said.rstrip().splitlines()[-1]
    assert status == 2 and last.startswith(f"{Path(tool).name}: error: out")
    assert last.endswith("can't be written: No space left on device")
    left = [path for path in tmp_path.rglob("*") if "out" in str(path.relative_to(tmp_path))]
    assert [path for path in left if path.is_file()] == []
    # So the same command can be given again.
    assert run_tool(ROOT / tool, *arguments)[0] == 0
