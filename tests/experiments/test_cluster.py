"""Runs as jobs of submitit, by its local executor."""

import os
import signal
import subprocess
import sys

import pytest
from tiny_grid import STEPS, begun, read_lines, wait_for

pytest.importorskip("submitit")


def test_a_job_that_reaches_its_time_limit_goes_on_by_itself(write_grid, tmp_path):
    """Signalled, it ends its training and is queued again, which takes that up."""
    from runner import cluster
    from runner.grid import load_grid

    # The whole takes longer than a job may: 16 s until the signal, of which starting takes some.
    grid = load_grid(write_grid(systems=["plain"], seconds=0.8), tmp_path / "output")
    options = {"timeout_min": 0.4, "local_signal_delay_s": 8}
    [job] = cluster.submit(grid, grid.runs(), 0, "local", options)
    assert job.result() == "done"
    [line] = read_lines(grid.results)
    assert line["steps"] == STEPS
    times = begun(grid.folder(grid.runs()[0]))
    assert len(times) > 1 and times[0] == 0 and times == sorted(set(times))


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
