"""The exceptions that users are meant to see, and the parts that error messages share."""

from collections.abc import Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Something that the user can fix: the message is one line that says what is wrong and what to do.

    Only ``cli.py`` turns it into exit status 2; everything else raises it.
    """


class Stopped(Exception):
    """The run was asked to stop; its state is saved and the same command resumes from it.

    The message is one line that says what was saved. signal: the number of the signal that asked.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class NotJoined(UserError):
    """Runs cannot be trained together; the message says why. Nothing of them has begun."""


class Diverged(Exception):
    """The loss is not finite any more, or far worse than guessing. The message says where."""


class PeerFailed(UserError):
    """Another process of this run has failed or was stopped, and says so itself; this one ends without a word.

    The message is the other's line. status: the exit status that is its, too.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def origin(error: BaseException) -> BaseException:
    """The first of the exceptions that led to this one."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def first_line(error: BaseException) -> str:
    """An exception's kind and the first line of its text, for a message of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for an error's line: the nearest known names, or all of them."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"


def short(value: object) -> str:
    """A value that a file gives, for a message of one line: ASCII, and cut off after 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def shown_name(name: object) -> str:
    """A name that a file gives, for a message of one line: as it is if it is an ordinary one, else as ``short``."""
    text = str(name)
    return text if len(text) <= 120 and text.isascii() and text.isprintable() else short(text)
