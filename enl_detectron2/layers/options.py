"""What a block says when it is given an option that it can't take."""

from collections.abc import Sequence


class InvalidOption(ValueError):
    """A constructor's argument is wrong; ``option`` is the argument's name."""

    def __init__(self, option: str, expected: str, value: object):
        """
        Args:
            option: the argument's name.
            expected: what would be right, as it follows "must be".
            value: what was given.
        """
        super().__init__(f"{option} must be {expected}, got {value!r}")
        self.option = option


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Raises :class:`InvalidOption` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InvalidOption(option, "one of " + ", ".join(map(repr, choices)), value)
