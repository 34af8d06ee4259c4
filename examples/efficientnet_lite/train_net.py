#!/usr/bin/env python
"""The project's train_net.py, with one more backbone registered; see --help."""

import efficientnet_lite  # noqa: F401  registers build_efficientnet_lite_backbone

from enl_detectron2.training.launch import main

if __name__ == "__main__":
    main()
