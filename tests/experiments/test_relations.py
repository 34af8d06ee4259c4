"""experiments/relations: the grids of digits and nuclei, and what looks at them."""

import dataclasses

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from tiny_grid import read_lines


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """The digits' grid, of very few scenes, its runs and results in tmp_path."""
    from relations import retests
    from runner.grid import load_grid, load_module

    grid = load_grid(retests.FOLDER / "digits.yaml")
    counts = {"num_train": 4, "num_test": 2}
    monkeypatch.setattr(load_module(grid.scenes), "COUNTS", counts)
    grid.register()
    results = tmp_path / "results" / "digits.jsonl"
    return dataclasses.replace(grid, output=tmp_path / "output", results=results)


def run_of(system="baseline", data="faint", variant="both", seed=1):
    from runner.grid import Run

    return Run(system, data, variant, seed)


def write_untrained(digits, run):
    """A run that ended with random weights; gives them."""
    digits.prepare(run)
    weights = build_model(digits.configuration(run)).state_dict()
    digits.folder(run).mkdir(parents=True)
    torch.save({"model": weights}, digits.weights(run))
    return weights


def test_every_system_is_compared_on_the_main_setting(digits):
    for system in digits.systems:
        seeds = {r.seed for r in digits.runs() if r == run_of(system, seed=r.seed)}
        assert len(seeds) == (3 if system in ("wider baseline", "+3ENL TD, σ 0.01") else 5)


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


def test_crops_hold_the_digits(monkeypatch):
    from relations import headroom, scenes

    monkeypatch.setitem(scenes.LEVELS, "plain", scenes.SceneConfig(contrast=0.5, noise=0))
    crops, labels, scene = headroom.tiny_digits("plain", "test", 3)
    assert len(crops) == len(labels) == len(scene) and scene.max() == 2
    assert all(len(labels[scene == number].unique()) == 1 for number in range(3))
    # Ink in the middle, background at the corners.
    squares = crops.view(-1, headroom.CROP, headroom.CROP)
    spread = squares[:, 6:14, 6:14].flatten(1).std(dim=1)
    assert (spread > 2 * squares[:, :3, :3].flatten(1).std(dim=1)).float().mean() > 0.9


def test_a_linear_classifier_tells_what_there_is_to_tell():
    from relations.scene_class import linear_accuracy

    rng = np.random.default_rng(0)

    def draw(count, known):
        classes = rng.integers(10, size=count)
        features = rng.standard_normal((count, 12))
        features[np.arange(count), classes] += 30.0 if known else 0.0
        return features, classes

    assert linear_accuracy(draw(500, True), draw(500, True)) > 0.99
    assert linear_accuracy(draw(500, False), draw(500, False)) < 0.2


def test_cells_are_at_digits_or_away_from_all_and_come_with_their_scenes_class(digits):
    from cells import background
    from relations import scene_class

    boxes = np.array([[10.0, 50.0, 12.0, 20.0], [100.0, 20.0, 40.0, 50.0]])
    rows, columns = background(boxes, (40, 56), 4, margin=8, number=9999, seed=1, norm=np.maximum)
    assert len(rows) > 0.8 * 40 * 56
    for left, top, width, height in boxes:
        x, y = 4 * columns + 2, 4 * rows + 2
        inside = (
            (left - 8 <= x) & (x <= left + width + 8) & (top - 8 <= y) & (y <= top + height + 8)
        )
        assert not inside.any()
    # Of the two digits one is tiny; its centre (16, 60) is in row 15, column 4.
    assert scene_class.tiny_digits(boxes).tolist() == [[15], [4]]

    run = run_of(variant="large")
    write_untrained(digits, run)
    cells = scene_class.cells(digits, run, "test", 2)
    scenes = DatasetCatalog.get("faint_large_test")
    classes = [scene["annotations"][0]["category_id"] for scene in scenes]
    for place, count in (("tiny digit", 1), ("background", scene_class.BACKGROUND_CELLS)):
        features, of = cells[place]
        assert features.shape == (2 * count, 32)
        assert of.tolist() == [each for each in classes for _ in range(count)]


def test_detectors_are_retested_as_they_are(digits, monkeypatch):
    """On other scenes with the same weights; with other statistics of batch norm and else none."""
    from relations import retests

    tested = []

    def test(cfg, model):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        tested.append((*cfg.DATASETS.TEST, state))
        assert not model.training
        return {"bbox": {"APs": float(len(tested))}}

    monkeypatch.setattr(retests.Trainer, "test", test)
    monkeypatch.setattr(retests, "BATCHES", 2)
    run = run_of()
    weights = write_untrained(digits, run)
    assert retests.aps_on(digits, run, "large") == 1
    name, state = tested[-1]
    assert name == "faint_large_test" and all(torch.equal(state[n], weights[n]) for n in weights)

    start = digits.start_of(run)  # whose batch norm isn't frozen
    write_untrained(digits, start)
    assert retests.aps_by_statistics(digits, start) == {"as trained": 2, "measured anew": 3}
    before, after = tested[-2][-1], tested[-1][-1]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("running_" in name or "num_batches" in name for name in changed)


@pytest.mark.parametrize("block", ["", "ENL", "NL", "conv5"])
def test_the_probe_trains_what_its_recipe_says(block, monkeypatch):
    from relations import probe

    monkeypatch.setattr(probe, "SCENES", {"train": 6, "test": 2})
    monkeypatch.setattr(probe, "BATCH", 2)
    result = probe.train(probe.Recipe(block=block, steps=100))
    assert 0 <= result["accuracy"] <= 1 and len(result["ratios"]) == 1
    assert (result["ratios"][0] > 0) == bool(block)
    assert probe.left() == []  # all of them are published
