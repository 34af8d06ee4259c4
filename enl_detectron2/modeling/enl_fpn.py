"""A feature pyramid whose top-down stream passes through relation blocks."""

import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from enl_detectron2.layers import MapBlock, image_extent, map_extent
from enl_detectron2.layers.relation_block import InvalidOption, check_choice

from .build import block_arguments, build_block, check_registered, config_node

logger = logging.getLogger(__name__)


@BACKBONE_REGISTRY.register()
class ENL_FPN(FPN):
    """detectron2's FPN, refined from coarse to fine by one relation block per level.

    Each level's merged map (lateral + upsampled coarser map; the coarsest level's lateral alone)
    passes through its block before anything else reads it: both the level's 3×3 output convolution
    and the next interpolation see the refined map.

    Parameters have FPN's names, so a plain FPN's checkpoint fits. ``relations["p3"]`` is the block
    of level p3, at stride 8; a level without one has an identity. What is put there instead is
    called as ``module(map, extent)``; a :class:`enl_detectron2.layers.MapBlock` adapts one that
    takes the map alone.

    Args:
        bottom_up, …, square_pad: as in :class:`detectron2.modeling.backbone.fpn.FPN`.
        block: a name in ``RELATION_BLOCK_REGISTRY``, or "" for a plain FPN.
        block_features: the members of ``in_features`` whose level gets a block; None or empty means
            those at strides 8 and above, as in the papers.
        block_options: keyword arguments of every block, beside its channels.
        zero_init_residual: whether every block starts as the identity, so that a plain FPN's
            checkpoint gives its own outputs before the first step.
        attend_to_padding: whether the blocks relate all positions of the padded batch, as the
            papers' do. Otherwise they leave the padding out, so that an image's features don't
            depend on how large the others of its batch are: :mod:`enl_detectron2.layers.padding`.

    Raises ValueError, which names the wrong argument; TypeError if a block of your own doesn't keep
    an option as an attribute.
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
        *,
        block: str = "ENLBlock",
        block_features: Sequence[str] | None = None,
        block_options: Mapping[str, Any] | None = None,
        zero_init_residual: bool = False,
        attend_to_padding: bool = False,
    ):
        levels = pyramid_levels(bottom_up, in_features)
        features = features_with_blocks(levels, block_features) if block else []
        super().__init__(
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad
        )
        self.top_block_reads_bottom_up = reads_bottom_up(top_block, bottom_up, levels)
        self.attend_to_padding = attend_to_padding or not block
        self.zero_init_residual = zero_init_residual
        # In top-down order, as lateral_convs and output_convs.
        self.relations = nn.ModuleDict()
        self.relation_strides = [1 << k for k in reversed(levels.values())]
        for feature, k in reversed(levels.items()):
            relation: nn.Module = MapBlock(nn.Identity())
            if feature in features:
                relation = build_block(block, out_channels, block_options, zero_init_residual)
            self.relations[f"p{k}"] = relation
        self.register_load_state_dict_pre_hook(rename_old_blocks)
        self._unseen_modes = {"training", "inference"}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = config_node(cfg, "ENL_FPN")
        check_registered("bottom_up", node.BOTTOM_UP, BACKBONE_REGISTRY)
        bottom_up = BACKBONE_REGISTRY.get(node.BOTTOM_UP)(cfg, input_shape)
        levels = pyramid_levels(bottom_up, cfg.MODEL.FPN.IN_FEATURES)
        return {
            "bottom_up": bottom_up,
            "in_features": cfg.MODEL.FPN.IN_FEATURES,
            "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "norm": cfg.MODEL.FPN.NORM,
            "top_block": build_top_block(cfg, bottom_up, levels),
            "fuse_type": cfg.MODEL.FPN.FUSE_TYPE,
            "block": node.BLOCK,
            "block_features": node.BLOCK_FEATURES,
            **block_arguments(node),
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W), normalised and then padded with zeros to multiples of
        ``size_divisibility`` → "p<k>": (B, out_channels, H/2^k, W/2^k), from fine to coarse."""
        if not torch.jit.is_scripting():
            self._look_at_first_batch(x)
        bottom_up_features = self.bottom_up(x)
        image_sizes = None if self.attend_to_padding else image_extent(x)
        results: list[Tensor] = []
        refined = x  # what the next finer level interpolates; nothing flows into the coarsest
        for index, (lateral_conv, relation, output_conv) in enumerate(
            zip(self.lateral_convs, self.relations.values(), self.output_convs)
        ):
            extent: Tensor | None = None
            if image_sizes is not None:
                extent = map_extent(image_sizes, self.relation_strides[index])
            merged = lateral_conv(bottom_up_features[self.in_features[-index - 1]])
            if index > 0:
                merged = merged + F.interpolate(refined, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            refined = relation(merged, extent)
            results.insert(0, output_conv(refined))
        if self.top_block is not None:
            source = self.top_block.in_feature
            if self.top_block_reads_bottom_up:
                top_block_input = bottom_up_features[source]
            else:
                top_block_input = results[self._out_features.index(source)]
            results.extend(self.top_block(top_block_input))
        # A comprehension, as TorchScript knows no dict(zip(...)).
        return {name: result for name, result in zip(self._out_features, results)}  # noqa: C416

    def _look_at_first_batch(self, x: Tensor) -> None:
        """Warns once of what only loaded weights and a batch show. A GPU waits for this once."""
        mode = "training" if self.training else "inference"
        is_graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if mode not in self._unseen_modes or is_graph or not isinstance(x, Tensor) or not len(x):
            return
        self._unseen_modes.remove(mode)
        with contextlib.suppress(RuntimeError):  # of tensors without values: meta and fake ones
            if self.training and not self.zero_init_residual:
                warn_of_random_trunk(self.bottom_up, self.relations)
            if not self.attend_to_padding and not self._square_pad:
                warn_of_black_borders(x, self.size_divisibility)


def rename_old_blocks(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str = "", *_: object
) -> None:
    """Renames the blocks in a state_dict of an earlier form of this package:
    ``fpn_relation4.theta.weight`` → ``relations.p4.theta.weight``."""
    old = prefix + "fpn_relation"
    names = [name for name in state_dict if name.startswith(old)]
    for name in names:
        state_dict[f"{prefix}relations.p{name[len(old) :]}"] = state_dict.pop(name)
    if names:
        logger.info(f"Renamed {len(names)} weights of blocks from an older version: {names[0]} …")


def check_names(option: str, names: Iterable[str], available: Collection[str]) -> None:
    """Raises InvalidOption unless all ``names`` are ``available``."""
    if unknown := ", ".join(name for name in names if name not in available):
        problem = f"names {unknown}, but only {', '.join(available)} can be used here"
        raise InvalidOption(option, problem)


def pyramid_levels(bottom_up: Backbone, in_features: Sequence[str]) -> dict[str, int]:
    """k of each feature's level p<k>, at stride 2^k; InvalidOption unless they count up by one."""
    if not isinstance(bottom_up, Backbone):
        kind = type(bottom_up).__name__
        raise InvalidOption("bottom_up", f"must be a detectron2 Backbone, got a {kind}")
    shapes = bottom_up.output_shape()
    check_names("in_features", in_features, shapes)
    strides = {name: int(shapes[name].stride) for name in in_features}
    levels = {name: stride.bit_length() - 1 for name, stride in strides.items()}
    finest = min(levels.values(), default=0)
    if not levels or list(strides.values()) != [1 << (finest + i) for i in range(len(levels))]:
        expected = "from high to low resolution, at strides that are powers of 2 and double"
        found = ", ".join(f"{name} at {stride}" for name, stride in strides.items()) or "none"
        raise InvalidOption("in_features", f"must name features {expected}; got {found}")
    return levels


def features_with_blocks(levels: dict[str, int], features: Sequence[str] | None) -> list[str]:
    """The features whose level gets a block: those that are named, or all at stride 8 and above."""
    check_names("block_features", features or [], levels)
    chosen = list(features or [name for name, k in levels.items() if k >= 3])
    if not chosen:
        problem = f"none of {', '.join(levels)} is at stride 8 or above, the default"
        raise InvalidOption("block_features", f"must name the levels that get a block: {problem}")
    return chosen


def build_top_block(cfg: CfgNode, bottom_up: Backbone, levels: dict[str, int]) -> nn.Module | None:
    """What extends the pyramid beyond its coarsest level, as MODEL.ENL_FPN.TOP_BLOCK names it."""
    name, source = cfg.MODEL.ENL_FPN.TOP_BLOCK, cfg.MODEL.ENL_FPN.TOP_BLOCK_IN_FEATURE
    check_choice("top_block", name, ("LastLevelMaxPool", "LastLevelP6P7", ""))
    if name == "LastLevelMaxPool":
        beyond = f"p{max(levels.values()) + 2}"
        if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and beyond in cfg.MODEL.RETINANET.IN_FEATURES:
            problem = f"must be 'LastLevelP6P7' if MODEL.RETINANET.IN_FEATURES names {beyond}"
            raise InvalidOption("top_block", problem)
        return LastLevelMaxPool()
    if name == "LastLevelP6P7":
        source, width = source or cfg.MODEL.FPN.IN_FEATURES[-1], cfg.MODEL.FPN.OUT_CHANNELS
        shapes = bottom_up.output_shape()
        channels = shapes[source].channels if source in shapes else width
        return LastLevelP6P7(channels, width, in_feature=source)
    return None


def reads_bottom_up(
    top_block: nn.Module | None, bottom_up: Backbone, levels: dict[str, int]
) -> bool:
    """Whether the top block reads a bottom-up feature, not a level. A feature takes precedence
    over a level of the same name, as in detectron2. The max-pool, which detectron2 fixes to p5, is
    set to read the coarsest level: there may be no p5, or it may be a feature of Swin's."""
    if isinstance(top_block, LastLevelMaxPool):
        top_block.in_feature = f"p{max(levels.values())}"
    if top_block is None or isinstance(top_block, LastLevelMaxPool):
        return False
    features, own = list(bottom_up.output_shape()), [f"p{k}" for k in levels.values()]
    check_names("top_block.in_feature", [str(top_block.in_feature)], features + own)
    return top_block.in_feature in features


def warn_of_black_borders(images: Tensor, size_divisibility: int) -> None:
    """Warns if a batch (B, C, H, W) ends in more zeros than its padding can be."""
    height, width = image_extent(images).amax(dim=0).unbind()
    zeros = max(int(images.shape[2] - height), int(images.shape[3] - width))
    if zeros >= max(size_divisibility, 1):
        logger.warning(
            f"The first batch ends in {zeros} rows or columns of zeros, more than padding to "
            f"a multiple of {size_divisibility}. If they are a border of the images, such as black "
            "bars, the blocks take it for padding: set the pixel mean to fractions, or "
            "attend_to_padding (MODEL.ENL_FPN.ATTEND_TO_PADDING) to True."
        )


def warn_of_random_trunk(bottom_up: nn.Module, relations: nn.Module) -> None:
    """Warns if a training starts on a trunk whose features nothing keeps small."""
    norms = [one for one in bottom_up.modules() if isinstance(one, FrozenBatchNorm2d)]
    blocks = [one for one in relations.values() if not isinstance(one, MapBlock)]  # type: ignore[operator]
    if norms and blocks and not any(norm.running_mean.any() for norm in norms):
        logger.warning(
            "The frozen batch norms of the bottom-up network have no statistics, as no pretrained "
            "weights were loaded: its features are large, and a block grows with their cube. Load "
            "pretrained weights, train the batch norms (MODEL.RESNETS.NORM), or start the blocks "
            "as the identity (zero_init_residual, MODEL.ENL_FPN.ZERO_INIT_RESIDUAL)."
        )
