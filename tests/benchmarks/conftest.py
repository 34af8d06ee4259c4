from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    """As when a script of benchmarks/ runs: its folder is where it imports from."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
