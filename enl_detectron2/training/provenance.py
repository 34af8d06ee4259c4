"""What a run's weights were made with, beside the configuration that detectron2 writes."""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2

from enl_detectron2.utils.files import whole_file

PACKAGES = (
    "enl-detectron2",
    "torch",
    "torchvision",
    "fvcore",
    "pycocotools",
    "numpy",
    "opencv-python-headless",
)


def write_environment(output_dir: str | Path, seed: int, *, resumed: bool) -> None:
    """Writes ``environment.json`` into a training's folder: a list with an entry for each start.

    Args:
        output_dir: the folder, which is there.
        seed: of the training, as the configuration has it; below 0 is none.
        resumed: whether earlier starts, if there were any, have their part in the weights, too.
    """
    path = Path(output_dir, "environment.json")
    earlier = json.loads(path.read_text()) if resumed and path.exists() else []
    content = {
        "command": sys.argv,
        "seed": seed if seed >= 0 else None,
        "versions": _versions(),
        **_git_state(),
    }
    with whole_file(path, "environment.unfinished") as file:
        file.write((json.dumps([*earlier, content], indent=2) + "\n").encode())


def _versions() -> dict[str, str | None]:
    # detectron2's distribution may have any name.
    versions = {"python": platform.python_version(), "detectron2": detectron2.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_state() -> dict[str, Any]:
    """The revision of this package's code; nothing if it isn't in a git repository of its own."""
    here = Path(__file__)
    # An environment may lie in a repository that isn't this package's.
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return {"git_revision": None, "git_has_changes": None}
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"git_revision": _git("rev-parse", "HEAD"), "git_has_changes": bool(changes)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True
        )
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None
