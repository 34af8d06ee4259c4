"""``make look``: what it prints is what it found, and what the card says."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")

import look  # noqa: E402, of demo/


def test_it_finds_most_nuclei_and_writes_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(look, "OUTPUT", tmp_path / "look")
    look.main()
    said = capsys.readouterr().out
    counts = re.findall(r"^  ([a-z ]+?) +(\d+) found, (\d+) annotated$", said, re.MULTILINE)
    assert len(counts) == 6
    found, there = (sum(int(row[place]) for row in counts) for place in (1, 2))
    truth = json.loads((look.PHOTOGRAPHS / "nuclei.json").read_text())
    assert there == len(truth["annotations"]) and 0.6 < found / there < 1
    card = Path(look.model_zoo.__file__).parent / "weights" / f"{Path(look.NAME).stem}.md"
    numbers = re.search(r"AP (\S+ \[.*?\]), AP50 (\S+ \[.*?\]).* AP (\S+ \[.*?\])\.", said)
    assert all(number in card.read_text() for number in numbers.groups())
    files = re.search(r"Look at (\S+), and in a browser at (\S+)\.$", said, re.MULTILINE)
    assert all(Path(file).stat().st_size > 10_000 for file in files.groups())
