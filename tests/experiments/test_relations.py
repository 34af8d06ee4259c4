"""experiments/relations: the grids of digits and nuclei, and what looks at them."""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model
from tiny_grid import read_lines


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """The digits' grid, of very few scenes, its runs and results in tmp_path."""
    from runner.grid import load_grid, load_module

    grid = load_grid("experiments/digits.yaml")
    counts = {"num_train": 4, "num_test": 2}
    monkeypatch.setattr(load_module(grid.scenes), "COUNTS", counts)
    grid.register()
    results = tmp_path / "results" / "digits.jsonl"
    return dataclasses.replace(grid, output=tmp_path / "output", results=results)


def run_of(system="baseline", data="faint", variant="both", seed=1):
    from runner.grid import Run

    return Run(system, data, variant, seed)


def test_a_long_run_has_six_times_the_scenes_and_steps(digits):
    run, long = run_of(variant="large"), run_of(variant="large ×6")
    assert long in digits.runs() and digits.start_of(long) == digits.start_of(run)
    solver, long_solver = (digits.configuration(each).SOLVER for each in (run, long))
    assert long_solver.MAX_ITER == 6 * solver.MAX_ITER
    assert list(long_solver.STEPS) == [6 * step for step in solver.STEPS]
    for each in (run, long):
        digits.prepare(each)
    for split, times in (("train", 6), ("test", 1)):
        few, many = (
            {f.name: f.read_bytes() for f in (digits.output / "scenes" / name / split).iterdir()}
            for name in ("faint_large", "faint_large-×6")
        )
        assert len(many) == times * len(few) and few.items() <= many.items()


def test_systems_start_from_a_plain_detector(digits):
    for system in digits.systems:
        run = run_of(system)
        start = digits.start_of(run)
        assert digits.is_start(start) and start not in digits.runs()
        cfg = digits.configuration(run)
        assert str(digits.weights(start)) == cfg.MODEL.WEIGHTS
        weights = build_model(digits.configuration(start)).state_dict()
        loaded = build_model(cfg).load_state_dict(weights, strict=False)
        # What a frozen batch norm has no use for.
        assert all(key.endswith("num_batches_tracked") for key in loaded.unexpected_keys)
        assert all("relation" in key or "non_local" in key for key in loaded.missing_keys)


@pytest.mark.slow
def test_a_run_goes_on_from_its_start_and_ends_as_a_line(digits):
    from runner.worker import DONE, run_one

    short = {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2, "SOLVER.STEPS": []}
    digits = dataclasses.replace(digits, options=short)
    run = run_of("+3ENL TD", variant="repeats")
    assert run_one(digits, run, gpus=0) == DONE
    [line] = read_lines(digits.results)
    assert line["run"] == dataclasses.asdict(run) and line["metrics"]["APs"] is not None
    assert len(line["added_by_blocks"]) == 3 and min(line["added_by_blocks"].values()) > 0
    # As the lines recorded before have it.
    assert line["multiply_adds"] == pytest.approx(264_620_136, rel=0.02)
    # Two steps of at most the learning rate, 0.002, from weights of some 0.05.
    weights, at_start = (
        torch.load(digits.weights(each), weights_only=True)["model"]
        for each in (run, digits.start_of(run))
    )
    shared = "backbone.bottom_up.stem.conv1.weight"
    assert torch.allclose(weights[shared], at_start[shared], atol=0.005)


def test_the_baselines_receptive_field_is_part_of_a_scene(digits):
    model = build_model(digits.configuration(run_of()))
    for parameter in model.parameters():
        if parameter.dim() > 1:  # weights that let nothing die out
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    image = torch.randn(1, 3, 256, 256, requires_grad=True)
    model.backbone.eval()(image)["p2"][0, :, 32, 32].abs().sum().backward()
    columns = image.grad[0].abs().sum(dim=(0, 1)).nonzero()
    assert columns.max() - columns.min() + 1 < 0.6 * 224
