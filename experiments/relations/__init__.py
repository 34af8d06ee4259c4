"""What the grids of digits and nuclei need; see README.md."""

import runner  # noqa: F401, which says where the digits' scenes are
