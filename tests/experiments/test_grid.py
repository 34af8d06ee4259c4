"""What a grid's file says, what is refused, and what hashes tell apart."""

import dataclasses

import pytest
import yaml

from enl_detectron2.utils.errors import UserError


def load(file):
    from runner.grid import load_grid

    return load_grid(file)


def test_a_grid_is_the_product_of_its_axes_or_of_its_blocks(write_grid):
    axes = {"data": ["a", "b"], "variants": {"1x": None, "2x": {"SOLVER.MAX_ITER": 40}}}
    runs = load(write_grid(seeds=[1, 2], **axes)).runs()
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 * 2
    blocks = [{"data": "a", "variants": "1x"}, {"systems": "other", "seeds": [2, 7]}]
    runs = load(write_grid(seeds=[1, 2], runs=blocks, **axes)).runs()
    assert len(runs) == len(set(runs)) == 4 + 2 * 2 * 2 - 1
    assert runs[0].system == "plain" and runs[-1].seed == 7


def test_of_several_values_the_most_specific_counts(write_grid):
    """The grid's, a system's, the data's, a variant's: each overrides those before it."""
    keys = ["SOLVER.BASE_LR", "SOLVER.GAMMA", "SOLVER.MOMENTUM", "SOLVER.WARMUP_FACTOR"]
    values = [dict.fromkeys(keys[i:], 0.1 + 0.1 * i) for i in range(4)]
    systems = {"plain": {"options": values[1]}, "other": None}
    axes = {"data": {"d": values[2]}, "variants": {"v": values[3]}}
    grid = load(write_grid(options=values[0], systems=systems, **axes))
    solver = grid.configuration(grid.runs()[0]).SOLVER
    found = [solver[key.split(".")[1]] for key in keys]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert str(grid.folder(grid.runs()[0])) == grid.configuration(grid.runs()[0]).OUTPUT_DIR


def test_a_base_is_overridden_key_by_key(write_grid):
    file = write_grid()
    small = file.with_name("small.yaml")
    small.write_text(yaml.safe_dump({"_BASE_": file.name, "options": {"SOLVER.MAX_ITER": 7}}))
    grid = load(small)
    assert grid.configuration(grid.runs()[0]).SOLVER.MAX_ITER == 7
    assert grid.results.name == "small.jsonl" and len(grid.systems) == 2


DIFFERENT = {"options": {"SOLVER.GAMMA": 0.5}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sytems": {}}, "sytems is no key of a grid"),
        ({"baseline": "none"}, "baseline 'none' is no system"),
        ({"runs": [{"systems": "wid"}]}, "'wid' is none of its systems: plain, other"),
        ({"systems": {"plain": {"option": {}}}}, "plain: 'option' must be one of config, options"),
        ({"runs": [{"system": "plain"}]}, "runs: 'system' must be one of systems, data"),
        ({"options": {"SOLVER.MAXITER": 3}}, "plain.*: Non-existent key: SOLVER.MAXITER"),
        ({"systems": {"plain": None, "same": None}}, "'plain' and 'same' have the same config"),
        # One folder for two runs.
        ({"systems": {"plain": None, "a b": DIFFERENT, "a-b": None}}, "be the run a-b___1; rename"),
    ],
)
def test_what_is_wrong_with_a_grid_is_named(write_grid, content, message):
    with pytest.raises(UserError, match=f"grid.yaml.*{message}"):
        load(write_grid(**content))


def test_a_system_that_is_there_twice_is_named(write_grid):
    file = write_grid()
    file.write_text(file.read_text() + "systems: {}\n")
    with pytest.raises(UserError, match="grid.yaml: systems is there more than once"):
        load(file)


def test_hashes_tell_what_matters_from_what_does_not(write_grid):
    from runner.results import origin

    grid = load(write_grid())
    plain = grid.runs()[0]
    first = origin(grid, plain)

    def other(**content):
        return origin(load(write_grid(**content)), plain)

    assert origin(dataclasses.replace(grid, output=grid.output / "elsewhere"), plain) == first
    assert other(options={"DATALOADER.NUM_WORKERS": 3}) == first
    changed = other(options={"MODEL.FPN.OUT_CHANNELS": 32})
    assert changed.differences(dataclasses.asdict(first)) == ["configuration"]
    assert first.differences({}) == []  # recorded without hashes
    assert first.differences({"code": "other"}) == ["code other"]
    assert first.differences({"code": "other"}, also=("other",)) == []
    [name] = first.data
    assert first.differences({"data": {name: "other"}}) == [f"data {name}"]


def test_the_papers_tables_are_grids_of_all_their_rows():
    from runner.grid import ROOT
    from runner.report import config_name, papers_results

    rows = set(yaml.safe_load((ROOT / "docs" / "papers_results.yaml").read_text()))
    for name in ("coco_faster", "coco_mask", "coco_600px", "coco_others"):
        grid = load(ROOT / "experiments" / f"{name}.yaml")
        rows -= {config_name(grid, system) for system in grid.systems}
        if name != "coco_others":
            assert all(papers["from"] for papers in papers_results(grid).values())
        solver = grid.configuration(grid.runs()[0]).SOLVER
        assert solver.MAX_ITER * solver.IMS_PER_BATCH == 1_440_000
    assert not rows
