"""The folder of a run: one training at a time, and what an earlier one has left in it."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import yaml

from enl_detectron2.utils.errors import ConfigError

MOST = 20  # differences that are listed

logger = logging.getLogger(__name__)
# Open as long as the process lives: closing a file gives up its lock.
_locks: dict[str, TextIO] = {}


def lock(folder: str) -> None:
    """Keeps other processes from training in a folder, as long as this one lives.

    Raises:
        ConfigError: (a ValueError) if another one does.
    """
    path = os.path.realpath(os.path.join(folder, "training.lock"))
    if path in _locks:
        return
    file = open(path, "w")  # noqa: SIM115  it stays open
    try:
        # Not flock: loaders' workers would inherit that, and hold it longer than their parent.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise ConfigError(
            f"another training is running in {folder}: wait until it has ended, or give this one "
            "an OUTPUT_DIR (in a LazyConfig train.output_dir) of its own"
        ) from None
    except OSError as error:  # as on some network file systems
        logger.warning("%s can't be locked (%s): start one training there only", folder, error)
    _locks[path] = file


def set_aside(folder: str) -> str:
    """Keeps an older run's metrics, its weights and their name from a run that starts.

    Otherwise the two runs' metrics are one file, ``--resume`` takes up the older run if this one
    ends before its first checkpoint, and its end replaces the older one's ``model_final.pth``.
    """
    names = [name for name in ("metrics.json", "last_checkpoint") if Path(folder, name).exists()]
    taken = (int(p.suffix[1:]) for p in Path(folder).glob("*.*") if p.suffix[1:].isdecimal())
    number = max(taken, default=0) + 1
    for name in names:
        Path(folder, name).rename(Path(folder, f"{name}.{number}"))
    weights = Path(folder, "model_final.pth")
    if weights.exists() and not any(map(weights.samefile, Path(folder).glob("model_final.pth.*"))):
        # Under both names, as this run may start from it.
        names.append(weights.name)
        try:
            os.link(weights, f"{weights}.{number}")
        except OSError:  # not on this file system
            shutil.copyfile(weights, f"{weights}.{number}")
    kept = " and ".join(f"{name} as {name}.{number}" for name in names)
    return kept and f"{folder} has an older run, which this one doesn't resume; kept is {kept}"


def take_up(folder: str) -> str:
    """Takes off the line that a kill or a full disk cut: the next would be written behind it."""
    metrics = Path(folder, "metrics.json")
    content = metrics.read_bytes() if metrics.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return ""
    os.truncate(metrics, whole)
    return f"{metrics}: its last line was cut, and is left out: {content[whole:]!r}"


def warn_of_changes(before: str, now: str) -> None:
    """Logs a warning that lists the keys that differ, if any.

    Args:
        before: the ``config.yaml`` that the run has written when it began.
        now: the one that it goes on with.
    """
    try:
        changed = list(differences(before, now))
    except yaml.YAMLError as error:
        logger.warning("--resume: the folder's config.yaml can't be compared: %s", error)
        return
    if changed:
        more = f"\n  and {len(changed) - MOST} more" if len(changed) > MOST else ""
        logger.warning(
            "--resume continues with another configuration. The optimizer keeps its learning rate, "
            "momentum and weight decay from the checkpoint. These keys were changed:%s%s",
            "".join(f"\n  {line}" for line in changed[:MOST]),
            more,
        )


def differences(before: str, now: str) -> Iterator[str]:
    """ "KEY: old → new" for each key of two YAML texts that differs; no tag is followed."""
    old, new = (dict(_values(yaml.compose(text, yaml.SafeLoader))) for text in (before, now))
    for key in sorted({*old, *new}):
        values = [side.get(key, "not there") for side in (old, new)]
        if values[0] != values[1] and {*values} != {"null", "not there"}:
            yield f"{key}: {' → '.join(values)}"


def _values(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode) and node.value:
        for name, value in node.value:
            yield from _values(value, f"{key}.{name.value}".lstrip("."))
    elif node is not None:
        node.flow_style = True  # on one line
        yield key, " ".join(yaml.serialize(node).removesuffix("...\n").split())
