"""Runs as jobs of submitit, by its local executor."""

import os
import signal
import subprocess

import pytest
from tiny_grid import STEPS, begun, read_lines, wait_for

pytest.importorskip("submitit")


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on_by_itself(write_grid, tmp_path):
    """Signalled, it ends its training and is queued again, which takes that up."""
    from runner import cluster
    from runner.grid import load_grid

    grid = load_grid(write_grid(systems=["plain"], seconds=0.3), tmp_path / "output")
    folder = grid.folder(grid.runs()[0])
    [job] = cluster.submit(grid, grid.runs(), 0, "local", {"timeout_min": 60})
    wait_for(lambda: (folder / "last_checkpoint").exists())
    words = ["ps", "-wweo", "ppid=,args="]
    lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    [worker] = [line for line in lines if str(grid.file) in line and "--one" in line]
    os.kill(int(worker.split()[0]), signal.SIGUSR2)  # as the engine does
    assert job.result() == "done"
    assert [line["steps"] for line in read_lines(grid.results)] == [STEPS]
    first, second = begun(folder)
    assert first == 0 < second < STEPS


def test_each_run_is_a_job_and_a_failure_is_the_jobs(write_grid, tmp_path):
    from runner import cluster
    from runner.grid import load_grid

    grid = load_grid(write_grid(systems=["plain"], seeds=[1, 13]), tmp_path / "output")
    good, bad = cluster.submit(grid, grid.runs(), 0, "local", {"timeout_min": 5})
    assert good.result() == "done"
    assert "thirteen is no lucky number" in str(bad.exception())
    assert [line["run"]["seed"] for line in read_lines(grid.results)] == [1]
    for engine, options in (("nowhere", {}), ("local", {"partitoin": "gpu"})):
        with pytest.raises(ValueError, match=f"--submit {engine}: "):
            cluster.submit(grid, grid.runs(), 0, engine, options)


def test_slurm_is_given_one_array_of_resumable_jobs(write_grid, tmp_path, monkeypatch):
    """What sbatch would be given, by one that keeps it."""
    from runner import cluster
    from runner.grid import load_grid

    (tmp_path / "bin").mkdir()
    script = tmp_path / "script"
    commands = {"srun": "", "sbatch": f'cp "$1" {script}; echo "Submitted batch job 17"'}
    for name, content in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    grid = load_grid(write_grid(seeds=[1, 2]), tmp_path / "output")
    options = {"timeout_min": 60, "slurm_partition": "gpu"}
    jobs = cluster.submit(grid, grid.runs(), 8, "slurm", options)
    assert [job.job_id for job in jobs] == ["17_0", "17_1", "17_2", "17_3"]
    for word in ("--array=0-3", "--gpus-per-node=8", "--partition=gpu", "--time=60", "USR2"):
        assert word in script.read_text()
