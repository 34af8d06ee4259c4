"""The digits and the nuclei: what their grids need beside the runner; docs/relations.md has what came out."""
