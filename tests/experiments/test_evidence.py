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
    assert (tmp_path / "evidence.png").exists()


def test_every_published_line_is_of_its_grid_and_counts(evidence):
    from runner.grid import load_grid
    from runner.results import accepted

    counts = {"digits": 88, "nuclei": 15, "visdrone": 18, "visdrone_others": 26, "bccd": 6}
    for name, count in counts.items():
        grid = load_grid(evidence.FOLDER / f"{name}.yaml")
        lines, refused = accepted(grid)
        assert len(lines) == len(grid.runs()) == count and not refused
