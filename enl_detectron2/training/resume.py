"""Whether a run that is taken up still is the run that its checkpoint is from."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig
from detectron2.engine import SimpleTrainer
from omegaconf import DictConfig
from torch import nn

from enl_detectron2.utils.errors import ConfigError

from .checkpoint import ENLCheckpointer
from .checkpoint_files import read_checkpoint

# How an optimizer computes a step, not which step.
IMPLEMENTATION = {"params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable"}
# Of the keys whose change may be the reason: what a resumed run may change all the same.
FREE = {
    *("MODEL.WEIGHTS", "MODEL.DEVICE", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.GAMMA"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.IMS_PER_BATCH"),
}


def check_resume(
    cfg: CfgNode | DictConfig, output_dir: str, model: nn.Module, trainer: SimpleTrainer
) -> None:
    """Compares the last checkpoint with what is built, and names the keys that were changed.

    Only what doesn't fit, or would silently stay as it was, counts: a longer schedule doesn't.

    Args:
        cfg: of the run, which is compared with the ``config.yaml`` that it wrote.
        output_dir: with the checkpoint; without one all is well.
        model: on one process.
        trainer: with the optimizer.

    Raises:
        ConfigError: (a ValueError) if the run can't be taken up with this configuration.
        MissingFile: (a FileNotFoundError) if what ``last_checkpoint`` names isn't there.
    """
    checkpointer = ENLCheckpointer(model, output_dir)
    if not checkpointer.has_checkpoint():
        return
    path = checkpointer.get_checkpoint_file()
    if not Path(path).is_file():
        return  # the checkpointer says so, and what to do
    saved = read_checkpoint(path)
    state = saved.get("trainer", {})
    state = state.get("_trainer", state)  # DefaultTrainer has one inside
    reason = _model_differs(saved.get("model", {}), model) or _trainer_differs(state, trainer)
    if not reason:
        return
    changed = ", ".join(_changed(cfg, Path(output_dir, "config.yaml")))
    key = "MODEL.WEIGHTS" if isinstance(cfg, CfgNode) else "train.init_checkpoint"
    raise ConfigError(
        f"--resume would go on with {path}, but {reason}"
        + (f"; since then these were changed: {changed}" if changed else "")
        + f". Change them back, or start a new run from its weights: {key} {path} without --resume"
    )


def _model_differs(saved: dict[str, Any], model: nn.Module) -> str:
    # A few entries, such as the anchors of old versions, have no counterpart in either direction.
    now = dict(model.named_parameters())
    missing = [name for name in now if name not in saved]
    if missing:
        return f"{len(missing)} of the model's parameters are not in it, the first {missing[0]}"
    for name, parameter in now.items():
        if tuple(saved[name].shape) != tuple(parameter.shape):
            return (
                f"{name} has the shape {tuple(saved[name].shape)} there and "
                f"{tuple(parameter.shape)} in the model"
            )
    modules = dict(model.named_modules())
    for name in saved:
        # Such as a relation block's that the model doesn't have any more.
        if name.rpartition(".")[0] not in modules:
            return f"the model has no {name}"
    return ""


def _trainer_differs(state: dict[str, Any], trainer: SimpleTrainer) -> str:
    if "optimizer" not in state:
        return ""
    now = trainer.state_dict()
    if ("grad_scaler" in state) != ("grad_scaler" in now):
        return "one of them uses mixed precision, and the other doesn't"
    groups, groups_now = state["optimizer"]["param_groups"], now["optimizer"]["param_groups"]
    counts = [[len(group["params"]) for group in side] for side in (groups, groups_now)]
    if groups and groups_now:
        theirs, ours = (set(side[0]) - IMPLEMENTATION for side in (groups, groups_now))
        # Another version of PyTorch has options more, or less; another optimizer both.
        if theirs - ours and ours - theirs:
            return "it is of another optimizer"
    if counts[0] != counts[1]:
        return (
            f"its optimizer has {sum(counts[0])} parameters in {len(counts[0])} groups, "
            f"and this one {sum(counts[1])} in {len(counts[1])}"
        )
    for group, group_now in zip(groups, groups_now):
        rates = [side.get("initial_lr", side["lr"]) for side in (group, group_now)]
        if not math.isclose(*rates, rel_tol=1e-6):
            return f"its learning rate, {rates[0]:g} instead of {rates[1]:g}, would stay"
        for name in group.keys() & group_now.keys() - IMPLEMENTATION:
            if group[name] != group_now[name]:
                return f"its {name}, {group[name]} instead of {group_now[name]}, would stay"
    return ""


def _changed(cfg: CfgNode | DictConfig, written: Path) -> Iterator[str]:
    """The keys of model and optimizer that differ from ``written``, with both values."""
    before, now = _values(written.read_text() if written.is_file() else ""), _values(_dump(cfg))
    for key in sorted({*before, *now} if before else ()):
        if key.lower().startswith(("model.", "solver.", "optimizer.", "train.amp")):
            values = (before.get(key, "nothing"), now.get(key, "nothing"))
            if key not in FREE and values[0] != values[1]:
                yield f"{key} ({values[0] or repr('')} → {values[1] or repr('')})"


def _dump(cfg: CfgNode | DictConfig) -> str:
    if isinstance(cfg, CfgNode):
        return cfg.dump()
    with tempfile.TemporaryDirectory() as folder:
        LazyConfig.save(cfg, str(Path(folder, "config.yaml")))
        return Path(folder, "config.yaml").read_text()


def _values(text: str) -> dict[str, str]:
    """Every key of a YAML text and its value as it is written; no tag is followed."""
    values: dict[str, str] = {}
    with contextlib.suppress(yaml.YAMLError):
        _collect(yaml.compose(text, Loader=yaml.SafeLoader), "", values)
    return values


def _collect(node: yaml.Node | None, key: str, values: dict[str, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            _collect(value, f"{key}.{name.value}".lstrip("."), values)
    elif isinstance(node, yaml.SequenceNode):
        parts = [_values_of(child) for child in node.value]
        values[key] = f"[{', '.join(parts)}]"
    elif node is not None:
        values[key] = node.value


def _values_of(node: yaml.Node) -> str:
    inner: dict[str, str] = {}
    _collect(node, "", inner)
    return ", ".join(inner.values())
