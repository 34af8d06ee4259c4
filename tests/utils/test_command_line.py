import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from enl_detectron2.utils.command_line import run
from enl_detectron2.utils.errors import ConfigError
from enl_detectron2.utils.text import MOST_CHARACTERS

ROOT = Path(__file__).parents[2]


def start(body, **options):
    """A Python process that runs ``main`` with this body."""
    # Without detectron2 it starts in a tenth of a second.
    code = "import sys; sys.modules['detectron2'] = None\n"
    code += f"from enl_detectron2.utils.command_line import run\ndef main():\n    {body}\nrun(main)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=ROOT, **options)


@pytest.mark.parametrize("body", ["for i in range(100_000): print(i)", "input(); print(0)"])
def test_a_reader_that_stops_early_ends_it_quietly(body):
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # as set, each line is written at once
    process = start(body, stdin=subprocess.PIPE, env=environment)
    if "range" in body:
        assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    process.stdin.write(b"\n"), process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


def test_every_terminal_is_written_to():
    process = start("print('≥ é'); raise ValueError('≥ 数')", env={"PYTHONIOENCODING": "latin-1"})
    assert process.communicate(timeout=60) == (b"\\u2265 \xe9\n", b"-c: error: \\u2265 \\u6570\n")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConfigError("SOLVER.X\nis wrong"), "SOLVER.X is wrong"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "x.png: No such file"),
        (ValueError(), "error: ValueError"),
        (ValueError("ab" * 5000), "abab […] abab"),
        (ValueError("a\x1b[2J\u200cb \udcff"), "a\\x1b[2J\u200cb \\udcff"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(capsys, error, sentence):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and len(said) < MOST_CHARACTERS + 100


def test_anything_else_passes_through():
    run(lambda: None)
    with pytest.raises(SystemExit, match="some left out"):
        run(lambda: sys.exit("some left out"))
    with pytest.raises(KeyError):  # a fault of the code keeps its traceback
        run(lambda: {}["x"])


def test_what_libraries_tell_their_developers_is_left_out(monkeypatch):
    def main():
        for module in ("torch.functional", "mine"):
            warnings.warn_explicit("is deprecated", FutureWarning, "x.py", 1, module)

    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run(main)
    assert [str(one.message) for one in seen] == ["is deprecated"]
