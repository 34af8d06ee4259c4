"""Whether an exported detector is the detector: both on the same images, of several sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.export.flatten import flatten_to_tuple
from torch import Tensor, nn
from torchvision.ops import box_iou

from .graphs import PROPOSALS, ROWS, NotExportable

Outputs = dict[str, Tensor]
# Of a map's largest value. Another order of the same sums makes a millionth of it.
TOLERANCE = 1e-3
SAME_BOX, SAME_SCORE = 0.99, 1e-3  # IoU at least, and difference at most
SAME_MORE = 0.01  # of the largest value of an object's mask, or of its keypoints'
# Rounding decides which of two objects is kept where their scores or their overlap are at the edge.
LOST = 0.02  # the part of the detections that may have no counterpart
# Where many scores are equal, as those of a model that isn't trained, rounding decides more often.
LOST_PROPOSALS = 0.2
LOST_ROWS = 0.02  # of those proposals whose outputs may differ: their size is between two levels


@dataclass
class Agreement:
    """What was found to be the same, for a report."""

    detections: int = 0
    matched: int = 0
    difference: float = 0.0  # the largest of a map, as a part of its largest value


class Difference(Exception):
    """Where a model and what it was exported to differ: ``name`` of the output, and how."""

    def __init__(self, name: str, how: str):
        super().__init__(f"{name} {how}")


def compare(
    run: Callable[[Tensor], Outputs],
    images: Sequence[Tensor],
    expected: Sequence[Outputs],
    raw: bool,
) -> Agreement:
    """Runs an export on images and compares what it gives.

    Args:
        run: image → the outputs by name; the detections as
            :class:`~enl_detectron2.export.ExportedDetector` names them, and others by any name.
        images: (C, H, W) or, of backbones, (B, C, H, W).
        expected: what the model itself gave for each image.
        raw: whether outputs beside the detections are compared, or the detections.

    Raises:
        NotExportable: (a ValueError) that names the size and the difference.
    """
    agreement = Agreement()
    for image, outputs in zip(images, expected):
        try:
            found = run(image)
            if raw:
                _compare_raw(found, outputs, agreement)
            elif "scores" in outputs:
                _compare_detections(found, outputs, agreement)
        except Difference as difference:
            raise NotExportable(f"at {size_name(image)} {difference}") from difference
        except RuntimeError as error:  # which a graph raises that fits no other size
            raise NotExportable(f"at {size_name(image)} it can't be run: {error}") from error
    if agreement.detections - agreement.matched > LOST * agreement.detections:
        raise NotExportable(
            f"of {agreement.detections} detections at {', '.join(map(size_name, images))} "
            f"{agreement.detections - agreement.matched} have no counterpart"
        )
    return agreement


def size_name(image: Tensor) -> str:
    return f"{image.shape[-2]}×{image.shape[-1]}"


def _compare_raw(found: Outputs, expected: Outputs, agreement: Agreement) -> None:
    for name, map_ in expected.items():
        is_detection = name == "scores" or name.startswith("pred_")
        if name not in found or is_detection or name == PROPOSALS or name.startswith(ROWS):
            continue
        if found[name].shape != map_.shape:
            shapes = ["×".join(map(str, each.shape)) for each in (found[name], map_)]
            raise Difference(name, f"is {shapes[0]} instead of {shapes[1]}")
        difference = relative_difference(found[name], map_)
        if not difference <= TOLERANCE:  # as nothing is if it isn't a number
            raise Difference(name, f"differs by {difference:.2g} of its largest value")
        agreement.difference = max(agreement.difference, difference)
    if PROPOSALS in expected and PROPOSALS in found:
        _compare_rows(found, expected)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a part of the largest value; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    found, expected = found.double().cpu(), expected.double().cpu()
    largest = expected.abs().max().item()
    return (found - expected).abs().max().item() / (largest or 1.0)


def _compare_rows(found: Outputs, expected: Outputs) -> None:
    """What heads say of each proposal; the proposals may come in another order."""
    boxes, own = expected[PROPOSALS].cpu(), found[PROPOSALS].cpu()
    if not len(boxes) or not len(own):
        if len(boxes) != len(own):
            raise Difference(PROPOSALS, f"are {len(own)} instead of {len(boxes)}")
        return
    distance, index = torch.cdist(boxes, own, p=float("inf")).min(dim=1)
    same = distance < 0.05  # pixels
    if (~same).float().mean() > LOST_PROPOSALS or abs(len(own) - len(boxes)) > 0.2 * len(boxes):
        raise Difference(PROPOSALS, f"differ: {int(same.sum())} of {len(boxes)} are found")
    for name in (name for name in expected if name.startswith(ROWS) and name in found):
        rows, others = expected[name].cpu()[same], found[name].cpu()[index[same]]
        largest = rows.abs().max().clamp(min=1e-12)
        wrong = ~((others - rows).abs().amax(dim=1) <= 10 * TOLERANCE * largest)
        if wrong.float().mean() > LOST_ROWS:
            raise Difference(name, f"differs for {int(wrong.sum())} of {len(rows)} proposals")


def _compare_detections(found: Outputs, expected: Outputs, agreement: Agreement) -> None:
    """Counts what matches one to one, by IoU, class, score and mask or keypoints, in any order."""
    ours = {name: value.cpu() for name, value in expected.items()}
    theirs = {name: value.cpu() for name, value in found.items()}
    near = box_iou(ours["pred_boxes"], theirs["pred_boxes"]) >= SAME_BOX
    near &= ours["pred_classes"][:, None] == theirs["pred_classes"]
    near &= (ours["scores"][:, None] - theirs["scores"]).abs() <= SAME_SCORE
    left = set(range(len(theirs["scores"])))
    more = {name for name in ours if name.startswith("pred_")} - {"pred_boxes", "pred_classes"}
    for index, row in enumerate(near):
        for other in row.nonzero()[:, 0].tolist():
            if other not in left:
                continue
            # Not "any above", as nothing is if it isn't a number.
            if not all(
                relative_difference(theirs[name][other], ours[name][index]) <= SAME_MORE
                for name in more
            ):
                continue
            left.discard(other)
            agreement.matched += 1
            break
    agreement.detections += max(len(ours["scores"]), len(theirs["scores"]))


def constant_module(
    model: nn.Module, run: Callable[[Tensor], object], first: Tensor, other: Tensor
) -> str:
    """The module within ``model`` that makes the size of an image a constant when it is traced.

    Each one that takes nothing but tensors is traced alone, with what it is given for ``first``,
    and run with what it is given for ``other``. The first that has finished and gives something
    else is named.

    Args:
        model: in inference mode.
        run: image → anything, by calling ``model``.

    Returns:
        Its name and kind, or "" if none is found.
    """
    calls = [_calls(model, run, image) for image in (first, other)]
    for name, (inputs, _) in calls[0].items():
        if name not in calls[1]:
            continue
        module, (others, expected) = model.get_submodule(name), calls[1][name]
        try:
            traced = torch.jit.trace(module, inputs, check_trace=False, strict=False)
        except Exception:  # it can't be traced alone, and so says nothing
            continue
        try:
            found = flatten_to_tuple(traced(*others))[0]
            differences = [relative_difference(a, b) for a, b in zip(found, expected)]
        except Exception:  # whatever a graph raises that fits no other size
            differences = [float("inf")]
        if not all(difference <= TOLERANCE for difference in differences):
            return f"{name} ({type(module).__name__})"
    return ""


def _calls(
    model: nn.Module, run: Callable[[Tensor], object], image: Tensor
) -> dict[str, tuple[tuple, tuple[Tensor, ...]]]:
    """By a module's name its arguments and outputs in its first call, in the order of ending."""
    calls: dict[str, tuple[tuple, tuple[Tensor, ...]]] = {}

    def watcher(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            tensors = all(
                isinstance(each, Tensor)
                or (isinstance(each, list) and all(isinstance(one, Tensor) for one in each))
                for each in inputs
            )
            if tensors and name not in calls:
                # Into copies, as a module after it may work in place.
                outputs = tuple(each.clone() for each in flatten_to_tuple(output)[0])
                calls[name] = (_cloned(inputs), outputs)

        return hook

    hooks = [
        module.register_forward_hook(watcher(name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        run(image)
    finally:
        for each in hooks:
            each.remove()
    return calls


def _cloned(inputs: tuple) -> tuple:
    return tuple(
        [one.clone() for one in each] if isinstance(each, list) else each.clone() for each in inputs
    )
