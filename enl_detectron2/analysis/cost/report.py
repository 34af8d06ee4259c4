"""What systems cost, side by side: parameters, multiply-adds by part, memory and time."""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate
from torch import nn

from enl_detectron2.layers import ENLBlock, MapBlock, NonLocalBlock
from enl_detectron2.modeling import relation_blocks
from enl_detectron2.training.config import load_config

from .measurement import TIMED_RUNS, Measurement, measure
from .multiply_adds import PARTS, count_multiply_adds
from .random_model import build_random_model

MEBIBYTE = 2**20


@dataclass(frozen=True)
class PapersCost:
    """A row of table 3 of Levi & Ullman (BMVC 2019): R50, means over COCO val, on their GPU."""

    system: str
    multiply_adds: float  # in G, "Gflops" in the paper
    memory: int  # in MB, on the GPU
    parameters: float  # in M, trainable


@dataclass(frozen=True)
class Cost:
    """What the system of one configuration costs for one image of ``image_size``, (height, width).

    ``multiply_adds`` has a key for each of ``PARTS``. ``papers`` is what the paper gives for the
    same system, if it does; ``measurement`` is None if nothing was measured.
    """

    config: str
    image_size: tuple[int, int]
    trainable_parameters: int
    parameters: int
    multiply_adds: dict[str, int]
    papers: PapersCost | None
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
        papers=papers_cost(model),
        measurement=measure(config_file, opts, image_size) if measured else None,
    )


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """The number of a model's parameters, or of those that training changes.

    The papers give the second, with the stem and res2 of the ResNet frozen. The constants of a
    frozen batch norm are no parameters.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _blocks(kind: str, *names: str) -> frozenset[tuple[str, str]]:
    return frozenset((name, kind) for name in names)


_TOP_DOWN = ("backbone.relations.p3", "backbone.relations.p4", "backbone.relations.p5")
_PAPERS_BASELINE = PapersCost("baseline", 90.20, 1350, 41.48)
# By the number of trainable parameters, and the place and kind of each relation block.
_PAPERS_TABLE = {
    (41_477_536, frozenset()): _PAPERS_BASELINE,
    (43_577_248, _blocks("NL", "backbone.bottom_up.res4.non_local")): PapersCost(
        "+1NL, BU", 106.92, 1358, 43.58
    ),
    (41_872_672, _blocks("ENL", *_TOP_DOWN)): PapersCost("+3ENL, TD", 93.87, 1426, 41.88),
    (41_872_672, _blocks("NL", *_TOP_DOWN)): PapersCost("+3NL, TD", 146.85, 7476, 41.88),
}


def papers_cost(model: nn.Module) -> PapersCost | None:
    """What table 3 of the BMVC paper gives for this very system, or None if it isn't in there.

    What the model is decides, not the name of its file: the number of trainable parameters, which
    no other backbone, head, freezing or number of classes shares, and the relation blocks.
    """
    blocks = frozenset(
        (name, _papers_block(block))
        for name, block in relation_blocks(model).items()
        if not (isinstance(block, MapBlock) and isinstance(block.module, nn.Identity))
    )
    return _PAPERS_TABLE.get((count_parameters(model, trainable=True), blocks))


# What the BMVC paper's systems set, of the options that change what is computed.
_PAPERS_BLOCKS = {
    "NL": (NonLocalBlock, {"affinity_norm": "softmax", "position": "none"}),
    "ENL": (
        ENLBlock,
        {
            "phi_norm": "softmax",
            "theta_norm": "none",
            "position": "cos_add",
            "position_options": {"num_frequencies": 9},
        },
    ),
}


def _papers_block(block: nn.Module) -> str:
    """What the BMVC paper calls a block with its systems' options, "ENL" or "NL"; else ""."""
    for name, (kind, options) in _PAPERS_BLOCKS.items():
        if type(block) is kind and options == {key: block.options()[key] for key in options}:
            return name
    return ""


def format_costs(costs: Sequence[Cost]) -> str:
    """One table of several systems, all at the same image size; a line for each.

    The papers' columns, if any of the systems is in the papers, stand at the end and say so.
    """
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
    if any(cost.papers for cost in costs):
        rows = [row | _papers_columns(cost.papers) for row, cost in zip(rows, costs)]
        notes.append(
            "[papers]: Levi & Ullman, BMVC 2019, table 3, not measured here: means over COCO val, "
            "memory on their GPU. Counting tools differ; compare the differences to the baseline."
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


def _papers_columns(papers: PapersCost | None) -> dict[str, str]:
    values = ("",) * 5
    if papers:
        difference = papers.multiply_adds - _PAPERS_BASELINE.multiply_adds
        values = (
            papers.system,
            f"{papers.parameters:.2f}",
            f"{papers.multiply_adds:.2f}",
            f"{difference:+.2f}",
            str(papers.memory),
        )
    names = ("system", "trainable M", "total G", "to baseline G", "GPU MB")
    return {f"[papers]\n{name}": value for name, value in zip(names, values)}


def _scaled(count: int, unit: float) -> str:
    return f"{count / unit:.2f}"
