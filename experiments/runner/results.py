"""Result lines: one finished run each, and what it was made with."""

import fcntl
import functools
import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from enl_detectron2.training.config import get_training_cfg
from enl_detectron2.training.data import register_coco_format
from enl_detectron2.utils.errors import MissingFile

from .grid import ROOT, Grid, Run

logger = logging.getLogger(__name__)

AGAIN = "again"  # in a line, it is in place of a result: what came before doesn't count any more
PACKAGE = ROOT / "enl_detectron2"
# What no training reads.
NOT_TRAINED_WITH = ("analysis", "cli.py", "export", "tiling.py")
# What a result doesn't depend on: places, the machine, and paths to data, whose content is hashed.
NO_DIFFERENCE = {
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "DATASETS.COCO_FORMAT",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
}


@dataclass(frozen=True)
class Origin:
    """What a run is made with, as hashes.

    Attributes:
        code: of the package's files that trainings use, and of the grid's training program with
            network.py beside it.
        configuration: of what the resolved configuration says beside its defaults.
        data: of the annotation files by the sets' names; empty where they aren't here.
    """

    code: str
    configuration: str
    data: dict[str, str]

    def differences(self, line: dict[str, Any], also: tuple[str, ...] = ()) -> list[str]:
        """Which of the three a line (or a begun run) has otherwise; none if it has no hashes.

        Args:
            line: with the keys ``code``, ``configuration`` and ``data``.
            also: hashes of code that are as good.
        """
        found = []
        if line.get("code", self.code) not in (self.code, *also):
            found.append(f"code {line['code']}")
        if line.get("configuration", self.configuration) != self.configuration:
            found.append("configuration")
        data = line.get("data", {})
        return found + [
            f"data {name}"
            for name in sorted(self.data)
            if data.get(name, self.data[name]) != self.data[name]
        ]


def origin(grid: Grid, run: Run) -> Origin:
    """What the grid names for a run."""
    cfg = grid.configuration(run)
    return Origin(_code(grid.train), _configuration(grid, run, cfg), _data(cfg))


@functools.cache
def _code(program: Path) -> str:
    own = [program, *program.parent.glob("network.py")]
    digest = hashlib.sha256()
    for file in (*own, *sorted(PACKAGE.rglob("*.py"))):
        if file not in own and file.relative_to(PACKAGE).parts[0] in NOT_TRAINED_WITH:
            continue
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _configuration(grid: Grid, run: Run, cfg: CfgNode) -> str:
    differences = dict(_differences(cfg, get_training_cfg()))
    start = grid.start_of(run)
    # What the grid itself has made is the same wherever its output is.
    own = cfg.MODEL.WEIGHTS.removeprefix(f"{grid.output}/")
    weights = _configuration(grid, start, grid.configuration(start)) if start else own
    text = json.dumps([sorted(differences.items()), weights], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _differences(cfg: CfgNode, default: CfgNode, prefix: str = ""):
    for key, value in cfg.items():
        known = default.get(key)
        if isinstance(value, CfgNode) and isinstance(known, CfgNode):
            yield from _differences(value, known, f"{prefix}{key}.")
        elif value != known and prefix + key not in NO_DIFFERENCE:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _data(cfg: CfgNode) -> dict[str, str]:
    try:
        register_coco_format(cfg.DATASETS.COCO_FORMAT)
    except MissingFile:
        return {}
    hashes = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        file = MetadataCatalog.get(name).get("json_file")
        if file and os.path.isfile(file):
            hashes[name] = _file_hash(file, os.stat(file).st_mtime_ns)
    return hashes


@functools.cache
def _file_hash(file: str, _changed: int) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]


def by_system(
    systems: Iterable[str], lines: list[dict[str, Any]], data: str, variant: str
) -> dict[str, dict[int, dict[str, Any]]]:
    """The lines of one setting: for each system that has some, in this order, by seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {system: {} for system in systems}
    for line in sorted(lines, key=lambda line: line["run"]["seed"]):
        run = line["run"]
        if (run["data"], run["variant"]) == (data, variant) and run["system"] in found:
            found[run["system"]][run["seed"]] = line
    return {system: by_seed for system, by_seed in found.items() if by_seed}


def revision() -> str | None:
    """The git revision of this checkout, with a + if it has changes; None outside git."""
    try:
        words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def append_line(file: Path, record: dict[str, Any]) -> None:
    """Adds a line of JSON, whole, whoever else does so at this moment; a line that a kill has
    cut short is dropped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if _is_json(content[whole:]):  # an editor's last line
            stream.write(b"\n")
        elif whole < len(content):
            logger.warning("%s: its last line was cut and is dropped", file)
            stream.truncate(whole)
        stream.write(json.dumps(record).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All lines that are results, none if the file isn't there; a warning names each other one."""
    found = []
    text = file.read_text(errors="replace") if file.exists() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = json.loads(line)
            if not isinstance(content["run"], dict):
                raise ValueError("its run is no mapping")
            found.append(content)
        except (ValueError, KeyError, TypeError):
            if line.strip():
                logger.warning("%s, line %d, is no result and left out: %.60s", file, number, line)
    return found


def lines_of(grid: Grid) -> dict[Run, dict[str, Any]]:
    """The last line of each run that the grid has, but for those that are to be trained again."""
    known = {json.dumps(asdict(run), sort_keys=True): run for run in grid.runs()}
    lines = {json.dumps(line["run"], sort_keys=True): line for line in read_lines(grid.results)}
    found = {run: lines[key] for key, run in known.items() if key in lines}
    for run, line in list(found.items()):
        if AGAIN in line:
            del found[run]
        elif not isinstance(line.get("metrics"), dict) or not isinstance(line.get("steps"), int):
            logger.warning(
                "%s: the last line of %s has no metrics or steps", grid.results, run.name
            )
            del found[run]
    return found


def is_recorded(grid: Grid, run: Run, lines: dict[Run, dict[str, Any]] | None = None) -> bool:
    """Whether a run has a line that comes from what the grid names.

    Args:
        grid: that it belongs to.
        run: of it.
        lines: of :func:`lines_of`; read anew if None.
    """
    line = (lines_of(grid) if lines is None else lines).get(run)
    return line is not None and not origin(grid, run).differences(line, grid.code)


def accepted(grid: Grid) -> tuple[list[dict[str, Any]], dict[Run, list[str]]]:
    """The lines that come from what the grid names, and for each other run what differs."""
    good, refused = [], {}
    for run, line in lines_of(grid).items():
        if differences := origin(grid, run).differences(line, grid.code):
            refused[run] = differences
        else:
            good.append(line)
    return good, refused
