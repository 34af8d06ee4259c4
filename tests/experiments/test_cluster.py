"""Runs as jobs of submitit, by its local executor."""

import os
import signal
import subprocess
import sys

import pytest
from tiny_grid import STEPS, begun, read_lines, wait_for

pytest.importorskip("submitit")


def test_a_job_that_is_preempted_goes_on_by_itself(write_grid, tmp_path):
    """Signalled, it ends its training and is queued again, which takes that up."""
    from runner import cluster
    from runner.grid import load_grid

    grid = load_grid(write_grid(systems=["plain"], seconds=0.3), tmp_path / "output")
    folder = grid.folder(grid.runs()[0])
    [job] = cluster.submit(grid, grid.runs(), 0, "local", {"timeout_min": 60})
    wait_for(lambda: (folder / "last_checkpoint").exists())
    os.kill(job_process(grid), signal.SIGUSR2)  # as the engine does
    assert job.result() == "done"
    [line] = read_lines(grid.results)
    assert line["steps"] == STEPS
    first, second = begun(folder)
    assert first == 0 < second < STEPS


def job_process(grid):
    """The process that started the worker of the grid's one run."""
    words = ["ps", "-wweo", "ppid=,args="]
    lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    [worker] = [line for line in lines if str(grid.file) in line and "--one" in line]
    return int(worker.split()[0])


def test_each_run_is_a_job_and_a_failure_is_the_jobs(write_grid, run, tmp_path):
    from runner import cluster
    from runner.grid import load_grid

    file = write_grid(systems=["plain"], seeds=[1, 13])
    grid = load_grid(file, tmp_path / "output")
    good, bad = cluster.submit(grid, grid.runs(), 0, "local", {"timeout_min": 5})
    assert good.result() == "done"
    assert "thirteen is no lucky number" in str(bad.exception())
    assert [line["run"]["seed"] for line in read_lines(grid.results)] == [1]


def test_what_the_engine_does_not_know_is_said(write_grid, tmp_path):
    from runner import cluster
    from runner.grid import load_grid

    grid = load_grid(write_grid(), tmp_path / "output")
    with pytest.raises(ValueError, match="--submit nowhere: "):
        cluster.submit(grid, grid.runs(), 0, "nowhere", {})
    with pytest.raises(ValueError, match="--submit local: .*partitoin"):
        cluster.submit(grid, grid.runs(), 0, "local", {"partitoin": "gpu"})
    with pytest.raises(ValueError, match="--submit local: .*timeout_min"):
        cluster.submit(grid, grid.runs(), 0, "local", {"timeout_min": "an hour"})


def test_a_job_that_is_taken_away_leaves_nothing_running(tmp_path):
    from runner.cluster import Job

    pid = tmp_path / "pid"
    script = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    job = Job([sys.executable, "-c", script], str(tmp_path / "log"))
    job.process = subprocess.Popen(job.command, start_new_session=True)
    wait_for(lambda: pid.exists() and pid.read_text())
    again = job.checkpoint()
    assert job.process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert again.function.command == job.command and again.function.process is None


def test_slurm_is_given_one_array_of_resumable_jobs(write_grid, tmp_path, monkeypatch):
    """What sbatch would be given, by one that keeps it."""
    from runner import cluster
    from runner.grid import load_grid

    tools = tmp_path / "bin"
    tools.mkdir()
    script = tmp_path / "script"
    for name, content in (
        ("srun", ""),
        ("sbatch", f'cp "$1" {script}; echo "Submitted batch job 17"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{content}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    grid = load_grid(write_grid(seeds=[1, 2]), tmp_path / "output")
    options = {"timeout_min": 60, "slurm_partition": "gpu"}
    jobs = cluster.submit(grid, grid.runs(), 8, "slurm", options)
    assert [job.job_id for job in jobs] == ["17_0", "17_1", "17_2", "17_3"]
    words = script.read_text()
    for word in (
        "--array=0-3",
        "--gpus-per-node=8",
        "--partition=gpu",
        "--time=60",
        "--signal=USR2",
    ):
        assert word in words
