#!/usr/bin/env python
"""Writes configuration_keys.md, beside this file: every key of this project, with its default.

The keys are those that the project adds to detectron2's. What each one means is the comment above
it in enl_detectron2/config.py; of the blocks' options it is the part ``Args`` of a docstring. A key
without a meaning is an error.

python docs/make_configuration_keys.py
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from enl_detectron2.config import add_enl_config, add_training_config
from enl_detectron2.modeling import RELATION_BLOCK_REGISTRY
from enl_detectron2.training.config import get_training_cfg

PAGE = Path(__file__).with_name("configuration_keys.md")
TEXT = """\
# Configuration keys

Every key that this project adds to detectron2's own, with its default and its meaning. Written by
`python docs/make_configuration_keys.py`; not to be edited by hand.

A key is set in a YAML file, or after the options of a command, where one option of a block can be
set alone: `MODEL.ENL_FPN.BLOCK_OPTIONS.position none`.

## The plug-in

`enl_detectron2.add_enl_config(cfg)` adds these and no others. Existing keys keep their values.

{plug_in}

In a LazyConfig the same words are arguments, in lower case: of `ENL_FPN` (`model.backbone.block`,
`model.backbone.block_options.position`, …), and of `NonLocalResNet`
(`model.backbone.bottom_up.stage`). `bottom_up` and `top_block` are the modules themselves there.

## The options of the blocks

What `BLOCK_OPTIONS` may hold is the signature of the block that `BLOCK` names: the same names and
defaults in YAML, in a LazyConfig and in Python. An option that the block doesn't have is an error.
A block of your own has its own options.

{options}

## This project's training

What `enl train` reads as well. `enl_detectron2.add_training_config(cfg)` adds these keys: after
it and `add_enl_config(cfg)`, the `config.yaml` that a run has written loads in any script.

{training}

A LazyConfig has `optimizer`, which is any of PyTorch's, `train.ddp.find_unused_parameters`,
`dataloader.coco_format`, `train.on_bad_image`, `train.deep_images` and `train.tile` for these.
`train.seed` is `SEED` in YAML.
"""


def page() -> str:
    """The text of the page."""
    ours = dict(added_keys(get_training_cfg(), get_cfg()))
    plug_in = {key: value for key, value in ours.items() if key.startswith("MODEL.")}
    training = {key: value for key, value in ours.items() if key not in plug_in}
    registered = [(name, block.__module__) for name, block in RELATION_BLOCK_REGISTRY]
    blocks = [name for name, module in registered if module.startswith("enl_detectron2.")]
    option_docs = {}
    for name in reversed(blocks):  # what one block's docstring doesn't repeat is the first one's
        option_docs |= argument_docs(RELATION_BLOCK_REGISTRY.get(name))
    return TEXT.format(
        plug_in=key_table(plug_in, comments(add_enl_config)),
        options="\n".join(option_section(name, option_docs) for name in blocks).rstrip(),
        training=key_table(training, comments(add_training_config)),
    )


def added_keys(cfg: CfgNode, plain: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Keys of ``cfg`` that ``plain`` lacks, with their values. Options of a block are one key."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode) and key != "BLOCK_OPTIONS":
            yield from added_keys(value, plain.get(key, CfgNode()), f"{prefix}{key}.")
        elif key not in plain:
            yield prefix + key, value


def comments(function: Callable) -> dict[str, str]:
    """The comment above each assignment to a key in ``function``, by the key's whole name."""
    source = inspect.getsource(function)
    lines = source.splitlines()
    found, node = {}, {}
    for statement in ast.parse(source).body[0].body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            key = statement.targets[0].attr  # node.BLOCK = …
            node[key] = comment_above(lines, statement.lineno - 1)
        elif isinstance(statement, ast.Expr) and "_add_missing" in ast.unparse(statement):
            parent, name = statement.value.args[:2]  # _add_missing(cfg.MODEL, "ENL_FPN", node)
            prefix = f"{ast.unparse(parent)}.{name.value}".removeprefix("cfg.")
            found |= {f"{prefix}.{key}": text for key, text in node.items()}
            node = {}
    return found


def comment_above(lines: list[str], index: int) -> str:
    first = index
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    return " ".join(line.strip(" #") for line in lines[first:index])


def key_table(keys: dict[str, object], meanings: dict[str, str]) -> str:
    by_last_word = {}
    for key, text in meanings.items():
        by_last_word.setdefault(key.rpartition(".")[2], text)
    rows = []
    for key, default in keys.items():
        text = meanings[key] or by_last_word[key.rpartition(".")[2]]
        if not text:
            raise ValueError(f"{key} has no comment that says what it means")
        shown = "see below" if isinstance(default, CfgNode) else f"`{default!r}`"
        rows.append((f"`{key}`", shown, text))
    return table(("key", "default", "meaning"), rows)


def option_section(name: str, others: dict[str, str]) -> str:
    """A block's heading and the table of its options; ``others`` are meanings of all blocks'."""
    block = RELATION_BLOCK_REGISTRY.get(name)
    meanings = others | argument_docs(block)
    rows = [
        (f"`{option}`", f"`{parameter.default!r}`", meanings[option])
        for option, parameter in list(inspect.signature(block).parameters.items())[1:]
    ]
    return f"### {name}\n\n{table(('option', 'default', 'meaning'), rows)}\n"


def argument_docs(function: Callable) -> dict[str, str]:
    """The entries of ``Args`` in a docstring, each on one line; none if it has no such part."""
    sections = re.findall(r"^Args:\n((?:    .*\n?|\n)+)", inspect.getdoc(function), re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", "".join(sections), re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in entries}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    PAGE.write_text(page())
