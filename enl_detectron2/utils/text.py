"""What errors, files and names say, as one line for a reader."""

import unicodedata

from .errors import UserError

MOST_CHARACTERS = 1000  # of a message: names can have thousands


def one_line(said: Exception | str, most: int = MOST_CHARACTERS) -> str:
    """A text, or what an error says, on one line that isn't longer than a reader wants.

    What a terminal would take for a command is escaped.

    Args:
        said: of an OSError the file's name and the reason.
        most: characters; the middle of a longer text is left out.
    """
    text = str(said) or type(said).__name__
    if isinstance(said, OSError) and not isinstance(said, UserError) and said.strerror:
        text = f"{said.filename}: {said.strerror}" if said.filename else said.strerror
    text = " ".join(text.split())
    # Control characters, and what isn't Unicode in a file's name; not the joiners of some scripts.
    escaped = (unicodedata.category(c) in ("Cc", "Cs") for c in text)
    text = "".join(c.encode("unicode_escape").decode() if e else c for c, e in zip(text, escaped))
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} […] {text[-half:]}"


def reason(error: Exception) -> str:
    """The first line of what an error says, without a file's name; or else its kind."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line for line in str(error).splitlines() if line.strip(" :")]
    return one_line(lines[0]) if lines else type(error).__name__
