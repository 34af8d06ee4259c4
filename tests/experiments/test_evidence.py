"""The published tables: each is what its command writes from the lines and measures."""

import shutil

import pytest


@pytest.fixture
def evidence():
    import evidence

    return evidence


def test_the_tables_are_what_the_report_writes(evidence, monkeypatch, tmp_path):
    """Number for number: nothing in them was typed, and no line has changed its meaning."""
    published = evidence.RESULTS
    shutil.copytree(published, tmp_path / "results", ignore=shutil.ignore_patterns("*.md"))
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(evidence, "PICTURE", tmp_path / "evidence.png")
    evidence.write()
    for name in evidence.GRIDS:
        assert (tmp_path / "results" / f"{name}.md").read_text() == (
            published / f"{name}.md"
        ).read_text()
    assert (tmp_path / "evidence.png").exists() and (tmp_path / "evidence_main.png").exists()


def test_every_published_line_is_of_its_grid_and_counts(evidence):
    from runner.grid import load_grid
    from runner.results import accepted

    counts = {"digits": 88, "nuclei": 15, "visdrone": 18, "visdrone_others": 26, "bccd": 6}
    for name, count in counts.items():
        grid = load_grid(evidence.FOLDER / f"{name}.yaml")
        lines, refused = accepted(grid)
        assert len(lines) == len(grid.runs()) == count and not refused


def line(system, seed, value, **more):
    run = {"system": system, "data": "faint", "variant": "both", "seed": seed}
    metrics = dict.fromkeys(("AP", "AP50", "APs", "APm"), value)
    return {
        "run": run,
        "metrics": metrics,
        "recall_by_side": {"8–12": 50.0, "12–16": None},
        "added_by_blocks": {"backbone.relations.p2": 0.5} if "ENL" in system else {},
        "parameters": 1_000_000,
        "multiply_adds": 10**9,
    } | more


def lines(**more):
    seeds = (3, 1, 2)
    found = [line("baseline", seed, 10.0 * seed, **more) for seed in seeds]
    return found + [line("+3ENL TD", seed, 11.0 * seed, **more) for seed in seeds]


def test_systems_are_paired_by_seed(evidence):
    runs = evidence.by_system(["baseline", "+3ENL TD", "gone"], lines(), "faint", "both")
    runs["baseline"][1]["metrics"]["APm"] = None
    baseline, enl = evidence.system_rows(runs, evidence.METRICS)
    assert enl["APs"] == "22.0 ± 27.3" and enl["added ÷ input"] == "0.50"  # 11, 22, 33
    assert enl["APs to baseline, paired"] == "+2.0 ± 2.5"  # 1, 2, 3
    assert baseline["APm"] == "–" and baseline["APs to baseline, paired"] == ""
    assert evidence.mean_rows(runs, "recall_by_side")[1] == {"system": "+3ENL TD", "8–12": "50.0"}
    way = {"tested_on": "none"}
    assert (
        evidence.retest_rows(lines(**way), "tested_on")[1] | way
        == {
            "tested on": "none",
            "system": "+3ENL TD",
            "seeds": "3",
            "APs": "22.0 ± 27.3",
            "APs to baseline, paired": "+2.0 ± 2.5",
        }
        | way
    )


def test_the_picture_has_a_place_for_every_setting(evidence):
    from runner.grid import load_grid

    both = lines()
    for data, variant in (("faint", "none"), ("nuclei", "pretrained")):
        both += [one | {"run": one["run"] | {"data": data, "variant": variant}} for one in lines()]
    figure = evidence.draw(both, load_grid(evidence.FOLDER / "digits.yaml"))
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == ["Digits\nfaint, both", "Digits\nfaint, none", "Nuclei\npretrained"]
    assert sorted(figure.axes[0].lines[-2].get_xdata()) == [1, 2, 3]


def test_look_alikes_are_counted_in_percent_of_what_is_found(evidence):
    called = {"car": {"car": 6, "van": 1, "bus": 1, "": 2}, "van": {}, "truck": {}}
    assert evidence.called_shares(called, ("car", "van", "truck")) == {
        "found, %": 80.0,
        "of these called right, %": 75.0,
        "called a look-alike, %": 12.5,
    }
