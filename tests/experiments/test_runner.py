"""run.py: what it records, and that nothing is lost or done twice, whoever is killed."""

import io
import json
import os
import signal
import subprocess

import pytest
import torch
from tiny_grid import STEPS, begun, read_lines, wait_for


def test_what_is_missing_is_shown_trained_and_recorded(write_grid, run, tmp_path):
    file = write_grid(seeds=[1, 2])
    text, status = run(file, "--jobs", "2")
    assert status == 0
    assert "4 runs, 4 of them to do" in text
    [expected] = [line for line in text.splitlines() if line.startswith("4 runs ")]
    assert f"{4 * STEPS * 2}" in expected  # images: two a step
    lines = read_lines(tmp_path / "results" / "grid.jsonl")
    runs = {(line["run"]["system"], line["run"]["seed"]) for line in lines}
    assert len(lines) == 4 and runs == {(s, n) for s in ("plain", "wide") for n in (1, 2)}
    for line in lines:
        assert line["metrics"]["AP"] == 10 + line["run"]["seed"]
        assert line["metrics"]["APl"] is None  # NaN, which JSON doesn't have
        assert len(line["added_by_blocks"]) == 3 and line["parameters"] > 0
        assert line["code"] and line["configuration"] and len(line["data"]) == 1
    assert "4 runs, 0 of them to do" in run(file)[0]
    text, _ = run(file, "--status")
    assert text.count(" done ") == 4 and "4 done" in text and f"{STEPS} / {STEPS}" in text


def test_killed_at_any_moment_it_loses_no_finished_run_and_resumes_the_others(
    write_grid, command, run, tmp_path
):
    file = write_grid(seeds=[1, 2, 3], systems=["plain"], seconds=0.15)
    folders = [tmp_path / "output" / "runs" / f"plain___{seed}" for seed in (1, 2, 3)]
    results = tmp_path / "results" / "grid.jsonl"
    for moment in (
        lambda: (folders[0] / "last_checkpoint").exists(),  # in the first training
        lambda: results.exists() and begun(folders[1]),  # in the second, the first recorded
    ):
        runner = subprocess.Popen(command(file), start_new_session=True)
        wait_for(moment)
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
    recorded = results.read_text()
    assert len(read_lines(results)) == 1
    with open(results, "a") as stream:
        stream.write('{"run": {"sys')  # a kill in the midst of a line
    _, status = run(file)
    assert status == 0
    assert results.read_text().startswith(recorded)
    assert [line["run"]["seed"] for line in read_lines(results)] == [1, 2, 3]
    first, second, third = map(begun, folders)
    assert len(first) == 2 and first[0] == 0 < first[1]
    assert len(second) == 2 and len(third) == 1


def test_a_training_that_outlives_its_runner_is_left_alone(write_grid, command, run, tmp_path):
    file = write_grid(systems=["plain"], seconds=0.4)
    folder = tmp_path / "output" / "runs" / "plain___1"
    runner = subprocess.Popen(command(file), start_new_session=True)
    wait_for(lambda: begun(folder))
    workers = _children(runner.pid)
    for process in (runner.pid, *workers):  # not what the worker has started
        os.kill(process, signal.SIGKILL)
    runner.wait()
    assert " running " in run(file, "--status")[0]
    _, status = run(file)  # waits for it
    assert status == 0
    # Trained to its end by the first; what was left was to record it.
    assert begun(folder) == [0]
    assert len(read_lines(tmp_path / "results" / "grid.jsonl")) == 1


def _children(pid):
    """Those of a process, on Linux."""
    text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in text.stdout.split()]


def test_two_runners_share_the_work(write_grid, command, tmp_path):
    file = write_grid(seeds=[1, 2], seconds=0.05)
    runners = [subprocess.Popen(command(file, "--jobs", "2")) for _ in range(2)]
    assert [runner.wait() for runner in runners] == [0, 0]
    assert len(read_lines(tmp_path / "results" / "grid.jsonl")) == 4
    folders = list((tmp_path / "output" / "runs").iterdir())
    assert [begun(folder) for folder in folders] == 4 * [[0]]


def test_a_run_that_fails_is_named_with_its_last_line_and_stops_no_other(write_grid, run, tmp_path):
    file = write_grid(systems=["plain"], seeds=[13, 1])
    text, status = run(file)
    assert status == 1
    assert "plain___13: failed: thirteen is no lucky number" in text
    assert "failed: plain___13" in text
    assert [line["run"]["seed"] for line in read_lines(tmp_path / "results" / "grid.jsonl")] == [1]
    [row] = [line for line in run(file, "--status")[0].splitlines() if "plain___13 " in line]
    assert " failed " in row and "thirteen is no lucky number" in row


def test_what_goes_wrong_after_a_training_is_reported_as_well(write_grid, tmp_path, capfd):
    from runner.grid import load_grid
    from runner.state import states
    from runner.worker import FAILED, run_one

    grid = load_grid(write_grid(systems=["plain"]), tmp_path / "output")
    (tmp_path / "weights.pth").write_bytes(b"damaged")
    [only] = grid.runs()
    assert run_one(grid, only, gpus=0) == FAILED
    printed = "".join(capfd.readouterr())
    [state] = states(grid)
    assert state.kind == "failed" and state.note and state.note in printed
    assert not grid.results.exists()


def test_a_result_counts_only_if_it_comes_from_what_the_grid_names(write_grid, run, tmp_path):
    file = write_grid(systems=["plain"])
    run(file)
    results = tmp_path / "results" / "grid.jsonl"
    [line] = read_lines(results)

    write_grid(systems=["plain"], options={"SOLVER.BASE_LR": 0.5})
    text, status = run(file)
    assert status == 0
    assert "plain___1: its result comes from other configuration" in text and "--redo" in text
    assert "other configuration" in run(file, "--status")[0]
    assert len(read_lines(results)) == 1
    text, _ = run(file, "--redo")
    assert "what it had is now in" in text
    assert [len(begun(tmp_path / "output" / "runs" / name)) for name in ("plain___1", "plain___1.1")] == [1, 1]  # fmt: skip # noqa: E501
    again = read_lines(results)[-1]
    assert again["configuration"] != line["configuration"]
    assert (again["code"], again["data"]) == (line["code"], line["data"])

    content = (tmp_path / "data" / "train.json").read_text()
    (tmp_path / "data" / "train.json").write_text(content + "\n")
    assert "other data tiny " in run(file)[0]
    (tmp_path / "data" / "train.json").write_text(content)
    assert "0 of them to do" in run(file)[0]


def test_what_was_begun_with_something_else_is_not_gone_on_with(write_grid, run, tmp_path):
    file = write_grid(systems=["plain"], seeds=[13])
    run(file)
    write_grid(systems=["plain"], seeds=[13], options={"SOLVER.BASE_LR": 0.5})
    text, status = run(file)
    assert status == 1 and "was begun with another configuration; --redo" in text
    assert begun(tmp_path / "output" / "runs" / "plain___13") == [0]


def test_what_was_trained_and_tested_elsewhere_is_only_recorded(write_grid, run, tmp_path):
    file = write_grid(systems=["plain"], seeds=[1])
    run(file)
    results = tmp_path / "results" / "grid.jsonl"
    first = read_lines(results)
    results.unlink()
    assert run(file)[1] == 0
    folder = tmp_path / "output" / "runs" / "plain___1"
    assert begun(folder) == [0]
    assert [line["metrics"] for line in read_lines(results)] == [first[0]["metrics"]]
    results.unlink()
    (folder / "model_final.pth").unlink()  # it was killed before it had all
    assert run(file)[1] == 0
    assert begun(folder) == [0, STEPS]


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        (0, 2, [(), ()]),
        (8, 2, [("0", "1", "2", "3"), ("4", "5", "6", "7")]),
        (1, 3, [("0",)] * 3),
        (2, 4, [("0",), ("1",), ("0",), ("1",)]),
    ],
)
def test_gpus_are_shared_equally(monkeypatch, gpus, jobs, expected):
    from runner.local import shares

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [part.gpus for part in shares(gpus, jobs)] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "*none*"], "no run of grid.yaml is called so"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--gpus", "3", "--jobs", "2"], "--gpus 3 can't be shared equally by --jobs 2"),
        (["--submit", "local", "--job-options", "time"], "'time' must be KEY=VALUE"),
    ],
)
def test_a_wrong_command_ends_with_a_sentence(write_grid, run, words, message):
    if "--submit" in words:
        pytest.importorskip("submitit")
    text, status = run(write_grid(), *words)
    assert status == 1
    assert message in text


def test_what_the_user_can_put_right_ends_in_one_line(command, tmp_path):
    done = subprocess.run(command(tmp_path / "none.yaml"), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("run.py: error: there is no grid ")


def test_a_start_that_is_another_is_not_gone_on_from(write_grid, run, tmp_path):
    start = {"system": "plain", "data": "early", "variant": ""}
    axes = {"systems": ["plain"], "data": ["early", "late"], "runs": [{"data": "late"}]}
    file = write_grid(start=start, **axes)
    assert run(file)[1] == 0
    folders = [tmp_path / "output" / "runs" / f"plain_{data}__1" for data in ("early", "late")]
    assert [begun(folder) for folder in folders] == [[0], [0]]
    lines = read_lines(tmp_path / "results" / "grid.jsonl")
    assert [line["run"]["data"] for line in lines] == ["late"]  # a start is no result

    options = {"SOLVER.BASE_LR": 0.5}
    (tmp_path / "results" / "grid.jsonl").unlink()
    text, status = run(write_grid(start=start | {"options": options}, **axes))
    assert status == 1 and "plain_early__1 was begun with another configuration" in text
    assert run(file, "--redo")[1] == 0
    assert [begun(folder) for folder in folders] == [[0], [0]]
    assert begun(folders[0].with_name("plain_early__1.1")) == [0]


def test_time_left_is_estimated_from_what_others_of_the_system_took(write_grid, tmp_path):
    from runner.grid import load_grid
    from runner.state import states, summary

    grid = load_grid(write_grid(seeds=[1, 2]), tmp_path / "output")
    folder = grid.folder(grid.runs()[0])
    assert "isn't known" in summary(states(grid), 1)
    folder.mkdir(parents=True)
    line = {"iteration": 4, "total_loss": 1.0, "time": 30.0}
    (folder / "metrics.json").write_text(json.dumps(line) + "\n")
    begun, *others = states(grid)
    assert begun.step == 5 and begun.left == (STEPS - 5) * 30
    assert [other.left for other in others] == 3 * [STEPS * 30]
    text = summary(states(grid), 2)
    assert text.startswith("4 missing; ") and "19 min 00 s" not in text
    assert f"{(3 * STEPS + STEPS - 5) * 30 // 2 // 60} min" in text


def test_a_terminal_shows_the_running_ones_in_place(write_grid, tmp_path, monkeypatch):
    from runner.cli import Teller
    from runner.grid import load_grid
    from runner.locks import lock
    from runner.worker import lock_file

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    grid = load_grid(write_grid(seeds=[1, 2]), tmp_path / "output")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    tell = Teller(grid, grid.runs())
    with lock(lock_file(grid.folder(grid.runs()[0]))):
        tell(None, "")
    shown = terminal.getvalue()
    assert "plain___1" in shown and "running" in shown and "░" in shown
    assert "plain___2" not in shown and "1 running, 3 missing" in shown
    tell(grid.runs()[0], "done")
    height = shown.count("\n")
    assert f"\x1b[{height}F\x1b[J" in terminal.getvalue()[len(shown) :]


def test_the_expected_cost_is_the_grids_rate_or_another(write_grid, tmp_path):
    from runner.cost import costs, table
    from runner.grid import load_grid

    options = {"SOLVER.MAX_ITER": 90, "SOLVER.CHECKPOINT_PERIOD": 20}
    rate = {"images_per_second": {"plain": 0.5}, "where": "half an image a second"}
    grid = load_grid(write_grid(rate=rate, options=options), tmp_path / "output")
    plain, wide = costs(grid, grid.runs())
    assert (plain.images, plain.steps) == (180, 90)
    assert plain.hours == 0.1 and wide.hours is None
    assert "--rate says one" in table(grid, [plain, wide])
    assert "half an image a second" in table(grid, [plain])
    assert [cost.hours for cost in costs(grid, grid.runs(), 0.25)] == [0.2, 0.2]
    # Four checkpoints and the final one, each of the numbers, their momentum and the buffers.
    saved = torch.load(tmp_path / "weights.pth", weights_only=True)["model"].values()
    numbers = sum(value.numel() for value in saved)
    assert 5 * 4 * numbers < plain.bytes < 2 * 5 * 4 * numbers
