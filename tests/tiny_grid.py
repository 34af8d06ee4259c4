"""Runs that take a second: their training program does all that detectron2 would, but train."""

import json
import time
from pathlib import Path

STEPS = 20
PROGRAM = """\
import json, os, shutil, signal, sys, time
from pathlib import Path


def main():
    words = sys.argv[1:]
    options = dict(zip(words, words[1:]))
    folder = Path(options["OUTPUT_DIR"])
    checkpoint = folder / "last_checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    with open(folder / "begun", "a") as file:
        file.write(f"{step}\\n")
    if options["SEED"] == "13":
        sys.exit("thirteen is no lucky number")
    while step < STEPS:
        time.sleep(SECONDS)
        step += 1
        with open(folder / "metrics.json", "a") as file:
            line = {"iteration": step - 1, "total_loss": 1.0, "time": SECONDS}
            file.write(json.dumps(line) + "\\n")
        checkpoint.write_text(str(step))
        if options["SEED"] == "9" and (folder / "begun").read_text() == "0\\n" and step == 10:
            os.kill(os.getpid(), signal.SIGKILL)  # once
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    metrics = {f"bbox/{name}": 10.0 + int(options["SEED"]) for name in names}
    metrics["bbox/APl"] = float("nan")
    with open(folder / "metrics.json", "a") as file:
        file.write(json.dumps({"iteration": STEPS} | metrics) + "\\n")
    (folder / "inference").mkdir(exist_ok=True)
    results = [{"image_id": 1, "category_id": 1, "bbox": [8, 8, 24, 24], "score": 0.9}]
    (folder / "inference" / "coco_instances_results.json").write_text(json.dumps(results))
    shutil.copy(WEIGHTS, folder / "model_final.pth")


if __name__ == "__main__":
    main()
"""


def read_lines(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def wait_for(condition, seconds=200.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


def begun(folder):
    """The steps at which a run's training was begun or taken up."""
    file = Path(folder) / "begun"
    return [int(line) for line in file.read_text().split()] if file.exists() else []
