"""What a grid's file says, and what hashes tell apart."""

import dataclasses

import pytest
import yaml
from tiny_grid import read_lines

from enl_detectron2.utils.errors import UserError


def load(file):
    from runner.grid import load_grid

    return load_grid(file)


def test_a_grid_is_the_product_of_its_axes_or_of_its_blocks(write_grid):
    axes = {"data": ["a", "b"], "variants": {"1x": None, "2x": {"SOLVER.MAX_ITER": 40}}}
    grid = load(write_grid(seeds=[1, 2], **axes))
    assert len(grid.runs()) == len(set(grid.runs())) == 2 * 2 * 2 * 2
    blocks = [{"data": "a", "variants": "1x"}, {"systems": "wide", "seeds": [2, 7]}]
    grid = load(write_grid(seeds=[1, 2], runs=blocks, **axes))
    runs = grid.runs()
    assert len(runs) == len(set(runs)) == 4 + 2 * 2 * 2 - 1
    assert runs[0].system == "plain" and runs[-1].seed == 7
    assert len({grid.folder(run) for run in runs}) == len(runs)


def test_the_grids_options_have_the_last_word(write_grid):
    options = {"SOLVER.MAX_ITER": 7}
    file = write_grid(variants={"2x": {"SOLVER.MAX_ITER": 40, "SOLVER.STEPS": [3]}})
    grid = load(file)
    [plain, _] = grid.runs()
    cfg = grid.configuration(plain)
    assert cfg.SOLVER.STEPS == (3,) and cfg.SEED == 1 and str(grid.folder(plain)) == cfg.OUTPUT_DIR
    small = file.with_name("small.yaml")
    small.write_text(yaml.safe_dump({"_BASE_": file.name, "options": options}))
    small_grid = load(small)
    assert small_grid.configuration(small_grid.runs()[0]).SOLVER.MAX_ITER == 7
    assert small_grid.results.name == "small.jsonl" and small_grid.output != grid.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sytems": {}}, "sytems is no key of a grid"),
        ({"systems": {"plain": 3}}, "systems: each name must have a mapping"),
        ({"baseline": "none"}, "baseline 'none' is no system"),
        ({"config": "missing.yaml"}, "there is no configuration .*missing.yaml"),
        ({"runs": [{"systems": "wid"}]}, "'wid' is none of its systems: plain, wide"),
        ({"options": {"SOLVER.MAXITER": 3}}, "plain.*: SOLVER.MAXITER is not a key"),
    ],
)
def test_what_is_wrong_with_a_grid_is_named(write_grid, content, message):
    with pytest.raises(UserError, match=f"grid.yaml.*{message}"):
        grid = load(write_grid(**content))
        grid.configuration(grid.runs()[0])


def test_a_missing_grid_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no grid .*none.yaml"):
        load(tmp_path / "none.yaml")


def test_hashes_tell_what_matters_from_what_does_not(write_grid):
    from runner.results import origin

    grid = load(write_grid())
    [plain, _] = grid.runs()
    first = origin(grid, plain)

    def other(**content):
        return origin(load(write_grid(**content)), plain)

    moved = dataclasses.replace(grid, output=grid.output / "elsewhere")
    assert origin(moved, plain) == first
    assert other(options={"DATALOADER.NUM_WORKERS": 3}) == first
    changed = other(options={"MODEL.FPN.OUT_CHANNELS": 32})
    assert changed.configuration != first.configuration
    assert changed.differences(dataclasses.asdict(first)) == ["configuration"]
    assert first.differences({}) == []  # recorded without hashes
    assert first.differences({"code": "other"}) == ["code other"]
    assert first.differences({"code": "other"}, also=("other",)) == []
    name = next(iter(first.data))
    assert first.differences({"data": {name: "other"}}) == [f"data {name}"]


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
    from runner.results import append_line
    from runner.results import read_lines as read

    file = tmp_path / "results" / "lines.jsonl"
    assert read(file) == []
    append_line(file, {"a": 1})
    with open(file, "a") as stream:
        stream.write('{"a": ')
    assert read(file) == [{"a": 1}]
    append_line(file, {"a": 2})
    assert read_lines(file) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "rows"), [("coco_faster", 9), ("coco_mask", 6), ("coco_600px", 15)]
)
def test_the_papers_tables_are_grids_beside_their_numbers(name, rows):
    from runner.grid import ROOT
    from runner.report import papers_results

    grid = load(ROOT / "experiments" / f"{name}.yaml")
    assert len(grid.runs()) == rows
    papers = papers_results(grid)
    assert all(papers[system]["from"] for system in grid.systems)
    for run in grid.runs():
        cfg = grid.configuration(run)
        assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH == 1_440_000


def test_every_row_of_the_systems_table_is_in_a_grid():
    from runner.grid import ROOT
    from runner.report import config_name

    rows = set(yaml.safe_load((ROOT / "docs" / "papers_results.yaml").read_text()))
    for name in ("coco_faster", "coco_mask", "coco_600px", "coco_others"):
        grid = load(ROOT / "experiments" / f"{name}.yaml")
        rows -= {config_name(grid, system) for system in grid.systems}
    assert not rows


def test_the_miniature_differs_by_size_alone():
    from runner.grid import ROOT

    full = load(ROOT / "experiments" / "coco_faster.yaml")
    small = load(ROOT / "experiments" / "coco_miniature.yaml")
    assert full.runs() == small.runs()
    assert "results" not in small.results.relative_to(ROOT).parts  # but in output/
    for run in full.runs():
        backbones = [grid.configuration(run).MODEL.ENL_FPN for grid in (full, small)]
        assert backbones[0] == backbones[1]
