"""What has changed in the configuration of a run that is taken up."""

import logging
from collections.abc import Iterator

import yaml

MOST = 20  # differences that are listed

logger = logging.getLogger(__name__)


def warn_of_changes(before: str, now: str) -> None:
    """Logs a warning that lists the keys that differ, if any.

    Args:
        before: the ``config.yaml`` that the run has written when it began.
        now: the one that it goes on with.
    """
    try:
        changed = list(differences(before, now))
    except yaml.YAMLError as error:
        logger.warning("--resume: the folder's config.yaml can't be compared: %s", error)
        return
    if changed:
        more = f"\n  and {len(changed) - MOST} more" if len(changed) > MOST else ""
        logger.warning(
            "--resume continues with another configuration. The optimizer keeps its learning rate, "
            "momentum and weight decay from the checkpoint. These keys were changed:%s%s",
            "".join(f"\n  {line}" for line in changed[:MOST]),
            more,
        )


def differences(before: str, now: str) -> Iterator[str]:
    """ "KEY: old → new" for each key of two YAML texts that differs; no tag is followed."""
    old, new = (dict(_values(yaml.compose(text, yaml.SafeLoader))) for text in (before, now))
    for key in sorted({*old, *new}):
        values = [side.get(key, "not there") for side in (old, new)]
        if values[0] != values[1] and {*values} != {"null", "not there"}:
            yield f"{key}: {' → '.join(values)}"


def _values(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode) and node.value:
        for name, value in node.value:
            yield from _values(value, f"{key}.{name.value}".lstrip("."))
    elif node is not None:
        node.flow_style = True  # on one line
        yield key, " ".join(yaml.serialize(node).removesuffix("...\n").split())
