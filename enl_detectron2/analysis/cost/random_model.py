"""A configuration's model with random weights, and an input for it that is always the same.

What an inference costs doesn't depend on the weights, but for how many regions the heads of an
R-CNN see; :func:`fixed_regions` fixes that, so that two systems differ by their networks only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn


def build_random_model(cfg: CfgNode | DictConfig, device: str) -> nn.Module:
    """The model of ``cfg``, in inference mode, with random weights, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(cfg, CfgNode):
            cfg = cfg.clone()
            cfg.MODEL.DEVICE = device
            model = build_model(cfg)
        else:
            model = instantiate(cfg.model).to(device)
    for module in model.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            # Untrained, it doesn't normalise: each residual block would double the variance until
            # nothing is a number any more, and inference takes other paths for such.
            nn.init.constant_(module.weight, 0.5)
    return model.eval()


@contextmanager
def fixed_regions(model: nn.Module, image_size: tuple[int, int]) -> Iterator[None]:
    """Within the context the heads of an R-CNN see as many regions as they ever would.

    How many proposals and detections there are depends on weights and image. Here the box head is
    always given as many proposals as the RPN may hand over (``MODEL.RPN.POST_NMS_TOPK_TEST``), and
    the mask and keypoint heads as many detections as an image may have
    (``TEST.DETECTIONS_PER_IMAGE``), random boxes in place of those found. All networks run as
    ever. Other models stay as they are: a one-stage detector's head runs on every position anyway.

    Args:
        model: on the device where it will run.
        image_size: (height, width) of the one image to come, before padding.

    Raises:
        ValueError: if the model is an R-CNN without an RPN.
    """
    if not isinstance(model, GeneralizedRCNN):
        yield
        return
    if model.proposal_generator is None:
        raise ValueError("an R-CNN that is given its proposals can't be analyzed, it needs an RPN")
    roi_heads = model.roi_heads
    predictor = roi_heads.box_predictor
    if isinstance(predictor, nn.ModuleList):  # one for each stage of a cascade
        predictor = predictor[-1]

    num_proposals = model.proposal_generator.post_nms_topk[False]
    proposals = Instances(image_size)
    proposals.proposal_boxes = _random_boxes(num_proposals, image_size, model.device)
    proposals.objectness_logits = torch.zeros(num_proposals, device=model.device)
    num_detections = predictor.test_topk_per_image
    detections = Instances(image_size)
    detections.pred_boxes = _random_boxes(num_detections, image_size, model.device)
    detections.scores = torch.ones(num_detections, device=model.device)
    detections.pred_classes = torch.zeros(num_detections, dtype=torch.int64, device=model.device)
    given_boxes = roi_heads.forward_with_given_boxes

    def propose(*_) -> tuple[list[Instances], dict]:
        return [proposals], {}

    def detect(features: dict[str, Tensor], _) -> list[Instances]:
        return given_boxes(features, [detections])

    hook = model.proposal_generator.register_forward_hook(propose)
    roi_heads.forward_with_given_boxes = detect
    try:
        yield
    finally:
        hook.remove()
        del roi_heads.forward_with_given_boxes


def random_image(image_size: tuple[int, int], channels: int = 3) -> Tensor:
    """(C, height, width) of noise, uint8 as detectron2's data loaders give it; always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, *image_size), dtype=torch.uint8, generator=generator)


def _random_boxes(count: int, image_size: tuple[int, int], device: torch.device) -> Boxes:
    """Boxes with corners anywhere in the image, always the same."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
    height, width = image_size
    return Boxes((corners * torch.tensor([width, height])).flatten(1).to(device))
