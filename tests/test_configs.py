"""Every file in configs/ builds, trains and infers; YAML and LazyConfig are the same model."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from tiny_training import photographs

from enl_detectron2.training.config import get_training_cfg

CONFIGS = Path(__file__).parents[1] / "configs"
LAZY = CONFIGS / "lazy"
# What is trained already is for its weights, and has no LazyConfig: tests/test_model_zoo.py.
YAML_FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "trained")
LAZY_FILES = sorted(path for path in LAZY.rglob("*.py") if path.parent.name != "common")


def relative(path):
    return str(path.relative_to(CONFIGS))


def yaml_of(lazy_path):
    return CONFIGS / lazy_path.relative_to(LAZY).with_suffix(".yaml")


def load_yaml(path, device="cpu"):
    cfg = get_training_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = device
    # Random weights score nothing above the usual threshold.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    return cfg


def load_lazy(path):
    model = LazyConfig.load(str(path)).model
    if "roi_heads" in model:
        model.roi_heads.box_predictor.test_score_thresh = 0.0
    else:
        model.test_score_thresh = 0.0
    return model


def tamed(model):
    """The model with small activations.

    Untrained and with frozen batch norm, each residual block adds to their variance, and after
    dozens of blocks no box is a number any more; sooner still with an ENL block that normalises
    nothing, as it is cubic in its input.
    """
    for name, module in model.named_modules():
        if name.endswith(("stem.conv1.norm", "conv3.norm")):
            torch.nn.init.constant_(module.weight, 0.1)
    return model


def batch():
    """One random image with two objects."""
    return photographs()[:1]


def losses(model):
    torch.manual_seed(0)  # the heads sample their proposals
    with EventStorage():
        return model.train()(batch())


def train_one_step(model, optimizer):
    """Whether it has relation blocks, all of which must have learnt."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss = sum(losses(model).values())
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    relation = [name for name in before if "relation" in name or "non_local" in name]
    for name in relation:
        if name.endswith(("out.weight", "conv.weight")):
            assert not torch.equal(model.get_parameter(name), before[name]), f"{name} didn't learn"
    return bool(relation)


def infer(model):
    with torch.no_grad():
        return model.eval()(batch())[0]["instances"]


def each(files):
    """Those for a CPU, which are small, and nightly the others."""
    small = [path for path in files if path.parent.name == "cpu"]
    others = [pytest.param(path, marks=pytest.mark.slow) for path in files if path not in small]
    return pytest.mark.parametrize("path", [*small, *others], ids=relative)


@each(YAML_FILES)
def test_yaml_trains_a_step_and_infers(path):
    cfg = load_yaml(path)
    model = tamed(build_model(cfg))
    assert len(infer(model).pred_boxes) > 0
    has_blocks = train_one_step(model, build_optimizer(cfg, model))
    assert has_blocks == any(name in path.name for name in ("enl_", "nl_", "conv5x5_"))


@each(LAZY_FILES)
def test_lazy_is_the_same_model_as_yaml(path):
    lazy = instantiate(load_lazy(path))
    yaml = tamed(build_model(load_yaml(yaml_of(path))))
    assert list(lazy.state_dict()) == list(yaml.state_dict())
    lazy.load_state_dict(yaml.state_dict())
    trainable = {name for name, parameter in yaml.named_parameters() if parameter.requires_grad}
    assert {n for n, parameter in lazy.named_parameters() if parameter.requires_grad} == trainable

    lazy_losses, yaml_losses = losses(lazy), losses(yaml)
    assert lazy_losses.keys() == yaml_losses.keys()
    for name, loss in yaml_losses.items():
        assert torch.equal(lazy_losses[name], loss), name
    lazy_instances, yaml_instances = infer(lazy), infer(yaml)
    assert len(yaml_instances) > 0
    for name, value in yaml_instances.get_fields().items():
        value, other = (getattr(v, "tensor", v) for v in (value, lazy_instances.get(name)))
        assert torch.equal(value, other), name
    cfg = LazyConfig.load(str(path))
    cfg.optimizer.params.model = lazy
    train_one_step(lazy, instantiate(cfg.optimizer))


@pytest.mark.parametrize("path", LAZY_FILES, ids=relative)
def test_lazy_trains_as_yaml_does(path):
    cfg = load_yaml(yaml_of(path))
    lazy = LazyConfig.load(str(path))
    mapper = lazy.dataloader.train.mapper
    [resize] = [entry for entry in mapper.augmentations if "short_edge_length" in entry]
    with torch.device("meta"):  # at full width
        models = instantiate(lazy.model), build_model(load_yaml(yaml_of(path), device="meta"))
    shapes, of_yaml = ({k: v.shape for k, v in model.state_dict().items()} for model in models)
    assert shapes == of_yaml
    assert lazy.optimizer.lr == cfg.SOLVER.BASE_LR
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert lazy.train.output_dir == cfg.OUTPUT_DIR
    assert tuple(resize.short_edge_length) == cfg.INPUT.MIN_SIZE_TRAIN
    test_size = lazy.dataloader.test.mapper.augmentations[0].short_edge_length
    assert test_size == cfg.INPUT.MIN_SIZE_TEST
    assert mapper.use_instance_mask == cfg.MODEL.MASK_ON


def test_every_system_has_both_forms():
    systems = {path for path in YAML_FILES if not path.name.startswith("Base-")}
    assert len(systems) == 33 + 4  # the papers' 32, and RetinaNet; those of configs/cpu
    assert {yaml_of(path) for path in LAZY_FILES} == systems


@pytest.mark.parametrize("folder", ["configs", "examples"])
def test_no_grey_passes_for_padding(folder):
    for path in (CONFIGS.parent / folder).rglob("*.yaml"):
        cfg = get_training_cfg()
        cfg.set_new_allowed(True)  # an example may have keys of its own
        cfg.merge_from_file(str(path))
        assert not all(float(value).is_integer() for value in cfg.MODEL.PIXEL_MEAN), path
