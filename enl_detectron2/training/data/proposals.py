"""Files of precomputed proposals, which detectron2 unpickles: read safely before it gets them."""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from enl_detectron2.training.pickles import line, read_pickle
from enl_detectron2.utils.errors import ConfigError, MissingFile, UnsafeCheckpoint

# The names that detectron2 itself takes for them.
KEYS = {"ids": ("ids", "indexes"), "boxes": ("boxes",), "logits": ("objectness_logits", "scores")}


def check_proposal_files(files: Sequence[str], key: str = "DATASETS.PROPOSAL_FILES_TRAIN") -> None:
    """Raises if files of proposals hold anything but arrays, or not what detectron2 takes.

    Every process must ask before it builds its loader, as each unpickles the files by itself.

    Args:
        files: paths or URLs, of pickles.
        key: of the configuration, which names them.

    Raises:
        MissingFile: (a FileNotFoundError) if one isn't there.
        ConfigError: (a ValueError) if one can't be used; nothing that is in it is run.
    """
    for name in files:
        try:
            with open(PathManager.get_local_path(name), "rb") as file:
                content = read_pickle(
                    file.read(), {"detectron2.structures.boxes.BoxMode": _box_mode}
                )
        except UnsafeCheckpoint as error:
            raise ConfigError(f"{key}: {name} is refused: it {line(error)}") from None
        except OSError as error:
            raise MissingFile(f"{key}: {name} can't be read: {error.strerror or error}") from error
        except Exception as error:  # a damaged file can raise anything
            raise ConfigError(
                f"{key}: {name} is no whole pickle ({type(error).__name__}: {line(error)})"
            ) from error
        fault = _fault(content)
        if fault:
            raise ConfigError(f"{key}: {name} {fault}")


def _box_mode(value: int) -> int:
    return BoxMode(value).value


def _fault(content: object) -> str:
    if not isinstance(content, dict):
        return f"must hold a dict, not a {type(content).__name__}"
    parts = {}
    for part, names in KEYS.items():
        found = next((content[name] for name in names if name in content), None)
        if not isinstance(found, (list, np.ndarray)):
            return f"must have a list {' or '.join(map(repr, names))}, one entry an image"
        parts[part] = found
    if len({len(found) for found in parts.values()}) > 1:
        counts = ", ".join(f"{len(found)} {part}" for part, found in parts.items())
        return f"must have as many entries in each list, not {counts}"
    for id_, boxes, logits in zip(*parts.values()):
        if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] != 4:
            return f"must have an array of N×4 boxes for image {id_}"
        if not isinstance(logits, np.ndarray) or logits.shape != boxes.shape[:1]:
            return f"must have an array of {len(boxes)} scores for image {id_}, one a box"
    return ""
