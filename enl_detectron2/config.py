"""The keys that the backbones of this package add to a detectron2 configuration."""

from detectron2.config import CfgNode as CN


def add_enl_config(cfg: CN) -> None:
    """Adds the project's keys, with the proposed system's values, to ``cfg``."""
    # The backbone ENL_FPN, beside MODEL.FPN, which keeps its meaning.
    cfg.MODEL.ENL_FPN = CN()
    # The registered backbone below the pyramid.
    cfg.MODEL.ENL_FPN.BOTTOM_UP = "build_resnet_backbone"
    # What extends the pyramid upwards: LastLevelMaxPool (P6 of R-CNN), LastLevelP6P7 (RetinaNet)
    # or "" for nothing.
    cfg.MODEL.ENL_FPN.TOP_BLOCK = "LastLevelMaxPool"
    # The registered relation block, or "" for a plain FPN.
    cfg.MODEL.ENL_FPN.BLOCK = "ENLBlock"
    # The members of MODEL.FPN.IN_FEATURES whose merged level gets a block of its own.
    cfg.MODEL.ENL_FPN.BLOCK_FEATURES = ["res3", "res4", "res5"]
    # ENLBlock: how φ is normalised over the map, "softmax", "mean" or "none".
    cfg.MODEL.ENL_FPN.PHI_NORM = "softmax"
    # ENLBlock: how θ is normalised, "none" or "tanh".
    cfg.MODEL.ENL_FPN.THETA_NORM = "none"
    # NonLocalBlock: how the affinity is normalised, "softmax" or "mean".
    cfg.MODEL.ENL_FPN.AFFINITY_NORM = "softmax"
    # Relative position: "cos_add", "l1_add" or "none"; NonLocalBlock knows "cos_mul", "l1_mul" too.
    cfg.MODEL.ENL_FPN.POSITION = "cos_add"
    # Frequencies of the cosine term, along each direction.
    cfg.MODEL.ENL_FPN.NUM_FREQUENCIES = 9
    # Distance over which the l1 term falls by a factor e, in cells of the feature map.
    cfg.MODEL.ENL_FPN.L1_SCALE = 50.0
    # σ of the Gaussian that the blocks' weights start from. 0.01 is the papers', for their long
    # trainings; in a short one, 1/√OUT_CHANNELS lets the blocks matter sooner.
    cfg.MODEL.ENL_FPN.INIT_STD = 0.01
    # Start every block as the identity: a plain detector's checkpoint, loaded into it, then gives
    # the plain detector's own detections until training goes on.
    cfg.MODEL.ENL_FPN.ZERO_INIT_RESIDUAL = False
    # Whether blocks relate the positions of the padding, too, as the papers' do. Then an image's
    # features depend on how large the other images of its batch are.
    cfg.MODEL.ENL_FPN.ATTEND_TO_PADDING = False

    # The backbone build_non_local_resnet_backbone: a ResNet with one NonLocalBlock, right before
    # the last residual block of this stage. The other keys are as above.
    cfg.MODEL.NON_LOCAL_RESNET = CN()
    cfg.MODEL.NON_LOCAL_RESNET.STAGE = "res4"
    cfg.MODEL.NON_LOCAL_RESNET.AFFINITY_NORM = "softmax"
    cfg.MODEL.NON_LOCAL_RESNET.POSITION = "none"
    cfg.MODEL.NON_LOCAL_RESNET.NUM_FREQUENCIES = 9
    cfg.MODEL.NON_LOCAL_RESNET.L1_SCALE = 50.0
    cfg.MODEL.NON_LOCAL_RESNET.INIT_STD = 0.01
    cfg.MODEL.NON_LOCAL_RESNET.ZERO_INIT_RESIDUAL = False
    cfg.MODEL.NON_LOCAL_RESNET.ATTEND_TO_PADDING = False
