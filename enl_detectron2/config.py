"""The keys that the backbones of this package add to a detectron2 configuration."""

from typing import Any

from detectron2.config import CfgNode

from .layers.position import POSITION_REGISTRY, position_options_of
from .layers.relation_block import option_names
from .modeling.build import RELATION_BLOCK_REGISTRY


def add_enl_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.ENL_FPN`` and ``MODEL.NON_LOCAL_RESNET`` to ``cfg``; existing keys are kept.

    Args:
        cfg: a configuration of detectron2, or of a subclass of its CfgNode, to be called before
            ``cfg.merge_from_file(...)``.
    """
    CN = type(cfg)  # a subclass refuses nodes of another class than its own
    # The backbone ENL_FPN, beside MODEL.FPN, which keeps its meaning.
    node = CN()
    # The registered backbone below the pyramid.
    node.BOTTOM_UP = "build_resnet_backbone"
    # What extends the pyramid upwards: LastLevelMaxPool (P6 of R-CNN), LastLevelP6P7 (RetinaNet)
    # or "" for nothing.
    node.TOP_BLOCK = "LastLevelMaxPool"
    # What LastLevelP6P7 reads: "" means the coarsest of MODEL.FPN.IN_FEATURES, as in RetinaNet;
    # "p5" the pyramid's level, as in FCOS.
    node.TOP_BLOCK_IN_FEATURE = ""
    # The registered relation block, or "" for a plain FPN.
    node.BLOCK = "ENLBlock"
    # The options of the block, by the names of its arguments; None is the block's own default.
    node.BLOCK_OPTIONS = _options(CN, *(name for name, _ in RELATION_BLOCK_REGISTRY))
    # The members of MODEL.FPN.IN_FEATURES whose level gets a block; [] means all at strides 8 and
    # above.
    node.BLOCK_FEATURES = []
    # Start every block as the identity: with a plain detector's checkpoint the detections are the
    # plain detector's before the first step.
    node.ZERO_INIT_RESIDUAL = False
    # Whether blocks also relate the padding, as the papers' do. Then an image's features depend on
    # how large the others of its batch are.
    node.ATTEND_TO_PADDING = False
    _add_missing(cfg.MODEL, "ENL_FPN", node)

    # The backbone build_non_local_resnet_backbone: a ResNet with one NonLocalBlock. The keys
    # without a comment are as above.
    node = CN()
    # The stage, "res2" to "res5", that has the block right before its last residual block.
    node.STAGE = "res4"
    node.BLOCK_OPTIONS = _options(CN, "NonLocalBlock")
    node.ZERO_INIT_RESIDUAL = False
    node.ATTEND_TO_PADDING = False
    _add_missing(cfg.MODEL, "NON_LOCAL_RESNET", node)


def add_training_config(cfg: CfgNode) -> None:
    """Adds the keys that this project's trainer reads to ``cfg``; existing keys are kept.

    After :func:`add_enl_config` and this, any configuration of this project can be merged, and any
    ``config.yaml`` that one of its runs has written.

    Args:
        cfg: a configuration of detectron2, or of a subclass of its CfgNode.
    """
    CN = type(cfg)
    node = CN()
    # "SGD", as everywhere in detectron2, or "AdamW", which learns from scratch in fewer steps.
    node.OPTIMIZER = "SGD"
    # With several processes: whether parameters may have no part in a step's losses, as those of
    # pyramid levels that no head reads. PyTorch looks for them in each step, which takes time.
    node.FIND_UNUSED_PARAMETERS = False
    _add_missing(cfg, "SOLVER", node)

    node = CN()
    # Data sets in COCO format: [[name, annotation file, image folder], ...]. DATASETS.TRAIN and
    # DATASETS.TEST may then use the names. Relative paths are looked up in $DETECTRON2_DATASETS,
    # then in the working directory.
    node.COCO_FORMAT = []
    _add_missing(cfg, "DATASETS", node)

    node = CN()
    # What to do with a training image that can't be used: "stop" the run, or "replace" it by
    # another one with a warning. Both name the file.
    node.ON_BAD_IMAGE = "stop"
    # What to do with images of more than 8 bits a channel: "refuse" them, or "rescale" each to 8.
    node.DEEP_IMAGES = "refuse"
    _add_missing(cfg, "DATALOADER", node)

    node = CN()
    # Above 0: photographs are looked at in square tiles of so many pixels, which overlap by a
    # quarter. Each is resized as a whole photograph is, and has DETECTIONS_PER_IMAGE of its own.
    node.TILE = 0
    _add_missing(cfg, "TEST", node)


def _options(kind: type[CfgNode], *blocks: str) -> CfgNode:
    """Every option of the blocks, so that a command line can set it; a file may name others."""
    kinds = [RELATION_BLOCK_REGISTRY.get(block) for block in blocks]
    options: dict[str, Any] = {name: None for one in kinds for name in option_names(one)}
    terms = POSITION_REGISTRY.values()
    of_terms = {name: None for term in terms for name in position_options_of(term)}
    node = kind(options, new_allowed=True)
    node.position_options = kind(of_terms, new_allowed=True)  # a node made of nodes forgets that
    return node


def _add_missing(parent: CfgNode, key: str, value: object) -> None:
    if key not in parent:
        parent[key] = value
    elif isinstance(value, CfgNode):
        for name, inner in value.items():
            _add_missing(parent[key], name, inner)
