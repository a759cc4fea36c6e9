"""Which records a command reads: those of a results folder, the ones that come with ssm-tune ("shipped"), or both."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssm_tune.config.groups import conf_dir
from ssm_tune.records.record import find_records
from ssm_tune.records.schema import Record
from ssm_tune.utils.errors import UserError

OWN, SHIPPED, BOTH = "results", "shipped", "both"
Found = list[tuple[Path, Record]]


def shipped_dir() -> Path:
    """The results folder that comes with ssm-tune; it lies in a checkout alone."""
    return conf_dir().parent / "results" / SHIPPED


def folders(word: str) -> tuple[Path, ...]:
    """The results folders that ``word`` names, the user's own first. A folder called ``shipped`` is ``./shipped``.

    Raises UserError where the shipped records are asked for and are not there.
    """
    if word not in (SHIPPED, BOTH):
        return (Path(word),)
    if not (shipped_dir() / "runs").is_dir():
        raise UserError(f"--results {word}: the shipped records lie in a checkout of ssm-tune alone, not in a package")
    shipped = _short(shipped_dir())
    return (shipped,) if word == SHIPPED else (Path(OWN), shipped)


def one_folder(word: str, why: str) -> Path:
    """The only folder that ``word`` names. Raises UserError for several. why: what needs one, for the message."""
    found = folders(word)
    if len(found) > 1:
        raise UserError(f"{why} needs one results folder: --results DIR, or --results {SHIPPED}")
    return found[0]


def read(word: str) -> tuple[Found, list[str]]:
    """The records below the folders that ``word`` names, and a warning for each that is left out.

    Of a run that stands in both folders the user's own record is taken.
    """
    found: Found = []
    warnings: list[str] = []
    seen: set[object] = set()
    for folder in folders(word):
        there, damaged = find_records(folder)
        new = [(path, record) for path, record in there if record.get("cell_hash", path) not in seen]
        if twice := len(there) - len(new):
            warnings.append(f"{twice} records of {folder}, whose runs are in {OWN} too")
        found += new
        warnings += damaged
        seen |= {record.get("cell_hash") for _, record in there}
    return found, warnings


def nothing_in(word: str) -> str:
    """Where nothing was found, and where else there is something."""
    places = " or ".join(str(folder / "runs") for folder in folders(word))
    return f"under {places}{elsewhere(word)}"


def elsewhere(word: str) -> str:
    """A hint for an error's end: where there are other records than ``word`` names."""
    hidden = word not in (SHIPPED, BOTH) and (shipped_dir() / "runs").is_dir()
    return f"; --results {SHIPPED} has those that come with ssm-tune" if hidden else ""


def is_shipped(folder: Path) -> bool:
    """Whether a run's folder is one of those that come with ssm-tune."""
    return folder.resolve().is_relative_to(shipped_dir().resolve())


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--results`` of a command that reads records."""
    parser.add_argument(
        "--results",
        default=OWN,
        metavar="DIR",
        help=f"the folder whose runs/ holds the records; {SHIPPED}: those that come with ssm-tune; {BOTH}: your own "
        f"and those (default: {OWN})",
    )


def _short(path: Path) -> Path:
    """From the working directory where the path is below it."""
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path
