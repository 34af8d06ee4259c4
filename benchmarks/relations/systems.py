"""The systems that are compared: the papers', as options of one detector."""

# An option is a key of the YAML configuration and its value. All blocks start as the identity; the
# weights before their last layer start at 1/√(their inputs), which keeps a map's scale: at the
# papers' 0.01 the blocks wake later than so short a training would want, see probe.py.
SYSTEMS = {
    "baseline": {},
    # As many multiply-adds as +3ENL TD has.
    "wider baseline": {"MODEL.FPN.OUT_CHANNELS": 34},
    "+1NL BU": {"MODEL.ENL_FPN.BOTTOM_UP": "build_small_non_local_resnet_backbone"},
    "+3conv5 TD": {"MODEL.ENL_FPN.BLOCK": "Conv5x5Block"},
    "+3NL TD": {"MODEL.ENL_FPN.BLOCK": "NonLocalBlock"},
    "+3ENL TD, no position": {
        "MODEL.ENL_FPN.BLOCK": "ENLBlock",
        "MODEL.ENL_FPN.POSITION": "none",
    },
    "+3ENL TD": {"MODEL.ENL_FPN.BLOCK": "ENLBlock"},
    # The papers' start of the weights: what the other one buys.
    "+3ENL TD, σ 0.01": {
        "MODEL.ENL_FPN.BLOCK": "ENLBlock",
        "MODEL.ENL_FPN.INIT_STD": 0.01,
        "MODEL.ENL_FPN.ZERO_INIT_RESIDUAL": False,
    },
}
BASELINE = "baseline"
PROPOSED = "+3ENL TD"
ABLATION = "+3ENL TD, σ 0.01"
# Their shared part has other shapes than the baseline's, and so weights of its own to start from.
OWN_START = {"wider baseline"}
