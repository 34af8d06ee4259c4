"""The digits and the nuclei: what their grids need beside the runner; see docs/relations.md."""
