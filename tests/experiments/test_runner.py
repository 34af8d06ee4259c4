"""run.py: what it records, and that nothing is lost or done twice, whoever is killed."""

import os
import signal
import subprocess

import pytest
from tiny_grid import STEPS, begun, read_lines, wait_for

from enl_detectron2.utils.errors import ConfigError


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "grid.jsonl"


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "output" / "runs"


def test_what_is_missing_is_trained_and_recorded_and_what_fails_stops_no_other(
    write_grid, run, results, runs
):
    rate = {"images_per_second": {"plain": STEPS / 3600}, "where": "a slow place"}
    file = write_grid(seeds=[13, 1], rate=rate)
    text, status = run(file)
    assert status == 1 and "4 of 4 runs to do" in text
    assert f"{4 * STEPS * 2} images; hours aren't known: --rate" in text  # two a step
    assert "failed: plain___13, other___13" in text
    lines = read_lines(results)
    assert [line["run"]["system"] for line in lines] == ["plain", "other"]
    for line in lines:
        assert line["metrics"]["AP"] == 11 and line["run"]["seed"] == 1
        assert line["metrics"]["APl"] is None  # NaN, which JSON doesn't have
        assert len(line["added_by_blocks"]) == 3 and line["parameters"] > 0
        assert line["code"] and line["configuration"] and len(line["data"]) == 1
    text, _ = run(file, "--status")
    assert text.count(f"{STEPS} / {STEPS}") == 2 and "2 failed, 2 done" in text
    assert text.count("ended with status 1") == 2
    text, _ = run(file, "--only", "plain*", "--dry-run")
    assert "1 of 2 runs to do" in text and "2.0 device hours at a slow place" in text
    # What was trained, elsewhere perhaps, is only recorded.
    results.unlink()
    (runs / "other___1" / "model_final.pth").unlink()  # it was killed before it had all
    run(file)
    assert begun(runs / "plain___1") == [0] and begun(runs / "other___1") == [0, STEPS]
    assert len(read_lines(results)) == 2


def test_a_training_that_is_killed_resumes(write_grid, run, quick, results, runs):
    file = write_grid(seeds=[9], systems=["plain"])
    assert run(file)[1] == 1 and not results.exists()
    assert run(file)[1] == 0 and begun(runs / "plain___9") == [0, STEPS // 2]
    assert [line["run"]["seed"] for line in read_lines(results)] == [9]


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_no_finished_run_and_resumes_the_others(
    write_grid, command, results, runs
):
    file = write_grid(seeds=[1, 2], systems=["plain"], seconds=0.1)
    folders = [runs / f"plain___{seed}" for seed in (1, 2)]
    runner = subprocess.Popen(command(file), start_new_session=True)
    wait_for(lambda: results.exists() and (folders[1] / "last_checkpoint").exists())
    os.killpg(runner.pid, signal.SIGKILL)
    runner.wait()
    recorded = results.read_text()
    assert len(read_lines(results)) == 1
    with open(results, "a") as stream:
        stream.write('{"run": {"sys')  # a kill in the midst of a line
    assert subprocess.run(command(file)).returncode == 0
    assert results.read_text().startswith(recorded)
    assert [line["run"]["seed"] for line in read_lines(results)] == [1, 2]
    assert begun(folders[0]) == [0] and len(begun(folders[1])) == 2 and begun(folders[1])[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_outlives_its_runner_has_its_folder_alone(
    write_grid, command, results, runs, how
):
    """Killed, the runner leaves what it has started; asked to end, it ends that."""
    file = write_grid(systems=["plain"], seconds=0.4)
    runner = subprocess.Popen(command(file), start_new_session=True)
    wait_for(lambda: begun(runs / "plain___1"))
    os.kill(runner.pid, how)
    runner.wait()
    wait_for(lambda: subprocess.run(command(file)).returncode == 0 and results.exists())
    assert len(begun(runs / "plain___1")) == (1 if how == signal.SIGKILL else 2)
    assert len(read_lines(results)) == 1


@pytest.mark.slow
def test_two_runners_share_the_work_and_name_what_fails(write_grid, command, results, runs):
    file = write_grid(seeds=[13, 1, 2], seconds=0.05)
    words = command(file, "--jobs", "2", "--only", "*[12]")
    runners = [subprocess.Popen(words) for _ in range(2)]
    assert [runner.wait() for runner in runners] == [0, 0]
    assert len(read_lines(results)) == 4
    assert [begun(folder) for folder in runs.iterdir()] == 4 * [[0]]
    done = subprocess.run(command(file), capture_output=True, text=True)
    assert done.returncode == 1
    assert "plain___13: failed: thirteen is no lucky number (all of it: " in done.stdout


def test_a_run_that_another_process_is_at_is_left_to_it(write_grid, tmp_path):
    from runner.cli import _begin_again
    from runner.grid import load_grid
    from runner.locks import lock
    from runner.status import states
    from runner.worker import ELSEWHERE, lock_file, run_one

    grid = load_grid(write_grid(systems=["plain"]), tmp_path / "output")
    [only] = grid.runs()
    with lock(lock_file(grid.folder(only))) as held:
        assert held is not None and run_one(grid, only, gpus=0) == ELSEWHERE
        assert [state.kind for state in states(grid)] == ["running"]
        with pytest.raises(ConfigError, match="plain___1 is being trained"):
            _begin_again(grid, [only])
    assert [state.kind for state in states(grid)] == ["missing"]


def test_a_result_counts_only_if_it_comes_from_what_the_grid_names(
    write_grid, run, quick, tmp_path, results, runs
):
    file = write_grid(systems=["plain"])
    run(file)
    [line] = read_lines(results)
    write_grid(systems=["plain"], options={"SOLVER.BASE_LR": 0.5})
    text, status = run(file)
    assert "plain___1: its result comes from other configuration" in text and "--redo" in text
    assert status == 0 and len(read_lines(results)) == 1
    assert "--redo needs --only" in run(file, "--redo")[0]
    assert "what it had is now in" in run(file, "--redo", "--only", "plain*")[0]
    assert [begun(runs / name) for name in ("plain___1", "plain___1.1")] == [[0], [0]]
    again = read_lines(results)[-1]
    assert again["configuration"] != line["configuration"] and again["data"] == line["data"]
    # What has its result is trained again only if that is asked for, also after a kill.
    from runner.results import append_line

    assert "1 of 1 runs to do" in run(file, "--only", "plain*", "--redo", "--dry-run")[0]
    assert "0 of 1 runs to do" in run(file)[0]
    append_line(results, {"run": again["run"], "again": True})
    text, _ = run(file, "--dry-run")
    assert "1 of 1 runs to do" in text and "no metrics" not in text
    assert "plain___1.2" in run(file, "--only", "plain*", "--redo")[0]
    assert len(read_lines(results)) == 6 and "0 of 1 runs" in run(file)[0]
    content = (tmp_path / "data" / "train.json").read_text()
    (tmp_path / "data" / "train.json").write_text(content + "\n")
    assert "other data tiny " in run(file)[0]


def test_what_was_begun_with_something_else_is_not_gone_on_with(write_grid, run, runs):
    file = write_grid(systems=["plain"], seeds=[13])
    run(file)
    write_grid(systems=["plain"], seeds=[13], options={"SOLVER.BASE_LR": 0.5})
    assert run(file)[1] == 1
    assert "was begun with another configuration; give" in run(file, "--status")[0]
    (runs / "plain___13" / "made_with.json").write_text("")  # the machine has crashed
    assert "made_with.json is damaged" in run(file, "--status")[0]
    assert "what it had is now in" in run(file, "--redo", "--only", "plain*")[0]
    assert begun(runs / "plain___13") == [0]


def test_a_line_that_is_no_result_is_named_and_others_are_shown(write_grid, run, quick, results):
    file = write_grid()
    run(file)
    whole = results.read_text()
    strange = ["[1]", '{"run": 3}', "no JSON", '{"run": {"system": "gone"}, "metrics": {}}']
    results.write_text("\n".join([*strange, whole]).removesuffix("\n"))  # an editor's last line
    text, _ = run(file, "--status")
    assert "2 done" in text
    for number in (1, 2, 3):
        assert f"grid.jsonl, line {number}, is no result" in text
    from runner.results import append_line

    append_line(results, {"run": {}})
    assert results.read_text().endswith(whole + '{"run": {}}\n')


def test_a_start_that_is_another_is_not_gone_on_from(write_grid, run, quick, results, runs):
    start = {"system": "plain", "data": "early", "variant": ""}
    axes = {"systems": ["plain"], "data": ["early", "late"], "runs": [{"data": "late"}]}
    file = write_grid(start=start, **axes)
    assert run(file)[1] == 0
    folders = [runs / f"plain_{data}__1" for data in ("early", "late")]
    assert [begun(folder) for folder in folders] == [[0], [0]]
    assert [line["run"]["data"] for line in read_lines(results)] == ["late"]  # a start is no result
    results.unlink()
    write_grid(start=start | {"options": {"SOLVER.BASE_LR": 0.5}}, **axes)
    assert run(file)[1] == 1
    assert "plain_early__1 was begun with another" in run(file, "--status")[0]
    for folder in folders:
        folder.rename(f"{folder}.1")
    assert run(file)[1] == 0
    assert begun(folders[0]) == begun(folders[0].with_name("plain_early__1.1")) == [0]


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        (0, 2, [(), ()]),
        (8, 2, [("0", "1", "2", "3"), ("4", "5", "6", "7")]),
        (2, 4, [("0",), ("1",), ("0",), ("1",)]),
    ],
)
def test_gpus_are_shared_equally(monkeypatch, gpus, jobs, expected):
    from runner.local import shares

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [part.gpus for part in shares(gpus, jobs)] == expected


def test_time_left_is_estimated_from_what_others_of_the_system_took(write_grid, tmp_path):
    from runner.grid import load_grid
    from runner.status import states, summary

    grid = load_grid(write_grid(seeds=[1, 2]), tmp_path / "output")
    assert "isn't known" in summary(states(grid), 1)
    folder = grid.folder(grid.runs()[0])
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(
        '{"iteration": 4, "total_loss": 1.0, "time": 30.0}\n{"iter'
    )  # a kill
    first, *others = states(grid)
    assert first.step == 5 and first.left == (STEPS - 5) * 30
    assert [other.left for other in others] == 3 * [STEPS * 30]
    assert f"{round((3 * STEPS + STEPS - 5) * 30 / 2 / 60)} min" in summary(states(grid), 2)
