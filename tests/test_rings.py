"""Imports go inwards only, so that the plug-in can be read, and taken, without the rest.

What each ring is for is said in CONTRIBUTING.md.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "enl_detectron2"

# Each file or folder of the package, and its ring: a ring imports from itself and from lower ones.
LAYERS, UTILS, PLUG_IN, TRAINING, ANALYSIS, CLI = range(6)
RINGS = {
    "layers": LAYERS,
    "utils": UTILS,
    "__init__": PLUG_IN,
    "config": PLUG_IN,
    "export": PLUG_IN,
    "model_zoo": PLUG_IN,
    "modeling": PLUG_IN,
    "tiling": PLUG_IN,
    "training": TRAINING,
    "analysis": ANALYSIS,
    "cli": CLI,
    "__main__": CLI,
}
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source, module, is_package):
    """(line, imported module) of each import anywhere in the source, functions included.

    ``from a import b`` gives ``a.b``: b may be a module, and where it isn't, the room is the same.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package[: len(package) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"


def room(module):
    """Of a module of the package, the key of RINGS: ``enl_detectron2.layers.position`` → layers."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RINGS else "__init__"


def outward(source, module, is_package=False):
    """The imports that the rule forbids."""
    ring = RINGS[room(module)]
    for line, imported in imports(source, module, is_package):
        root = imported.split(".")[0]
        if root == PACKAGE:
            wrong = RINGS[room(imported)] > ring
        else:
            wrong = ring == LAYERS and root not in {"torch", *sys.stdlib_module_names}
        if wrong:
            yield f"{module}, line {line}: {imported}"


def test_every_part_of_the_package_has_a_ring():
    parts = {path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert parts == set(RINGS)


def test_imports_go_inwards_only():
    wrong = []
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        wrong += outward(source, module_name(path), path.stem == "__init__")
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("modeling.build", "from enl_detectron2 import training", 1),
        ("modeling.build", "from ..training import checkpoint", 1),
        ("training.data.check", "if True:\n    from ...analysis import palette", 1),
        ("layers.position", "import numpy as np", 1),
        ("layers.position", "import math, torch.nn.functional\nfrom .padding import cells", 0),
        ("analysis.detector", "from enl_detectron2.training.data import register", 0),
    ],
)
def test_finds_an_import_outwards_alone(module, source, found):
    assert len(list(outward(source, f"{PACKAGE}.{module}"))) == found


@pytest.mark.slow
def test_the_demo_imports_only_what_it_needs():
    """Whoever has an environment of their own need not install the tests' packages for the demo."""
    unneeded = ["mypy", "onnx", "onnxruntime", "pytest", "ruff", "safetensors"]
    script = f"""
import sys
sys.modules.update(dict.fromkeys({unneeded}))  # importing one of these is an error
sys.path.insert(0, "demo")
import digits
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=ROOT)
