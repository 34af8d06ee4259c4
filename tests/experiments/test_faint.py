"""Photographs made fainter: what a sensor does, and the same whoever asks."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest


def test_noise_follows_from_the_images_id_alone():
    from faint.degrade import LEVELS, degrade

    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for level in LEVELS:
        once = degrade(image, level, 7)
        assert once.shape == image.shape and once.dtype == np.uint8
        assert (once == degrade(image, level, 7)).all()
        noisy = level in ("dim", "dark", "darker")
        assert (once != degrade(image, level, 8)).any() == noisy
    assert (degrade(image, "sharp", 7) == image).all()


@pytest.mark.parametrize(("level", "photons"), [("dim", 64), ("dark", 16)])
def test_light_is_counted_in_photons(level, photons):
    """Mean and variance of the counted light are Poisson's and the read noise's."""
    from faint.degrade import READ_NOISE, degrade, to_linear

    grey = np.full((256, 256, 3), 188, dtype=np.uint8)  # half of white's light
    light = to_linear(grey).mean()
    assert light == pytest.approx(0.5, abs=0.005)
    counted = to_linear(degrade(grey, level, 1)) * photons
    assert counted.mean() == pytest.approx(light * photons, rel=0.01)
    assert counted.var() == pytest.approx(light * photons + READ_NOISE**2, rel=0.05)


def test_half_resolution_keeps_the_size_and_averages():
    from faint.degrade import degrade

    stripes = np.tile(np.array([0, 200], dtype=np.uint8)[None, :, None], (64, 32, 3))
    half = degrade(stripes, "half", 1)
    assert half.shape == stripes.shape and (half == 100).all()


def test_a_written_set_is_the_photographs_of_its_level(tmp_path):
    """Training and test photographs alike; the file says which pixels it is about."""
    from faint.degrade import degrade, write_set

    (tmp_path / "set").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "set" / "a.png"), pixels)
    image = {"id": 5, "file_name": "a.png", "width": 30, "height": 20}
    record = {"images": [image], "annotations": [], "categories": []}
    (tmp_path / "set.json").write_text(json.dumps(record))
    hashes = set()
    for level in ("dark", "darker"):
        write_set(tmp_path, "set", level, tmp_path / level)
        [written] = json.loads((tmp_path / f"{level}.json").read_text())["images"]
        found = cv2.imread(str(tmp_path / level / written["file_name"]))
        assert (found == degrade(pixels, level, 5)).all()
        hashes.add(written["sha256"])
    assert len(hashes) == 2


def test_plain_and_enl_start_from_the_same_weights_and_photographs(tmp_path):
    from faint.prepare import options
    from runner.grid import load_grid

    grid = load_grid("experiments/faint.yaml", tmp_path)
    runs = {run.system: run for run in grid.runs() if (run.data, run.seed) == ("sharp", 2)}
    assert len(runs) == 6
    # A level that all systems may be trained on, whatever its headroom.
    runs = {system: replace(run, data="darker") for system, run in runs.items()}
    for name in ("nuclei", "streets"):
        plain, enl, wider = (
            options(runs[system], tmp_path)
            for system in (name, f"{name} +3ENL TD", f"{name} wider")
        )
        assert plain == enl and plain["MODEL.WEIGHTS"].endswith(f"drawn_{name}_2.pth")
        assert wider["MODEL.WEIGHTS"] != plain["MODEL.WEIGHTS"]
        assert wider["DATASETS.COCO_FORMAT"] == plain["DATASETS.COCO_FORMAT"]
        assert all("darker" in part for part in plain["DATASETS.COCO_FORMAT"][0])
        block = grid.configuration(runs[f"{name} +3ENL TD"]).MODEL.ENL_FPN
        starts_as_identity = block.ZERO_INIT_RESIDUAL and block.BLOCK_OPTIONS.init_std == 0.125
        assert block.BLOCK == "ENLBlock" and starts_as_identity == (name == "streets")


def test_a_row_has_headroom_and_the_gain_paired_by_seed():
    from faint.report import row

    headroom = {("nuclei", "dark"): {"chance": 0.5, "single": [0.8, 0.9], "oracle": [0.9, 0.9]}}
    values = {
        (system, "dark"): {seed: {"AP50": times * seed, "APs": 1.0} for seed in (1, 2, 3)}
        for system, times in (("nuclei", 10.0), ("nuclei +3ENL TD", 11.0))
    }
    of_all = {"seeds": [1, 2, 3], "AP50": (-1.0, 4.0), "APs": (0.0, 0.0)}
    moved = {"nuclei +3ENL TD, dark": of_all}
    found = row("nuclei", "dark", headroom, values, moved)
    assert found["corrected for chance"] == "0.70" and found["headroom, points"] == "+5.0 ± 63.5"
    assert found["+3ENL TD: AP50"] == "+2.0 ± 2.5"  # 1, 2, 3
    assert found["AP50, photographs"] == "-1.0 to +4.0" and found["wider: AP50"] == ""
    values["nuclei wider", "dark"] = {1: {"AP50": 12.0, "APs": 1.0}}
    assert row("nuclei", "dark", headroom, values, moved)["+3ENL TD − wider: AP50"] == "-1.0"
    assert row("nuclei", "half", headroom, values, moved) == {}
    moved["nuclei +3ENL TD, dark"] = of_all | {"seeds": [1, 2]}  # detections of the third are gone
    assert row("nuclei", "dark", headroom, values, moved)["AP50, photographs"] == ""


@pytest.mark.parametrize(
    ("oracle", "has"), [([0.90, 0.95], "has"), ([0.90, 0.86], "has no"), ([0.86, 0.86], "has no")]
)
def test_a_level_has_headroom_by_two_points_and_by_every_seed(oracle, has):
    from faint.headroom import verdict

    said = verdict({"set": "mine", "level": "dim", "single": [0.82, 0.87], "oracle": oracle})
    points = 50 * sum(oracle) - 84.5
    assert "one crop 84.5 %" in said and said.endswith(f"{points:+.1f} points; it {has} headroom")


def test_the_pair_that_is_kept_has_the_median_gain_of_its_level():
    from faint.keep import median_seed

    gains = {1: 9.0, 2: 1.5, 3: -4.0, 4: 2.0, 5: 1.0}  # of which the median is 1.5
    measured = [
        {"run": {"system": system, "data": level, "variant": "", "seed": seed}, "AP50": value}
        for level, sign in (("dark", 1), ("sharp", 0))
        for seed, gain in gains.items()
        for system, value in (("nuclei", 40.0), ("nuclei +3ENL TD", 40.0 + sign * gain))
    ]
    assert median_seed(measured, "dark") == 2
    without_plain = [line for line in measured if line["AP50"] != 40.0 or line["run"]["seed"] != 2]
    assert median_seed(without_plain, "dark") == 4  # no pair, no gain; the first of two as near


def test_a_breakdown_tells_finding_from_scores_and_photographs_from_their_order():
    """Three photographs, of one, two and three objects, each with an AP of its own."""
    from faint.breakdown import parts
    from pycocotools.coco import COCO
    from runner.bootstrap import Bootstrap, match

    def box(place):
        return [20 * place, 0, 9, 9]

    objects = [
        {"id": 10 * image + place, "image_id": image, "bbox": box(place)}
        | {"category_id": 1, "area": 81, "iscrowd": 0}
        for image in (1, 2, 3)
        for place in range(image)
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image, "width": 90, "height": 40} for image in (1, 2, 3)],
        "categories": [{"id": 1, "name": "nucleus"}],
        "annotations": objects,
    }
    truth.createIndex()
    # All of the first photograph, one of two of the second, all of the third after a false one.
    scores = {10: 0.2, 20: 0.9, 30: 0.6, 31: 0.6, 32: 0.6}
    detections = [
        {"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"]}
        | {"score": scores[one["id"]]}
        for one in objects
        if one["id"] in scores
    ]
    wrong = {"image_id": 3, "category_id": 1, "bbox": [0, 20, 9, 9], "score": 0.8}
    found = parts(Bootstrap(match(truth, truth.loadRes([*detections, wrong]), "bbox", 10, [0.5])))
    own = {"few": 100, "some": 100 * 51 / 101, "many": 75}  # a photograph each
    assert {name: found[name] for name in own} == pytest.approx(own)
    assert found["within photographs"] == pytest.approx(sum(own.values()) / 3)
    assert found["found"] == pytest.approx(100 * 5 / 6)
    # 1 of 1, then 5 of 6 at best; recall ends at five sixths.
    assert found["all"] == pytest.approx(100 * (17 + 67 * 5 / 6) / 101)


def test_a_breakdown_of_missing_detections_is_not_written(tmp_path, monkeypatch):
    from faint import breakdown
    from runner.grid import Run, load_grid

    monkeypatch.setattr(breakdown, "load_grid", lambda file: load_grid(file, tmp_path))
    monkeypatch.setattr(breakdown, "counted", lambda grid: [Run("nuclei", "dark", "", 1)])
    page = breakdown.FOLDER / "results" / "faint_breakdown.md"
    before = page.read_text()
    with pytest.raises(SystemExit, match="detections of some runs"):
        breakdown.main()
    assert page.read_text() == before


def test_a_row_of_the_breakdown_is_paired_by_seed():
    from faint.breakdown import rows
    from runner.grid import Run

    measured = {
        Run(system, "dark", "", seed): {"all": value}
        for system, values in (("nuclei", (10, 20, 30)), ("nuclei +3ENL TD", (11, 19, 33)))
        for seed, value in enumerate(values)
    }
    del measured[Run("nuclei", "dark", "", 1)]
    [row] = rows(measured, "dark")
    assert row == {
        "": "all",
        "plain": "20.0 ± 127.1",
        "+3ENL TD": "+2.0 ± 12.7, 2 of 2",
        "wider": "",
    }
    assert rows(measured, "sharp") == []
