"""What systems cost, side by side: parameters, multiply-adds by part, memory and time."""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate
from torch import nn

from enl_detectron2.training.config import load_config

from .measurement import TIMED_RUNS, Measurement, measure
from .multiply_adds import PARTS, count_multiply_adds
from .random_model import build_random_model

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """What the system of one configuration costs for one image of ``image_size``, (height, width).

    ``multiply_adds`` has a key for each of ``PARTS``; ``measurement`` is None if nothing was
    measured.
    """

    config: str
    image_size: tuple[int, int]
    trainable_parameters: int
    parameters: int
    multiply_adds: dict[str, int]
    measurement: Measurement | None


def analyze(
    config_file: str, opts: Sequence[str], image_size: tuple[int, int], *, measured: bool
) -> Cost:
    """All that there is to know about one configuration.

    Args:
        config_file: a .yaml, or a LazyConfig .py with ``model`` and, to be measured, ``train``.
        opts: overrides, KEY VALUE … for a .yaml, key=value … for a .py.
        image_size: (height, width) of the image as the model is given it; the model pads it.
        measured: whether to run :func:`measure` too, which takes some seconds.
    """
    model = build_random_model(load_config(config_file, opts), "cpu")
    return Cost(
        config=config_file,
        image_size=image_size,
        trainable_parameters=count_parameters(model, trainable=True),
        parameters=count_parameters(model),
        multiply_adds=count_multiply_adds(model, image_size),
        measurement=measure(config_file, opts, image_size) if measured else None,
    )


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """The number of a model's parameters, or of those that training changes.

    The papers give the second, with the stem and res2 of the ResNet frozen. The constants of a
    frozen batch norm are no parameters.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def format_costs(costs: Sequence[Cost]) -> str:
    """One table of several systems, all at the same image size; a line for each."""
    height, width = costs[0].image_size
    rows = [_own_columns(cost, costs[0]) for cost in costs]
    notes = [
        f"One image of {height}×{width} pixels; M = 10⁶, G = 10⁹ multiply-adds. The heads of an "
        "R-CNN run on as many regions as the configuration allows. Counted by fvcore; a "
        "warning names what it has no rule for.",
    ]
    measurements = [cost.measurement for cost in costs if cost.measurement]
    if measurements:
        devices = ", ".join(sorted({measurement.device for measurement in measurements}))
        notes.append(
            f"Measured on {devices}, each system in a process of its own: the peak of the memory "
            "in use, what the first inference added to it, and the median time of "
            f"{TIMED_RUNS} more."
        )
    alignment = ["left"] + ["right"] * (len(rows[0]) - 1)
    table = tabulate(rows, headers="keys", disable_numparse=True, colalign=alignment)
    return "\n".join([table, "", *notes])


def _own_columns(cost: Cost, first: Cost) -> dict[str, str]:
    total, first_total = (sum(c.multiply_adds.values()) for c in (cost, first))
    columns = {
        "config": cost.config,
        "trainable\nM": _scaled(cost.trainable_parameters, 1e6),
        "parameters\nM": _scaled(cost.parameters, 1e6),
    }
    columns |= {f"{part}\nG": _scaled(cost.multiply_adds[part], 1e9) for part in PARTS}
    columns |= {
        "total\nG": _scaled(total, 1e9),
        "to first\nG": f"{(total - first_total) / 1e9:+.2f}",
    }
    if measured := cost.measurement:
        columns |= {
            "peak\nMiB": f"{measured.memory_peak / MEBIBYTE:.0f}",
            "added\nMiB": f"{(measured.memory_peak - measured.memory_before) / MEBIBYTE:.0f}",
            "time\ns": f"{measured.seconds:.2f}",
        }
    return columns


def _scaled(count: int, unit: float) -> str:
    return f"{count / unit:.2f}"
