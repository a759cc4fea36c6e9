"""Words of a command line that are no settings, and what was meant by them; before Hydra is imported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from ssm_tune.config.groups import GROUPS, names

HYDRA_FLAGS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip
SHORT_FLAGS = ("-m", "-h", "-c", "-p", "-r", "-i", "-sc", "-cp", "-cn", "-cd")
BEFORE_A_WORD = ("--c", "--p", "--e", "--i", "-c", "-p", "-i")
"""How flags begin whose value may be a word of its own."""


def mistyped(arguments: Sequence[str], subcommands: Collection[str]) -> str | None:
    """A line for the first argument that is neither a setting nor a flag of Hydra's; None where there is none."""
    for at, word in enumerate(arguments):
        after = arguments[at + 1] if at + 1 < len(arguments) else ""
        if word.startswith("-"):
            if not _is_flag(word):
                return _dashed(word, after)
        elif "=" in word or word.startswith(("+", "~")):
            if word.endswith("=") and not word.startswith("=") and after and "=" not in after and after[0] not in "-+~":
                return _parted(word[:-1], after)
        elif after.startswith("="):
            return _parted(word, after[1:] or next(iter(arguments[at + 2 :]), "VALUE"))
        elif group_of(word) and not (at and arguments[at - 1].startswith(BEFORE_A_WORD)):
            return _bare(arguments)
        elif at == 0:
            return f"there is no subcommand {word!r}: {_nearest(word, subcommands)} (see ssm-tune --help)"
    return None


def group_of(word: str) -> str | None:
    """The group of which the word is a choice."""
    return next((group for group in GROUPS if word in names(group)), None)


def _is_flag(word: str) -> bool:
    name = word.partition("=")[0]
    if not name.startswith("--"):
        return name in SHORT_FLAGS
    return len(name) > 2 and any(flag.startswith(name) for flag in HYDRA_FLAGS)


def _dashed(word: str, after: str) -> str:
    from ssm_tune.config.hydra_errors import setting_meant  # OmegaConf

    name, _, value = word.lstrip("-").partition("=")
    meant = setting_meant(name.replace("-", "_")) or setting_meant(name)
    if meant is None:
        return f"there is no option {word}: settings are typed as name=value (ssm-tune --help lists them)"
    value = value or (after if after and "=" not in after and not after.startswith("-") else "VALUE")
    return f"there is no option {word}: settings are typed without dashes, {meant}={value}"


def _parted(name: str, value: str) -> str:
    return f"no blanks around the =: type {name}={value}"


def _bare(arguments: Sequence[str]) -> str:
    """For names alone: the settings that they may be the values of."""
    typed = [f"{group}={word}" if "=" not in word and (group := group_of(word)) else word for word in arguments]
    return f"settings are typed as name=value: ssm-tune {' '.join(typed)}"


def _nearest(word: str, subcommands: Collection[str]) -> str:
    typed = {name: f"{group}={name}" for group in reversed(GROUPS) for name in names(group)}
    typed |= {name: name for name in subcommands}
    close = [typed[name] for name in get_close_matches(word, typed, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(subcommands))}"
