"""The report of a grid: intervals, and the papers' numbers beside ours."""

import json

import numpy as np
import pytest
import yaml

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@pytest.fixture
def write_results(tmp_path):
    """Writes a grid of two rows of COCO's table, and lines of results: {(system, seed): AP}."""
    from runner.grid import ROOT, load_grid

    file = tmp_path / "grid.yaml"
    configs = {"plain": "rcnn_R50", "ours": "enl_rcnn_R50", "mine": "enl_retinanet_R50"}
    content = {
        "papers": str(ROOT / "docs" / "papers_results.yaml"),  # which has the first two
        "baseline": "plain",
        "data": "coco_2017",
        "variants": ["1x"],
        "systems": {n: {"config": f"{ROOT}/configs/{c}.yaml"} for n, c in configs.items()},
    }
    one = {"data": "coco_2017", "variant": "1x"}

    def write(values, **more):
        seeds = sorted({seed for _, seed in values})
        file.write_text(yaml.safe_dump(content | {"seeds": seeds}))
        text = ""
        for (system, seed), ap in values.items():
            line = {"run": one | {"system": system, "seed": seed}, "steps": 90_000} | more
            text += json.dumps(line | {"metrics": dict.fromkeys(METRICS, ap)}) + "\n"
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / "grid.jsonl").write_text(text)
        return load_grid(file, tmp_path / "output")

    return write


def row(text, system):
    [line] = [line for line in text.splitlines() if line.startswith(f"| {system} ")]
    header = next(line for line in text.splitlines() if line.startswith("| system"))
    cells = ([cell.strip() for cell in each.strip("|").split("|")] for each in (header, line))
    return dict(zip(*cells))


def test_seeds_are_paired_and_the_papers_stand_beside(write_results):
    from runner import report

    values = {("plain", seed): 30.0 + 3 * seed for seed in (1, 2, 3)}
    values |= {("ours", seed): 30.0 + 4 * seed for seed in (1, 2, 3)} | {("mine", 1): 34.0}
    grid = write_results(values, mask_metrics=dict.fromkeys(METRICS, 20.0))
    text = report.write(grid)
    assert "coco_2017, 1x, mask" in text
    boxes, _ = text.split("1x, mask")
    ours, mine = row(boxes, "ours"), row(boxes, "mine")
    assert ours["AP to baseline"] == "+2.00 ± 2.48"  # 1, 2 and 3
    assert (ours["papers: AP"], ours["papers: AP to baseline"]) == ("37.75", "+1.04")
    assert ours["AP, ours − theirs"] == "+0.96 ± 2.48"
    assert mine["AP to baseline"] == "+1.00" and mine["papers: AP"] == ""
    assert row(boxes, "plain")["AP to baseline"] == ""
    assert (grid.output / "report.md").read_text() in text
    assert (grid.output / "report.png").stat().st_size > 0
    values = {("plain", 1): 30.0, ("plain", 2): 31.0, ("ours", 1): 32.5}
    measured = report.measured_ap(write_results(values))
    assert measured == {"rcnn_R50": "box 30.50 / 30.50", "enl_rcnn_R50": "box 32.50 / 32.50"}


def test_what_comes_from_elsewhere_is_left_out_by_name(write_results):
    from runner import report

    grid = write_results({("plain", 1): 30.0}, code="another")
    text = report.write(grid)
    assert "Left out, plain_coco_2017_1x_1: it comes from other code another." in text
    grid.results.unlink()
    assert "No results yet." in report.write(grid)


def test_one_seed_is_resampled_over_images(write_grid, run, quick, tmp_path):
    """A run's detections are there: its interval is that of its own resamples, paired."""
    from runner import report
    from runner.grid import load_grid

    file = write_grid()
    assert run(file)[1] == 0
    grid = load_grid(file, tmp_path / "output")
    results = report.Results(grid)
    # The one detection is right, of an object in one of the six images.
    samples = results.resampled(grid.runs()[0], "box")
    assert len(samples["AP"]) >= 1000 and samples["AP"].min() == 0 < samples["AP"].max()
    estimate = results.estimate(("", ""), "plain", "box", "AP")
    assert not estimate.over_seeds and estimate.low == 0 < estimate.high
    difference = results.estimate(("", ""), "other", "box", "AP", minus="plain")
    assert (difference.low, difference.high) == (0, 0)  # the same on every resample
    # Kept beside the detections, and made anew when these are.
    [kept] = (grid.folder(grid.runs()[1]) / "inference").glob("*.npz")
    (kept.parent / "coco_instances_results.json").write_text("[]")
    assert not np.any(report.Results(grid).resampled(grid.runs()[1], "box")["AP"])
    assert "[0.00, " in report.write(grid)
