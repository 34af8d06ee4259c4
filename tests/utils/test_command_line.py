import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enl_detectron2.utils.command_line import MOST_CHARACTERS, one_line, run
from enl_detectron2.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]


def start(body, **options):
    """A Python process that runs ``main`` with this body."""
    code = "from enl_detectron2.utils.command_line import run\ndef main():\n"
    code += "".join(f"    {line}\n" for line in body.splitlines()) + "run(main)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options}
    return subprocess.Popen(
        # Without the warnings of what is imported on the way.
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def test_ctrl_c_is_one_line_and_130():
    process = start("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == b"-c: interrupted\n"


@pytest.mark.parametrize("end", ["", "\nimport sys\nsys.exit(0)", "\nraise ValueError('later')"])
def test_a_reader_that_stops_early_ends_it_quietly(end):
    process = start("for number in range(100_000): print(number)" + end)
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_every_terminal_is_written_to(encoding):
    body = "print('≥ é', '\\udcff')\nraise ValueError('≥ é 数')"
    out, said = start(body, PYTHONIOENCODING=encoding).communicate(timeout=60)
    shown = ("≥ é \udcff\n", "-c: error: ≥ é 数\n")
    assert (out, said) == tuple(text.encode(encoding, "backslashreplace") for text in shown)


def test_output_that_the_disk_does_not_take_is_a_line():
    code = "from enl_detectron2.utils.command_line import run; run(lambda: print('x' * 10))"
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
    assert process.returncode == 2
    assert process.stderr == b"-c: error: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConfigError("SOLVER.X\nis wrong"), "SOLVER.X is wrong"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "x.png: No such file"),
        (PermissionError(13, "Permission denied"), "error: Permission denied"),
        (FileExistsError("x is there"), "error: x is there"),
        (ValueError(), "error: ValueError"),
        (MemoryError(), "there is not enough memory"),
        (ValueError("ab" * 5000), "abab […] abab"),
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


def test_a_fault_of_the_code_keeps_its_traceback():
    for error in (KeyError("x"), RecursionError(), RuntimeError("x")):

        def main(error=error):
            raise error

        with pytest.raises(type(error)):
            run(main)


def test_success_and_statuses_pass_through():
    run(lambda: None)
    run(lambda: sys.exit(0))
    with pytest.raises(SystemExit, match="some left out"):
        run(lambda: sys.exit("some left out"))
    assert one_line("a\n b") == "a b"


@pytest.mark.parametrize(
    "command",
    [
        "train_net.py",
        "demo/demo.py",
        "demo/digits.py",
        "tools/check_dataset.py",
        "experiments/run.py",
    ],
)
def test_ctrl_c_while_pytorch_is_imported_is_no_traceback(command):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / command), "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert out == b"" and err.count(b"\n") <= 1 and b"Traceback" not in err
