import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from enl_detectron2.analysis.curves import plot_curves, read_metrics

TOOL = Path(__file__).parents[2] / "tools/plot_training.py"


def write_run(folder, entries, tail=""):
    folder.mkdir()
    lines = [json.dumps(entry) + "\n" for entry in entries]
    (folder / "metrics.json").write_text("".join(lines) + tail)
    return folder


def test_a_resumed_run_is_read_and_what_was_cut_is_named(tmp_path, caplog):
    """A kill cuts a line, and the resumed training goes on behind it; so does a second one."""
    run = write_run(
        tmp_path / "run",
        [
            {"iteration": 19, "total_loss": 3.0},
            {"iteration": 39, "total_loss": 2.0},
            {"iteration": 39, "bbox/AP": 5.0},
            {"iteration": 19, "total_loss": 2.5},
        ],
        tail='{"iteration": 59, "to{"iteration": 59}\n{"iteration": 79}\n{"iteration": 99, ',
    )
    expected = {
        19: {"iteration": 19, "total_loss": 2.5},
        39: {"iteration": 39, "total_loss": 2.0, "bbox/AP": 5.0},
        79: {"iteration": 79},
    }
    assert read_metrics(run) == read_metrics(run / "metrics.json") == expected
    assert list(read_metrics(run)) == [19, 39, 79]
    assert "metrics.json, line 5, is cut" in caplog.text
    assert "metrics.json, line 7, is cut" in caplog.text and "line 6" not in caplog.text


@pytest.mark.parametrize("line", ["[1]", '{"iteration": Infinity}', "\xff"])
def test_a_file_of_something_else_is_named(tmp_path, line):
    run = write_run(tmp_path / "run", [], tail=line)
    with pytest.raises(ValueError, match="metrics.json, line 1, isn't one of detectron2's"):
        read_metrics(run)
    with pytest.raises(ValueError, match="none can't be read"):
        read_metrics(tmp_path / "none")


def test_what_is_not_finite_is_a_gap_and_what_is_negative_is_seen(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    values = [3.0, float("nan"), 2.0, float("inf"), -1.0]
    run = write_run(tmp_path / "a", [{"iteration": i, "x": x} for i, x in enumerate(values)])
    plot_curves({r"$\nope{$": run}, tmp_path / "curves.png", metrics=["x"])
    (ax,) = drawn[0].axes
    (line,) = ax.lines
    assert [math.isfinite(y) for y in line.get_ydata()] == [True, False, True, False, True]
    assert line.get_label() == r"$\nope{$ (2 not finite)"
    assert ax.get_ylim()[0] < -1
    drawn[0].canvas.draw()  # matplotlib would end at that name if it read it as TeX


@pytest.fixture
def runs(tmp_path):
    losses = [{"iteration": i, "total_loss": 1 / i, "bbox/APs": float("nan")} for i in (1, 2, 4)]
    scored = [*losses, {"iteration": 4, "bbox/AP": 10.0}]
    return {"a": write_run(tmp_path / "a", scored), "b": write_run(tmp_path / "b", losses[:2])}


def test_draws_each_metric_that_there_is(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    plot_curves(runs, tmp_path / "curves.png", metrics=["total_loss", "bbox/AP", "nothing"])
    loss, ap = drawn[0].axes
    assert [ax.get_title() for ax in (loss, ap)] == ["total_loss", "bbox/AP"]
    points = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert points == {"a": [[1, 1], [2, 0.5], [4, 0.25]], "b": [[1, 1], [2, 0.5]]}
    assert [line.get_color() for line in loss.lines] == [line.get_color() for line in ap.lines]
    with pytest.raises(ValueError, match="no run has nothing; there are bbox/AP, bbox/APs, iter"):
        plot_curves(runs, tmp_path / "curves.png", metrics=["nothing"])


def test_the_tool_writes_a_picture_once(runs, tmp_path, run_tool):
    words = [f"a={runs['a']}", "--output", tmp_path / "curves.png"]
    assert run_tool(TOOL, *words)[0] == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "curves.png already exists" in run_tool(TOOL, *words)[2]
    status, _, said = run_tool(TOOL, *words[:2], tmp_path / "curves.xyz")
    assert status == 2 and "'xyz' is not supported" in said
    assert not (tmp_path / "curves.xyz").exists()


def test_a_name_without_a_suffix_is_the_files_whole_name(runs, tmp_path):
    (tmp_path / "curves.png").write_text("mine")
    plot_curves(runs, tmp_path / "curves")
    assert (tmp_path / "curves").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.png").read_text() == "mine"
